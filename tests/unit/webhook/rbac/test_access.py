import threading
from collections.abc import Iterator

from tests.memory_backend import MemoryBackend
from webhook.rbac import changes
from webhook.rbac.access import explain_access, granting_roles, is_key_permitted
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import ROOT, Permission, PermissionType
from webhook.rbac.ranges import Range, from_wire
from webhook.rbac.records import Record

READ, WRITE, READWRITE = PermissionType
K = from_wire(b"k", b"")


def test_reasons_and_missing_ranges() -> None:
    store = AuthStore.loaded(MemoryBackend())
    for role in ("a", "b", "c", "root"):
        store.change(changes.add_role, role)
    store.change(changes.grant_permission, "a", Permission(b"a", b"c", READ))
    store.change(changes.grant_permission, "b", Permission(b"c", b"e", READWRITE))
    store.change(changes.grant_permission, "c", Permission(b"x", b"", READ))
    store.change(changes.add_user, "u")
    for role in ("a", "c"):
        store.change(changes.grant_role, "u", role)
    store.change(changes.grant_group_role, "g", "b")
    whole = Range(b"a", b"f")
    alone = explain_access(store.state, "u", (), READ, whole)
    assert (alone.allowed, alone.roles, alone.uncovered) == (False, ("a",), (Range(b"c", b"f"),))
    both = explain_access(store.state, "u", ["g"], READ, Range(b"b", b"e"))
    assert (both.allowed, both.roles, both.uncovered) == (True, ("a", "b"), ())
    write = explain_access(store.state, "u", ["g"], WRITE, Range(b"b", b"d"))
    assert (write.allowed, write.roles, write.uncovered) == (False, ("b",), (Range(b"b", b"c"),))
    nobody = explain_access(store.state, "x", ["y"], READ, whole)
    assert (nobody.allowed, nobody.roles, nobody.uncovered) == (False, (), (whole,))
    store.change(changes.grant_group_role, "admins", ROOT)
    root = explain_access(store.state, "x", ["y", "admins"], WRITE, Range(b"\0", None))
    assert (root.allowed, root.roles, root.uncovered) == (True, (ROOT,), ())
    assert granting_roles(store.state, "x", ["admins"], [WRITE], whole) == (ROOT,)


def test_no_answer_mixes_several_changes() -> None:
    """Another process takes a permission from a role, then gives the role to the user."""
    backend = MemoryBackend()
    ours, theirs = AuthStore.loaded(backend), AuthStore.loaded(backend)
    ours.change(changes.add_role, "r")
    ours.change(changes.grant_permission, "r", Permission(b"k", b"", READ))
    for name in ("u", "v"):
        ours.change(changes.add_user, name)
    ours.change(changes.grant_role, "v", "r")
    theirs.refresh()
    assert granting_roles(theirs.state, "v", (), [READ], K) == ("r",)
    ours.change(changes.revoke_permission, "r", b"k", b"")
    ours.change(changes.grant_role, "u", "r")
    feed = backend.changes(theirs.state.revision)
    assert feed is not None
    revision, records = feed
    answers: list[bool] = []
    asking: list[threading.Thread] = []

    def ask() -> None:
        answers.append(bool(granting_roles(theirs.state, "u", (), [READ], K)))

    def one_by_one() -> Iterator[Record]:
        for record in sorted(records, key=lambda record: record.kind == "permission"):
            yield record
            asking.append(threading.Thread(target=ask))
            asking[-1].start()
            asking[-1].join(0.05)  # it may have to wait until all is applied

    theirs.state.apply(revision, one_by_one())
    for thread in asking:
        thread.join()
    assert len(answers) == len(records)
    assert not any(answers)


def test_a_key_is_a_range_of_one() -> None:
    store = AuthStore.loaded(MemoryBackend())
    for role in ("r", "w", ROOT):
        store.change(changes.add_role, role)
    store.change(changes.grant_permission, "r", Permission(b"a", b"c", READ))
    store.change(changes.grant_permission, "w", Permission(b"b", b"", WRITE))
    for name, roles in (("u", ("r", "w")), ("v", ("w",)), ("all", (ROOT,)), ("none", ())):
        store.change(changes.add_user, name)
        for role in roles:
            store.change(changes.grant_role, name, role)
    answers = set()
    for user in ("u", "v", "all", "none", "nobody"):
        for key in (b"", b"a", b"a\0", b"b", b"b\0", b"c"):
            for kind in (READ, WRITE):
                one = is_key_permitted(store.state, user, (), kind, key)
                span = from_wire(key, b"")
                assert one == bool(granting_roles(store.state, user, (), [kind], span))
                answers.add((user, one))
    assert answers >= {("u", True), ("u", False), ("all", True), ("none", False)}
    assert ("all", False) not in answers
