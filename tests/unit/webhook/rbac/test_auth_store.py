import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.memory_backend import MemoryBackend
from tests.support import refresh_as_requests_do
from tests.unit.webhook.rbac.store_model import Scratch, assert_same
from webhook.backends.sqlite import SQLiteBackend
from webhook.rbac import errors
from webhook.rbac.access import require_admin, roles_of
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.changes import (
    add_role,
    add_user,
    change_password,
    delete_role,
    delete_user,
    disable,
    enable,
    grant_group_role,
    grant_permission,
    grant_role,
    revoke_group_role,
    revoke_permission,
    revoke_role,
)
from webhook.rbac.errors import (
    AuthError,
    StoreLockedError,
    StoreUnavailableError,
)
from webhook.rbac.model import ROOT_PERMISSION, Permission, PermissionType, Role, User
from webhook.rbac.records import Backend, Record
from webhook.rbac.state import AuthState

READ, WRITE, READWRITE = PermissionType
A_TO_C = Permission(b"a", b"c", READ)
HASH = b"a bcrypt hash"

Operation = Callable[[AuthStore], object]


def doing(decide: Callable[..., Iterable[Record]], *arguments: object) -> Operation:
    return lambda store: store.change(decide, *arguments)


def prepared(backend: Backend | None = None) -> AuthStore:
    """Return a store with root, u (role r) and p (no password), r with one permission, group g."""
    store = AuthStore.loaded(backend or MemoryBackend())
    for role in ("root", "r", "free"):
        store.change(add_role, role)
    for name in ("root", "u"):
        store.change(add_user, name, HASH)
    store.change(add_user, "p")
    store.change(grant_role, "root", "root")
    store.change(grant_role, "u", "r")
    store.change(grant_permission, "r", A_TO_C)
    store.change(grant_group_role, "g", "r")
    return store


# The error of each operation; `enabled` says whether auth is on.
REFUSALS: list[tuple[str, Operation, bool, type[AuthError]]] = [
    ("no name", doing(add_user, ""), False, errors.UserEmptyError),
    ("user there", doing(add_user, "u"), False, errors.UserAlreadyExistsError),
    ("delete nobody", doing(delete_user, "x"), False, errors.UserNotFoundError),
    ("delete no name", doing(delete_user, ""), False, errors.UserNotFoundError),
    ("delete root", doing(delete_user, "root"), True, errors.InvalidAuthManagementError),
    ("password of nobody", doing(change_password, "x", HASH), False, errors.UserNotFoundError),
    ("grant to nobody", doing(grant_role, "x", "r"), False, errors.UserNotFoundError),
    ("grant no role", doing(grant_role, "u", "x"), False, errors.RoleNotFoundError),
    ("both are gone", doing(grant_role, "x", "x"), False, errors.UserNotFoundError),
    ("revoke of nobody", doing(revoke_role, "x", "r"), False, errors.UserNotFoundError),
    ("revoke not held", doing(revoke_role, "u", "free"), False, errors.RoleNotGrantedError),
    ("revoke no role", doing(revoke_role, "u", "x"), False, errors.RoleNotGrantedError),
    ("root of root", doing(revoke_role, "root", "root"), True, errors.InvalidAuthManagementError),
    ("role no name", doing(add_role, ""), False, errors.RoleEmptyError),
    ("role there", doing(add_role, "r"), False, errors.RoleAlreadyExistsError),
    ("delete no role", doing(delete_role, "x"), False, errors.RoleNotFoundError),
    ("delete role root", doing(delete_role, "root"), True, errors.InvalidAuthManagementError),
    (
        "grant no key",
        doing(grant_permission, "r", Permission(b"", b"", READ)),
        False,
        errors.InvalidAuthManagementError,
    ),
    (
        "grant backwards",
        doing(grant_permission, "r", Permission(b"b", b"a", READ)),
        False,
        errors.InvalidAuthManagementError,
    ),
    (
        "grant nothing to nobody",
        doing(grant_permission, "x", Permission(b"b", b"b", READ)),
        False,
        errors.InvalidAuthManagementError,
    ),
    ("to no role", doing(grant_permission, "x", A_TO_C), False, errors.RoleNotFoundError),
    (
        "revoke from no role",
        doing(revoke_permission, "x", b"a", b"c"),
        False,
        errors.RoleNotFoundError,
    ),
    (
        "revoke a part",
        doing(revoke_permission, "r", b"a", b"b"),
        False,
        errors.PermissionNotGrantedError,
    ),
    (
        "revoke the key",
        doing(revoke_permission, "r", b"a", b""),
        False,
        errors.PermissionNotGrantedError,
    ),
    ("group no name", doing(grant_group_role, "", "r"), False, errors.UserEmptyError),
    ("group no role", doing(grant_group_role, "g", "x"), False, errors.RoleNotFoundError),
    ("group not held", doing(revoke_group_role, "g", "free"), False, errors.RoleNotGrantedError),
    ("group unknown", doing(revoke_group_role, "x", "r"), False, errors.RoleNotGrantedError),
    ("show nobody", lambda s: s.user("x"), False, errors.UserNotFoundError),
    ("show no role", lambda s: s.role("x"), False, errors.RoleNotFoundError),
    ("admin: nobody", lambda s: require_admin(s.state, ""), True, errors.UserEmptyError),
    ("admin: unknown", lambda s: require_admin(s.state, "x"), True, errors.PermissionDeniedError),
    ("admin: not root", lambda s: require_admin(s.state, "u"), True, errors.PermissionDeniedError),
]


@pytest.mark.parametrize(
    ("operation", "enabled", "refusal"),
    [row[1:] for row in REFUSALS],
    ids=[row[0] for row in REFUSALS],
)
def test_refused_and_nothing_changed(
    operation: Operation, enabled: bool, refusal: type[AuthError]
) -> None:
    backend = MemoryBackend()
    store = prepared(backend)
    if enabled:
        store.change(enable)
    before = backend.load()
    with pytest.raises(refusal) as refused:
        operation(store)
    assert type(refused.value) is refusal
    assert str(refused.value) == f"etcdserver: {refusal.text}"
    assert backend.load() == before
    assert_same(store, Scratch(backend))


CHANGES: list[tuple[str, Operation, int]] = [
    ("add user", doing(add_user, "new", HASH), 1),
    ("add user without password", doing(add_user, "new"), 1),
    ("delete user", doing(delete_user, "u"), 1),
    ("delete root while disabled", doing(delete_user, "root"), 1),
    ("change password", doing(change_password, "u", b"other"), 1),
    ("change password of one without", doing(change_password, "p", b"other"), 1),
    ("grant role", doing(grant_role, "u", "free"), 1),
    ("grant role held", doing(grant_role, "u", "r"), 0),
    ("revoke role", doing(revoke_role, "u", "r"), 1),
    ("revoke root while disabled", doing(revoke_role, "root", "root"), 1),
    ("add role", doing(add_role, "new"), 1),
    ("delete role", doing(delete_role, "r"), 1),
    ("delete role root while disabled", doing(delete_role, "root"), 1),
    ("grant permission", doing(grant_permission, "r", Permission(b"x", b"", WRITE)), 1),
    ("grant the same again", doing(grant_permission, "r", A_TO_C), 1),
    ("grant to root", doing(grant_permission, "root", A_TO_C), 1),
    ("change type", doing(grant_permission, "r", Permission(b"a", b"c", WRITE)), 1),
    ("revoke permission", doing(revoke_permission, "r", b"a", b"c"), 1),
    ("grant group", doing(grant_group_role, "h", "r"), 1),
    ("grant group root", doing(grant_group_role, "h", "root"), 1),
    ("grant group held", doing(grant_group_role, "g", "r"), 0),
    ("revoke group", doing(revoke_group_role, "g", "r"), 1),
    ("enable", doing(enable), 0),
    ("disable while disabled", doing(disable), 0),
    ("no records", doing(lambda state: []), 0),
]


@pytest.mark.parametrize(
    ("operation", "bump"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES]
)
def test_a_change_is_written_and_counted(operation: Operation, bump: int, tmp_path: Path) -> None:
    backend = SQLiteBackend(tmp_path / "store.db")
    store = prepared(backend)
    before = store.revision
    operation(store)
    assert store.revision == before + bump
    store.close()
    again = AuthStore.loaded(SQLiteBackend(tmp_path / "store.db"))
    assert (again.revision, again.state.users) == (store.revision, store.state.users)
    assert (again.state.roles, again.state.groups) == (store.state.roles, store.state.groups)
    again.close()


def test_enabling_needs_root_and_its_role() -> None:
    store = AuthStore.loaded(MemoryBackend())
    with pytest.raises(errors.RootUserNotExistError):
        store.change(enable)
    store.change(add_user, "root", HASH)
    with pytest.raises(errors.RootRoleNotExistError):
        store.change(enable)
    store.change(grant_role, "root", "root")  # as in etcd, whether the role exists or not
    assert store.revision == 3
    store.change(enable)
    store.change(enable)
    assert (store.enabled, store.revision) == (True, 3)
    store.change(disable)
    assert (store.enabled, store.revision) == (False, 4)
    store.change(disable)
    assert store.revision == 4


def test_a_new_store_is_at_revision_1_and_disabled() -> None:
    store = AuthStore.loaded(MemoryBackend())
    assert (store.enabled, store.revision) == (False, 1)
    assert store.user_names() == store.role_names() == []
    require_admin(store.state, "")
    store.refresh()
    assert store.revision == 1


def test_roles_and_users_that_are_shown() -> None:
    store = prepared()
    store.change(add_user, "é")
    store.change(add_user, "\U0001f600")
    store.change(add_user, "\uffee")
    # In the order of their bytes, not of Python's characters.
    assert store.user_names() == ["p", "root", "u", "é", "\uffee", "\U0001f600"]
    assert store.role_names() == ["free", "r", "root"]
    assert store.role("root") == Role("root", (ROOT_PERMISSION,))
    store.change(grant_permission, "r", Permission(b"a", b"b", WRITE))
    store.change(grant_permission, "r", Permission(b"\xff", b"", READWRITE))
    store.change(grant_permission, "r", Permission(b"a", b"\0", READ))
    assert store.role("r").permissions == (
        Permission(b"a", b"\0", READ),
        Permission(b"a", b"b", WRITE),
        A_TO_C,
        Permission(b"\xff", b"", READWRITE),
    )
    assert store.user("u") == User("u", HASH, ("r",), 6)


def test_deleting_a_role_removes_it_from_all_users_and_its_grants() -> None:
    store = prepared()
    store.change(grant_group_role, "g", "free")
    store.change(delete_role, "r")
    assert store.user("u").roles == ()
    assert store.state.groups["g"].roles == ("free",)
    store.change(add_role, "r")
    assert store.role("r").permissions == ()
    store.change(delete_role, "free")
    assert "g" not in store.state.groups
    assert roles_of(store.state, "u", ["g", "none"]) == frozenset()


def test_a_password_change_of_a_user_without_one_sets_none() -> None:
    store = prepared()
    before = store.user("p")
    store.change(change_password, "p", HASH)
    assert store.user("p").password_hash == b""
    assert store.user("p").generation > before.generation


def test_a_name_that_is_not_text_is_not_written() -> None:
    """It could never be shown: neither JSON nor a protocol buffer can hold it."""
    store = prepared(MemoryBackend())
    revision = store.revision
    for write in (
        doing(add_role, "\ud800"),
        doing(grant_group_role, "\ud800", "r"),
        doing(add_user, "\ud800"),
    ):
        with pytest.raises(UnicodeEncodeError):
            write(store)
    assert store.revision == revision


class Held(SQLiteBackend):
    """A database whose ``changes`` return only when released."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.is_holding = False
        self.read, self.let_go = Event(), Event()

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        found = super().changes(after, wait=wait)
        if self.is_holding:
            self.is_holding = False
            self.read.set()
            assert self.let_go.wait(5)
        return found


def test_refresh_reads_what_is_here_while_another_thread_waits_for_more(tmp_path: Path) -> None:
    backend = Held(tmp_path / "store.db")
    ours = AuthStore.loaded(backend)
    theirs = AuthStore.loaded(SQLiteBackend(tmp_path / "store.db"))
    ours.refresh()
    theirs.change(add_user, "written")
    backend.is_holding = True
    writing = Thread(target=ours.change, args=(add_role, "r"))
    writing.start()
    assert backend.read.wait(5)
    ours.refresh()
    assert "written" in ours.state.users
    theirs.change(add_user, "later")
    ours.refresh()
    backend.let_go.set()
    writing.join()
    # What that thread had found is not applied to the later state.
    assert ours.user_names() == ["later", "written"]
    assert ours.role_names() == ["r"]
    assert_same(ours, Scratch(backend))
    theirs.close()
    ours.close()


def test_refresh_never_waits_for_a_decision(tmp_path: Path) -> None:
    ours = AuthStore.loaded(SQLiteBackend(tmp_path / "store.db"))
    theirs = AuthStore.loaded(SQLiteBackend(tmp_path / "store.db"))
    deciding, decided = Event(), Event()

    def decide(state: AuthState) -> Iterable[Record]:
        deciding.set()
        assert decided.wait(5)
        return add_role(state, "r")

    writing = Thread(target=ours.change, args=(decide,))
    writing.start()
    assert deciding.wait(5)
    ours.refresh()  # Nothing is to be applied.
    theirs.change(add_user, "written")
    for _ in range(2):
        with pytest.raises(StoreLockedError, match="is being read; try again"):
            ours.refresh()
    decided.set()
    refresh_as_requests_do(ours)
    assert "written" in ours.state.users
    writing.join()
    # It was decided again, on what came first.
    assert_same(ours, Scratch(theirs.backend))
    assert ours.role_names() == ["r"]
    theirs.close()
    ours.close()


@pytest.mark.parametrize("unread", [1, 2])
def test_refresh_fails_while_written_changes_are_locked(tmp_path: Path, unread: int) -> None:
    path = tmp_path / "store.db"
    ours, theirs = AuthStore.loaded(SQLiteBackend(path)), AuthStore.loaded(SQLiteBackend(path))
    ours.refresh()
    for number in range(unread):
        theirs.change(add_user, f"user{number}")
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreLockedError):
        ours.refresh()
    other.execute("ROLLBACK")
    ours.refresh()
    assert len(ours.state.users) == unread
    theirs.close()
    ours.close()


class Forgetful(SQLiteBackend):
    """A database whose feed never reaches back."""

    def changes(self, after: int, *, wait: bool = True) -> tuple[int, list[Record]] | None:
        super().changes(after, wait=wait)
        return None


def test_refresh_does_not_wait_to_load_everything(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    ours, theirs = AuthStore.loaded(Forgetful(path)), AuthStore.loaded(SQLiteBackend(path))
    theirs.change(add_user, "written")
    before = ours.state
    with pytest.raises(StoreLockedError, match="is being read; try again"):
        ours.refresh()
    refresh_as_requests_do(ours)
    assert "written" in ours.state.users
    assert (ours.state is before, before.users) == (False, {})
    ours.change(add_user, "ours")
    assert_same(ours, Scratch(theirs.backend))
    for opened in (ours, theirs):
        opened.close()


def test_refresh_reads_changes_of_others() -> None:
    backend = MemoryBackend()
    ours, theirs = prepared(backend), AuthStore.loaded(backend)
    ours.change(grant_permission, "r", Permission(b"x", b"", READ))
    assert not theirs.state.permissions(frozenset("r")).can_read(b"x")
    theirs.refresh()
    assert theirs.state.permissions(frozenset("r")).can_read(b"x")


def test_refresh_does_not_wait_for_a_writer_of_ours() -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(MemoryBackend):
        def commit(self, expected: int, records: Sequence[Record]) -> int:
            entered.set()
            assert release.wait(10)
            return super().commit(expected, records)

    store = AuthStore.loaded(Slow())
    writer = threading.Thread(target=store.change, args=(add_role, "r"))
    writer.start()
    assert entered.wait(10)
    store.refresh()  # would wait for ever
    release.set()
    writer.join()
    assert store.role_names() == ["r"]


def test_a_failed_write_leaves_everything_as_it_was() -> None:
    class Broken(MemoryBackend):
        broken = False

        def commit(self, expected: int, records: Sequence[Record]) -> int:
            if self.broken:
                raise StoreUnavailableError("no room")
            return super().commit(expected, records)

    backend = Broken()
    store = prepared(backend)
    backend.broken = True
    before = store.revision
    for operation in (
        doing(enable),
        doing(delete_role, "r"),
        doing(add_user, "n"),
    ):
        with pytest.raises(StoreUnavailableError):
            operation(store)
    assert store.revision == before
    assert_same(store, Scratch(backend))
    backend.broken = False
    store.change(add_user, "n")
    assert_same(store, Scratch(backend))


@pytest.fixture
def switching_threads_all_the_time() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching_threads_all_the_time")
def test_no_answer_is_older_than_a_change_that_has_returned() -> None:
    """Key n is granted by change n and revoked by change n + LAG, in one of two roles by turns."""
    lag, changes = 3, 600
    backend = MemoryBackend()
    store, other = prepared(backend), AuthStore.loaded(backend)
    store.change(grant_role, "u", "free")
    done, begun, finished = 0, 0, False
    failures: list[str] = []
    asked = 0

    def key(number: int) -> bytes:
        return b"%06d" % number

    def role(number: int) -> str:
        return ("r", "free")[number % 2]

    def read() -> None:
        nonlocal asked
        while not finished and not failures:
            before = done
            snapshot = store.state.permissions(roles_of(store.state, "u"))
            after = begun
            granted = range(max(1, after - lag + 1), before + 1)
            revoked = range(max(1, before - 20), before - lag + 1)
            wrong = [number for number in granted if not snapshot.can_write(key(number))]
            wrong += [number for number in revoked if snapshot.can_write(key(number))]
            if wrong:
                failures.append(f"keys {wrong} between changes {before} and {after}")
            asked += 1

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, changes + 1):
        begun = number
        store.change(grant_permission, role(number), Permission(key(number), b"", WRITE))
        if number > lag:
            store.change(revoke_permission, role(number - lag), key(number - lag), b"")
        done = number
        if number % 10 == 0:
            # A change of another process comes in between.
            other.change(add_user, f"user{number}")
            store.refresh()
    finished = True
    for reader in readers:
        reader.join()
    assert not failures
    assert asked > 100
    assert_same(store, Scratch(backend))


@pytest.mark.usefixtures("switching_threads_all_the_time")
def test_writers_of_several_stores_lose_no_change(tmp_path: Path) -> None:
    stores = [AuthStore.loaded(SQLiteBackend(tmp_path / "store.db")) for _ in range(3)]
    failures: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for i in range(20):
                while True:
                    try:
                        stores[number // 2].change(add_user, f"{number}-{i}")
                    except StoreLockedError:
                        continue  # SQLite is not fair: one may wait for longer than BUSY_SECONDS.
                    break
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    for store in stores:
        store.refresh()
        assert store.revision == 1 + 120
        assert sorted(store.user_names()) == sorted(f"{n}-{i}" for n in range(6) for i in range(20))
        store.close()
