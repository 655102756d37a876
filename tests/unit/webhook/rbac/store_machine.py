"""Any interleaving of changes, by several stores on one backend, against a state from scratch."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from time import CLOCK_BOOTTIME, clock_gettime, sleep
from typing import ClassVar, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.webhook.rbac.store_model import Scratch, assert_same
from webhook.rbac import changes, revocations
from webhook.rbac.access import explain_access, granting_roles
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import AuthError, StoreLockedError, StoreUnavailableError
from webhook.rbac.model import ROOT, Permission, PermissionType
from webhook.rbac.ranges import Range
from webhook.rbac.records import Backend, ConflictError, Record, TokenRecord, token_record
from webhook.rbac.revocations import FORGET_SECONDS, Lifetimes
from webhook.rbac.state import AuthState

NAMES = ("root", "a", "b", "é")
ROLES = ("root", "r1", "r2", "r3")
GROUPS = ("g1", "g2")
HASHES = (b"$2b$04$hash", b"$2b$10$hash", b"$2b$12$hash")
DIGESTS = (b"\0" * 32, b"\1" * 32, b"\xff" * 32)
KEYS = (b"\0", b"\1", b"\1\0", b"\xff", b"\xff\xff")
SECONDS = (0.0, 10.5, 5_000.0, 1e6, 1e9)
SPANS = [Range(key, end) for key in KEYS for end in (*KEYS, None) if end is None or key < end]

which = st.integers(0, 1)
names, roles, groups = (st.sampled_from(values) for values in (NAMES, ROLES, GROUPS))
seconds = st.sampled_from(SECONDS)
lifetimes = st.builds(Lifetimes, seconds, st.sampled_from((0.0, 1e9, float("inf"))))
keys, ends = st.sampled_from(KEYS), st.sampled_from((b"", *KEYS))


class Shared:
    """What the stores of a run share: a place for data, which is empty at first."""

    def open(self) -> Backend:
        """Return a backend that was not used yet."""
        raise NotImplementedError

    def compact(self) -> None:
        """Forget deleted records, where that can be done at will."""

    def close(self) -> None:
        """End what the backends need."""


class Colliding:
    """A backend whose commits fail as often as it is told, as if others were always faster."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.conflicts = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def commit(self, expected: int, records: Sequence[Record]) -> int:
        if self.conflicts:
            self.conflicts -= 1
            raise ConflictError
        return self._backend.commit(expected, records)


class Stores(RuleBasedStateMachine):
    """Two stores. A kind of backend is tested by a subclass whose ``share`` makes its place."""

    share: ClassVar[Callable[[], Shared]]

    def __init__(self) -> None:
        super().__init__()
        self.shared = type(self).share()
        self.observer = self.shared.open()
        self.colliding: list[Colliding] = []
        self.stores = [self.open(), self.open()]
        self.seen = [1, 1]

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.observer.close()
        self.shared.close()

    def open(self) -> AuthStore:
        self.colliding.append(Colliding(self.shared.open()))
        backend = cast("Backend", self.colliding[-1])
        return AuthStore.loaded(backend, lambda: clock_gettime(CLOCK_BOOTTIME))

    def scratch(self) -> Scratch:
        return Scratch(self.observer)

    def collide_next(self, count: int) -> None:
        for backend in self.colliding:
            backend.conflicts = count

    def change(self, index: int, operation: Callable[[AuthStore], None], bumps: int = 1) -> None:
        """Make a change. It adds one to the auth revision, a refusal or a repetition none."""
        store = self.stores[index]
        before = self.scratch()
        try:
            operation(store)
        except AuthError:
            bumps = 0
            assert self.scratch().revision == before.revision
        after = self.scratch()
        if after.revision == before.revision:
            bumps = 0
        assert after.meta.revision == before.meta.revision + bumps
        assert_same(store, after)

    @initialize(enabled=st.booleans())
    def prepare(self, enabled: bool) -> None:
        store = self.stores[0]
        for role in ("root", "r1"):
            store.change(changes.add_role, role)
        for name in ("root", "a"):
            store.change(changes.add_user, name, b"hash of it")
        store.change(changes.grant_role, "root", "root")
        store.change(changes.grant_role, "a", "r1")
        if enabled:
            store.change(changes.enable)

    @rule(index=which)
    def enable(self, index: int) -> None:
        self.change(index, lambda store: store.change(changes.enable), bumps=0)

    @rule(index=which)
    def disable(self, index: int) -> None:
        self.change(index, lambda store: store.change(changes.disable))

    @rule(index=which, name=names, password=st.sampled_from((b"", b"hash", *HASHES)))
    def add_user(self, index: int, name: str, password: bytes) -> None:
        self.change(index, lambda store: store.change(changes.add_user, name, password))

    @rule(index=which, name=names)
    def delete_user(self, index: int, name: str) -> None:
        self.change(index, lambda store: store.change(changes.delete_user, name))
        if name not in self.stores[index].state.users:
            assert name not in self.stores[index].state.tokens_of_user

    @rule(index=which, name=names, password=st.sampled_from(HASHES))
    def change_password(self, index: int, name: str, password: bytes) -> None:
        self.change(index, lambda store: store.change(changes.change_password, name, password))
        assert name not in self.stores[index].state.tokens_of_user

    @rule(index=which, name=names, role=roles)
    def grant_role(self, index: int, name: str, role: str) -> None:
        self.change(index, lambda store: store.change(changes.grant_role, name, role))

    @rule(index=which, name=names, role=roles)
    def revoke_role(self, index: int, name: str, role: str) -> None:
        self.change(index, lambda store: store.change(changes.revoke_role, name, role))

    @rule(index=which, role=roles)
    def add_role(self, index: int, role: str) -> None:
        self.change(index, lambda store: store.change(changes.add_role, role))

    @rule(index=which, role=roles)
    def delete_role(self, index: int, role: str) -> None:
        self.change(index, lambda store: store.change(changes.delete_role, role))

    @rule(index=which, role=roles, key=keys, range_end=ends, kind=st.sampled_from(PermissionType))
    def grant_permission(
        self, index: int, role: str, key: bytes, range_end: bytes, kind: PermissionType
    ) -> None:
        permission = Permission(key, range_end, kind)
        self.change(index, lambda store: store.change(changes.grant_permission, role, permission))

    @rule(index=which, role=roles, key=keys, range_end=ends)
    def revoke_permission(self, index: int, role: str, key: bytes, range_end: bytes) -> None:
        self.change(
            index, lambda store: store.change(changes.revoke_permission, role, key, range_end)
        )

    @rule(index=which, data=st.data())
    def revoke_a_permission_that_is_there(self, index: int, data: st.DataObject) -> None:
        held = [(r.name, p) for r in self.scratch().roles.values() for p in r.permissions]
        if held:
            role, permission = data.draw(st.sampled_from(held))
            self.revoke_permission(index, role, permission.key, permission.range_end)

    @rule(index=which, group=groups, role=roles)
    def grant_group_role(self, index: int, group: str, role: str) -> None:
        self.change(index, lambda store: store.change(changes.grant_group_role, group, role))

    @rule(index=which, group=groups, role=roles)
    def revoke_group_role(self, index: int, group: str, role: str) -> None:
        self.change(index, lambda store: store.change(changes.revoke_group_role, group, role))

    @rule(index=which, digest=st.sampled_from(DIGESTS), name=st.sampled_from((*NAMES, "")))
    def put_token(self, index: int, digest: bytes, name: str) -> None:
        def decide(state: AuthState) -> list[Record]:
            token = TokenRecord(name, 1.5) if name in state.users else None
            return [token_record(digest, token)]

        self.change(index, lambda store: store.change(decide), bumps=0)

    @rule(index=which, jti=st.sampled_from(("a", "sub:a", "jti:")), life=lifetimes, now=seconds)
    def revoke_jti(self, index: int, jti: str, life: Lifetimes, now: float) -> None:
        self.change(
            index, lambda store: store.change(revocations.revoke_jti, jti, life, now), bumps=0
        )
        kept = self.stores[index].state.revoked_jtis[jti]
        assert kept.before >= int(now)
        assert kept.until >= now + max(life.own, life.foreign)

    @rule(index=which, name=names, is_account=st.booleans(), life=lifetimes, now=seconds)
    def revoke_subject(
        self, index: int, name: str, is_account: bool, life: Lifetimes, now: float
    ) -> None:
        bumps = name in self.scratch().users
        self.change(
            index,
            lambda store: store.change(
                revocations.revoke_subject, name, life, now, is_account=is_account
            ),
            bumps,
        )
        assert name not in self.stores[index].state.tokens_of_user

    @rule(index=which, life=lifetimes, now=seconds)
    def tidy_revocations(self, index: int, life: Lifetimes, now: float) -> None:
        before = self.scratch()
        self.change(index, lambda store: store.change(revocations.tidy, life, now), bumps=0)
        after = self.stores[index].state
        assert after.lifetime.seconds == life.own
        for old, new in (
            (before.revoked["jti"], after.revoked_jtis),
            (before.revoked["subject"], after.revoked_subjects),
        ):
            assert new.keys() == {
                name for name, r in old.items() if now <= r.until + FORGET_SECONDS
            }
            assert all(new[name].before == old[name].before for name in new)
            assert all(new[name].until >= old[name].until for name in new)

    @rule(index=which)
    def refresh(self, index: int) -> None:
        store, since = self.stores[index], self.stores[index].now()
        while True:
            with suppress(StoreLockedError):
                basis = store.basis(since)
                break
            sleep(0.001)
        store.confirm_unchanged(basis)
        assert (basis.state, basis.revision) == (store.state, store.state.revision)
        assert_same(self.stores[index], self.scratch())

    @rule()
    def compact(self) -> None:
        self.shared.compact()

    @rule(count=st.integers(1, 3))
    def collide(self, count: int) -> None:
        self.collide_next(count)

    @rule(index=which)
    def collide_always(self, index: int) -> None:
        self.collide_next(1_000)
        before = self.stores[index].state.revision
        try:
            self.stores[index].change(changes.add_user, "never")
            raise AssertionError("it was written")
        except StoreUnavailableError:
            assert self.stores[index].state.revision >= before
        finally:
            self.collide_next(0)

    @rule(index=which)
    def start_again(self, index: int) -> None:
        self.stores[index].close()
        self.stores[index] = self.open()
        assert_same(self.stores[index], self.scratch())

    @rule(index=which, name=names, group=groups, span=st.sampled_from(SPANS))
    def ask(self, index: int, name: str, group: str, span: Range) -> None:
        store = self.stores[index]
        state = store.state
        user = state.users.get(name)
        held = {*(user.roles if user else ())}
        held |= set(state.groups[group].roles) if group in state.groups else set()
        for kind in (PermissionType.READ, PermissionType.WRITE):
            answer = bool(granting_roles(store.state, name, [group, "no such group"], [kind], span))
            explained = explain_access(store.state, name, [group], kind, span)
            assert answer == explained.allowed == (not explained.uncovered)
            assert set(explained.roles) <= held
            if ROOT in held:
                assert answer
            elif answer:
                assert explained.roles

    @invariant()
    def the_revision_never_goes_back(self) -> None:
        for index, store in enumerate(self.stores):
            assert store.revision >= self.seen[index]
            self.seen[index] = store.revision
