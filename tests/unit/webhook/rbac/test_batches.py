"""Changes that do not fit into one transaction of a store that limits them."""

from collections.abc import Sequence

import pytest

from tests.memory_backend import MemoryBackend
from tests.support import NOW
from tests.unit.webhook.rbac.store_model import Scratch, assert_same
from webhook.rbac import changes, revocations
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.batches import MAX_BATCH_BYTES, MAX_BATCH_RECORDS, Batches, batch, fits
from webhook.rbac.errors import InvalidAuthTokenError, RoleNotFoundError, TooLargeError
from webhook.rbac.model import Group, Permission, PermissionType, User
from webhook.rbac.records import (
    AuthMeta,
    Record,
    Revocation,
    TokenRecord,
    group_record,
    meta_record,
    permission_record,
    revocation_record,
    role_record,
    token_record,
    user_record,
)
from webhook.rbac.revocations import FORGET_SECONDS, Lifetimes
from webhook.rbac.simple_tokens import SimpleTokens, TokenUses

LIMIT = 4032
"""Of one transaction of etcd, less what the store itself writes."""
MANY = 10_000


class LimitedBackend(MemoryBackend):
    """Refuses what etcd refuses: too many records, and the same one twice. Counts commits."""

    def __init__(self, max_records: int | None = LIMIT) -> None:
        super().__init__(max_records)
        self.commits: list[int] = []
        self.may_repeat = True

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        ids = [(record.kind, record.id) for record in records]
        assert self.may_repeat or len(ids) == len(set(ids))
        revision = super().commit(expected, records)
        self.commits.append(len(records))
        return revision


def filled(backend: LimitedBackend, records: Sequence[Record]) -> AuthStore:
    """Fill a backend with any number of records, and return a store on it."""
    limit, backend.max_records = backend.max_records, None
    backend.commit(0, records)
    backend.max_records = limit
    backend.commits.clear()
    backend.may_repeat = False
    return AuthStore.loaded(backend)


def digest(number: int) -> bytes:
    return b"%032d" % number


def users(count: int, *roles: str) -> list[Record]:
    return [user_record(User(f"user-{number}", b"", roles, 1)) for number in range(count)]


BACKENDS = pytest.mark.parametrize("limit", [None, LIMIT], ids=["no-limit", "limit"])


@BACKENDS
def test_disabling_auth_ends_any_number_of_tokens_at_once(limit: int | None) -> None:
    backend = LimitedBackend(limit)
    tokens = [token_record(digest(n), TokenRecord("user-0", NOW)) for n in range(MANY)]
    store = filled(backend, [*users(1), *tokens, meta_record(AuthMeta(enabled=True))])
    provider = SimpleTokens(store, TokenUses(store))
    own = provider.assign(store.user("user-0"), NOW)
    assert provider.resolve(own, NOW) == "user-0"
    store.change(changes.disable)
    assert len(backend.commits) == 2
    with pytest.raises(InvalidAuthTokenError):
        provider.resolve(own, NOW)
    store.change(lambda s: [meta_record(replace_enabled(s.meta))])
    with pytest.raises(InvalidAuthTokenError):
        provider.resolve(own, NOW)
    # Each log-in deletes some of them, and the one that was made is in use.
    left, log_ins = len(store.state.tokens), 0
    while left > log_ins:
        new = provider.assign(store.user("user-0"), NOW)
        log_ins += 1
        assert provider.resolve(new, NOW) == "user-0"
        assert len(store.state.tokens) == max(left - log_ins * (MAX_BATCH_RECORDS - 1), log_ins)
        if len(store.state.tokens) == log_ins:
            break
    assert max(backend.commits) <= MAX_BATCH_RECORDS + 1
    assert_same(store, Scratch(backend))


def replace_enabled(meta: AuthMeta) -> AuthMeta:
    return AuthMeta(True, meta.revision, meta.token_epoch, meta.floor)


def test_a_use_restores_no_token_of_an_earlier_epoch() -> None:
    backend = LimitedBackend()
    store = filled(backend, [*users(1), meta_record(AuthMeta(enabled=True))])
    elsewhere = AuthStore.loaded(backend)
    uses = TokenUses(elsewhere)
    provider = SimpleTokens(elsewhere, uses)
    token = provider.assign(elsewhere.user("user-0"), NOW)
    assert provider.resolve(token, NOW + 200) == "user-0"
    store.change(lambda s: [r for r in changes.disable(s) if r.kind == "meta"])
    uses.write()
    assert not uses
    with pytest.raises(InvalidAuthTokenError):
        provider.resolve(token, NOW + 201)


@BACKENDS
def test_a_role_with_many_holders_is_deleted(limit: int | None) -> None:
    backend = LimitedBackend(limit)
    permissions = [
        permission_record("r", Permission(b"k%d" % n, b"", PermissionType.READ))
        for n in range(2500)
    ]
    groups = [group_record(Group(f"group-{n}", ("other", "r"))) for n in range(100)]
    store = filled(
        backend,
        [role_record("r"), role_record("other"), *users(MANY, "other", "r"), *groups, *permissions],
    )
    before = store.revision
    store.change(changes.delete_role, "r")
    assert "r" not in store.state.roles
    assert "r" not in store.state.users_of_role
    assert {user.roles for user in store.state.users.values()} == {("other",)}
    assert {group.roles for group in store.state.groups.values()} == {("other",)}
    assert store.revision == before + len(backend.commits) == store.own_revision
    if limit is None:
        assert len(backend.commits) == 1
    else:
        assert max(backend.commits) <= limit
    assert_same(store, Scratch(backend))


class DyingBackend(LimitedBackend):
    """Stops after a number of commits, as a process that is killed."""

    left = 2

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        if not self.may_repeat:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return super().commit(expected, records)


def test_a_deletion_that_was_killed_is_repeated() -> None:
    backend = DyingBackend()
    store = filled(backend, [role_record("r"), *users(MANY, "r")])
    with pytest.raises(KeyboardInterrupt):
        store.change(changes.delete_role, "r")
    # A valid state, in which nobody has been granted anything.
    other = AuthStore.loaded(backend)
    assert len(other.state.users_of_role["r"]) == MANY - 2 * MAX_BATCH_RECORDS
    assert other.revision == 3
    backend.left = 100
    other.change(changes.delete_role, "r")
    with pytest.raises(RoleNotFoundError):
        other.role("r")


@pytest.mark.parametrize("end", ["delete", "password", "revoke"])
def test_a_user_with_many_tokens(end: str) -> None:
    backend = LimitedBackend()
    tokens = [token_record(digest(n), TokenRecord("user-0", NOW)) for n in range(MANY)]
    store = filled(backend, [*users(1), *tokens])
    if end == "delete":
        store.change(changes.delete_user, "user-0")
    elif end == "password":
        store.change(changes.change_password, "user-0", b"hash")
    else:
        store.change(revocations.revoke_subject, "user-0", Lifetimes(60.0), NOW, is_account=False)
    assert not store.state.tokens
    assert store.revision == 2
    assert max(backend.commits) <= LIMIT
    assert_same(store, Scratch(backend))


@BACKENDS
@pytest.mark.parametrize("what", ["forgotten", "extended"])
def test_a_hundred_thousand_revocations_are_tidied(what: str, limit: int | None) -> None:
    count = 100_000
    until = NOW - FORGET_SECONDS - 1 if what == "forgotten" else NOW
    backend = LimitedBackend(limit)
    store = filled(
        backend,
        [
            revocation_record("jti", f"{number}", Revocation(int(NOW) - 60, until))
            for number in range(count)
        ],
    )
    store.change(revocations.tidy, Lifetimes(3600.0, 86_400.0), NOW)
    if what == "forgotten":
        assert not store.state.revoked_jtis
    else:
        assert len(store.state.revoked_jtis) == count
        assert min(r.until for r in store.state.revoked_jtis.values()) > NOW + 86_000
    assert store.state.lifetime.seconds == 3600.0
    assert max(backend.commits) <= MAX_BATCH_RECORDS
    commits = len(backend.commits)
    store.change(revocations.tidy, Lifetimes(3600.0, 86_400.0), NOW)
    assert len(backend.commits) == commits


def test_uses_are_written_a_lot_at_a_time_the_shortest_life_first() -> None:
    backend = LimitedBackend()
    tokens = [token_record(digest(n), TokenRecord("user-0", NOW - n / MANY)) for n in range(MANY)]
    store = filled(backend, [*users(1), *tokens])
    uses = TokenUses(store)
    for number in range(MANY):
        uses.note(digest(number), NOW + 200, 300.0)
    uses.write()
    assert backend.commits == [MAX_BATCH_RECORDS]
    written = {d for d, record in store.state.tokens.items() if record.used == NOW + 200}
    assert written == {digest(n) for n in range(MANY - MAX_BATCH_RECORDS, MANY)}
    assert len(uses) == MANY - MAX_BATCH_RECORDS
    for _ in range(9):
        uses.write()
    assert not uses
    assert backend.commits == [MAX_BATCH_RECORDS] * 10


def test_what_cannot_be_divided_is_refused_before_it_is_written() -> None:
    backend = LimitedBackend(max_records=3)
    store = filled(backend, [])
    with pytest.raises(TooLargeError):
        store.change(lambda _: users(4))
    with pytest.raises(TooLargeError):
        store.change(lambda _: Batches(users(4), []))
    assert not store.state.users
    assert not backend.commits


def test_a_lot_is_limited_in_bytes_too() -> None:
    large = [replace_value(record, MAX_BATCH_BYTES // 3) for record in users(10)]
    assert len(batch(large)) == 2
    assert len(batch([replace_value(large[0], MAX_BATCH_BYTES)])) == 1
    assert batch([]) == []
    assert fits(large[:5], LIMIT)
    assert not fits(large[:7], LIMIT)
    assert fits(large, None)
    assert not fits(users(4), 3)
    assert Batches(large, large[:2]).next(None) == (large, True)
    assert Batches(large, large[:2]).next(LIMIT) == (large[:2], False)


def replace_value(record: Record, size: int) -> Record:
    return record._replace(value=bytes(size))


def test_revoking_again_what_is_forgotten() -> None:
    """The old one is no longer counted on, and its record must not be deleted beside the new one.

    etcd refuses a transaction that has the same key twice.
    """
    for subject in (False, True):
        backend = LimitedBackend()
        old = Revocation(1, 2.0)
        what = "subject" if subject else "jti"
        store = filled(backend, [revocation_record(what, name, old) for name in "ab"])
        if subject:
            store.change(revocations.revoke_subject, "a", Lifetimes(60.0), NOW, is_account=True)
            found = store.state.revoked_subjects
        else:
            store.change(revocations.revoke_jti, "a", Lifetimes(60.0), NOW)
            found = store.state.revoked_jtis
        assert found.keys() == {"a"}
        assert found["a"].before == int(NOW)
        assert_same(store, Scratch(backend))


def test_users_without_the_role_are_left_alone() -> None:
    backend = LimitedBackend()
    holder = User("holder", b"", ("r",), 1)
    store = filled(backend, [role_record("r"), user_record(holder), *users(5)])
    store.change(changes.delete_role, "r")
    assert backend.commits == [3]
