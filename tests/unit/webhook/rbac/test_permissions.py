import pytest

from webhook.rbac import permissions
from webhook.rbac.model import ROOT, Permission, PermissionType, Role, User
from webhook.rbac.permissions import Permissions, SnapshotCache

READ, WRITE, READWRITE = PermissionType
A, B, C = (frozenset(name) for name in ("a", "b", "c"))
AB = A | B


def make_cache() -> tuple[SnapshotCache, dict[str, Role]]:
    roles = {name: Role(name, (Permission(name.encode(), b"", READ),)) for name in "abc"}
    return SnapshotCache(roles.get), roles


def test_a_snapshot_is_kept_until_one_of_its_roles_changes() -> None:
    cache, roles = make_cache()
    made = {key: cache.make(key) for key in (A, B, AB, C)}
    assert made == {key: cache.get(key) for key in made}
    roles["a"] = Role("a", (Permission(b"new", b"", READ),))
    cache.drop("a")
    assert [cache.get(key) for key in (A, AB)] == [None, None]
    assert [cache.get(key) for key in (B, C)] == [made[B], made[C]]
    assert cache.make(AB).can_read(b"new")
    assert not cache.make(AB).can_read(b"a")


def test_a_role_that_does_not_exist_grants_nothing() -> None:
    cache, roles = make_cache()
    nothing = cache.make(frozenset(["gone"]))
    assert (nothing.read, nothing.write) == ((), ())
    roles["gone"] = roles["a"]
    cache.drop("gone")
    assert cache.make(frozenset(["gone"])).can_read(b"a")


def test_the_oldest_snapshot_is_dropped_above_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(permissions, "MAX_SNAPSHOTS", 2)
    cache, _ = make_cache()
    for key in (AB, B, C):
        cache.make(key)
    assert cache.get(AB) is None
    assert cache.get(B) is not None
    assert cache.get(C) is not None
    # Nothing of it is left.
    assert cache._sets_of_role == {"b": {B}, "c": {C}}
    cache.drop("a")
    cache.drop("b")
    cache.drop("c")
    assert cache._sets_of_role == {}
    assert cache._snapshots == {}


def test_no_role_at_all() -> None:
    empty = Permissions([])
    assert not empty.can_read(b"")
    assert not empty.can_write(b"a")
    assert not empty.can_read_range(b"", None)
    assert not empty.can_write_range(b"a", b"b")


@pytest.mark.parametrize(
    ("key", "range_end", "valid"),
    [
        (b"", b"", False),
        (b"", b"\0", False),
        (b"", b"a", False),
        (b"a", b"", True),
        (b"a", b"\0", True),
        (b"\0", b"\0", True),
        (b"a", b"a", False),
        (b"b", b"a", False),
        (b"a", b"a\0", True),
        (b"\xff", b"\xff\xff", True),
    ],
)
def test_a_permission_contains_a_key(key: bytes, range_end: bytes, valid: bool) -> None:
    assert Permission(key, range_end, READ).is_valid is valid


@pytest.mark.parametrize(
    ("kind", "reads", "writes"),
    [(READ, True, False), (WRITE, False, True), (READWRITE, True, True)],
)
def test_what_a_type_allows(kind: PermissionType, reads: bool, writes: bool) -> None:
    assert (kind.reads, kind.writes) == (reads, writes)


def test_a_user_does_not_show_its_password() -> None:
    user = User("u", b"$2b$secret", (ROOT,), 7)
    assert "secret" not in repr(user)
    assert user.has_root_role
    assert not User("u").has_root_role
