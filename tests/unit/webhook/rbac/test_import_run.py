"""Imports in several transactions: what each leaves, and what stops them."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from keys.keyring import Keyring
from tests.memory_backend import MemoryBackend
from tests.support import ISSUER, NOW, signing_key
from tests.unit.webhook.rbac.store_contents import similar_stores, store_with, stores
from tests.unit.webhook.rbac.store_model import Scratch, assert_same
from tests.unit.webhook.rbac.test_document import content_of, members_of, minimal
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import JWTTokens
from webhook.rbac.document import document_of
from webhook.rbac.document_reading import StoreContent, read_document
from webhook.rbac.errors import (
    DocumentError,
    InvalidAuthTokenError,
    StoreChangedError,
    TooLargeError,
)
from webhook.rbac.import_plan import ImportPlan
from webhook.rbac.import_run import ImportRun, MakePlan
from webhook.rbac.importing import plan_import
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.records import Record, TokenRecord, permission_record, token_record
from webhook.rbac.state import AuthState

LIMIT = 4032
# As many as the largest change of the stores that are drawn has.
SMALL = 8
some = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)


def content_from(store: AuthStore) -> StoreContent:
    return read_document(members_of(document_of(store.state)))


def planner(content: StoreContent, store: AuthStore, **how: bool) -> MakePlan:
    def make_plan(state: AuthState, *, is_first: bool) -> ImportPlan:
        options = how | {"restored": how.get("restored", False) and is_first}
        return plan_import(state, content, max_records=store.max_records, **options)

    return make_plan


def limited(store: AuthStore, max_records: int | None = SMALL) -> AuthStore:
    """Return a store on a copy of a store's records that limits its transactions."""
    backend = MemoryBackend()
    backend.commit(0, store.backend.load()[1])
    backend.max_records = max_records
    return AuthStore.loaded(backend)


def started(store: AuthStore, content: StoreContent, **how: bool) -> ImportRun:
    try:
        return ImportRun(store, planner(content, store, **how))
    except (DocumentError, TooLargeError):
        assume(False)
        raise


@some
@given(stores(), stores(), st.booleans(), st.booleans())
def test_the_same_state_as_in_one_transaction(
    store: AuthStore, exported: AuthStore, prune: bool, prune_revocations: bool
) -> None:
    how = {"prune": prune, "prune_revocations": prune_revocations}
    content = content_from(exported)
    several, one = limited(store), limited(store, None)
    run = started(several, content, **how)
    removed = [found for part in run.apply() for found in part]
    assert tuple(found for found, _ in removed) == run.plan.differences
    assert list(ImportRun(one, planner(content, one, **how)).apply()) == (
        [removed] if run.plan.differences else []
    )
    assert members_of(document_of(several.state))["metadata"]["authRevision"] == one.revision
    assert content_of(several.state) == content_of(one.state)
    assert several.state.users == one.state.users
    assert several.state.meta == one.state.meta
    assert_same(several, Scratch(several.backend))


@some
@given(stores(), stores(), st.booleans(), st.booleans())
def test_what_is_left_after_each_transaction_is_planned_again_alike(
    store: AuthStore, exported: AuthStore, prune: bool, prune_revocations: bool
) -> None:
    """So an import that was killed anywhere, and is repeated, ends in the same state."""
    how = {"prune": prune, "prune_revocations": prune_revocations}
    content = content_from(exported)
    several = limited(store)
    run = started(several, content, **how)
    for _ in run.apply():
        again = plan_import(several.state, content, max_records=SMALL, **how)
        assert again.differences == run.plan.differences[run.removed :]


@some
@given(similar_stores(), similar_stores(), st.booleans())
def test_no_transaction_allows_what_neither_the_old_nor_the_new_state_allows(
    store: AuthStore, exported: AuthStore, prune: bool
) -> None:
    several = limited(store, 4)
    run = started(several, content_from(exported), prune=prune)
    states = [several.state.copy()]
    states += [several.state.copy() for _ in run.apply()]
    for subject in "abgh":
        allowed = [granted_ranges(state, subject) for state in states]
        # Not only key by key: a range counts as allowed if all grants together cover it.
        assert all(found <= allowed[0] or found <= allowed[-1] for found in allowed)


def granted_ranges(state: AuthState, subject: str) -> set[tuple[bytes, bool]]:
    holder = state.users.get(subject) or state.groups.get(subject)
    return {
        (permission.key, writes)
        for role in (holder.roles if holder else ())
        for permission in state.roles[role].permissions
        for writes in (False, True)
        if (permission.type.writes if writes else permission.type.reads)
    }


@some
@given(stores(), stores(), st.booleans())
def test_no_transaction_takes_a_revocation_back(
    store: AuthStore, exported: AuthStore, prune: bool
) -> None:
    several = limited(store)
    before = several.state.copy()
    for _ in started(several, content_from(exported), prune=prune).apply():
        for of in ("revoked_jtis", "revoked_subjects"):
            for name, old in getattr(before, of).items():
                new = getattr(several.state, of)[name]
                assert new.before >= old.before
                assert new.until >= old.until


ROOT: dict[str, Any] = {"name": "root", "roles": ["root"], "noPassword": True}
ROLES: list[dict[str, Any]] = [
    {"name": "root", "permissions": []},
    {"name": "app", "permissions": [{"permission": "READ", "prefix": "/a/"}]},
]
USERS = [{"name": f"user-{n:05}", "roles": ["app"], "noPassword": True} for n in range(10_000)]
ON = {"enabled": True}


def large(max_records: int | None = LIMIT) -> tuple[AuthStore, StoreContent]:
    """Return a store as `leeway init` makes it, and a document with many users."""
    store = limited(store_with([]), max_records)
    store.change(changes.add_role, "root")
    store.change(changes.add_user, "root")
    store.change(changes.grant_role, "root", "root")
    store.change(changes.enable)
    content = read_document(
        minimal(auth=ON, users=[ROOT, *USERS], roles=ROLES, metadata={"authRevision": 1000})
    )
    return store, content


def test_ten_thousand_users() -> None:
    store, content = large()
    run = ImportRun(store, planner(content, store, prune=True))
    assert len(run.transactions) == 3
    assert all(len(found.records) <= LIMIT for found in run.transactions)
    assert sum(len(part) for part in run.apply()) == len(run.plan.differences) == 20_003
    assert len(store.state.users) == 10_001
    assert_same(store, Scratch(store.backend))
    again = ImportRun(store, planner(content, store, prune=True))
    assert not again.plan.differences
    assert not list(again.apply())


def test_an_import_that_was_killed_is_repeated() -> None:
    """Also the end of all auth tokens, which is in its first transaction, is not lost."""
    keyring = Keyring().with_new_key(signing_key("ES256"), 0)
    store, content = large()
    token = JWTTokens(store, keyring, ISSUER).assign(store.user("root"), NOW)
    next(ImportRun(store, planner(content, store)).apply())
    assert len(store.state.users) < 10_000
    with pytest.raises(InvalidAuthTokenError):
        JWTTokens(store, keyring, ISSUER).resolve(token, NOW)
    raised = store.state.meta.floor
    assert raised == 1000 + 2**20
    run = ImportRun(store, planner(content, store))
    assert not run.plan.differences[0].text.startswith("~ auth revision")
    list(run.apply())
    whole, _ = large(None)
    list(ImportRun(whole, planner(content, whole)).apply())
    assert content_of(store.state) == content_of(whole.state)
    assert store.state.meta == whole.state.meta


MEANWHILE: list[tuple[str, Callable[[AuthStore], None], bool]] = [
    ("same-differences", lambda s: s.change(changes.add_role, "other"), True),
    (
        "log-in",
        lambda s: s.change(lambda _: [token_record(b"t" * 32, TokenRecord("root", NOW))]),
        True,
    ),
    ("user-added", lambda s: s.change(changes.add_user, "carol"), False),
    ("user-added-that-is-wanted", lambda s: s.change(changes.add_user, "user-09999"), False),
    ("auth-disabled", lambda s: s.change(changes.disable), False),
]


@pytest.mark.parametrize("transactions", [0, 1, 2])
@pytest.mark.parametrize(
    ("meanwhile", "goes_on"), [m[1:] for m in MEANWHILE], ids=[m[0] for m in MEANWHILE]
)
def test_a_change_between_two_transactions(
    transactions: int, meanwhile: Callable[[AuthStore], None], goes_on: bool
) -> None:
    """Nothing is deleted, or changed, that was not shown: with `prune`, users that are new."""
    store, content = large()
    other = AuthStore.loaded(store.backend)
    # The document has no roles that it does not list, but those may be added.
    content = read_document(minimal(auth=ON, users=[ROOT, *USERS], metadata={"authRevision": 1000}))
    store.change(changes.add_role, "app")
    run = ImportRun(store, planner(content, store, prune=True))
    parts = run.apply()
    for _ in range(transactions):
        next(parts)
    other.load()
    meanwhile(other)
    if goes_on:
        list(parts)
        assert len(store.state.users) == 10_001
        return
    before = len(store.state.users)
    with pytest.raises(StoreChangedError) as error:
        list(parts)
    made = (
        f"only the first {run.removed} of {len(run.plan.differences)} changes were made"
        if transactions
        else "nothing was changed"
    )
    assert made in str(error.value)
    assert run.now is not None
    assert run.now.differences != run.plan.differences[run.removed :]
    assert abs(len(store.state.users) - before) <= 1


def test_a_restored_store_ends_all_auth_tokens() -> None:
    store, _ = large()
    content = content_from(store)
    revision = store.revision
    run = ImportRun(store, planner(content, store, restored=True))
    raised = revision + 2**20
    assert [found.text for found in run.plan.differences] == [
        f"~ auth revision: {raised}, and all auth tokens end"
    ]
    list(run.apply())
    assert (store.state.meta.revision, store.state.meta.floor) == (raised, raised)
    assert store.state.meta.enabled


def test_at_another_revision() -> None:
    store, content = large()
    make_plan, at = planner(content, store), store.state.revision
    for wrong in (0, at - 1, at + 1):
        with pytest.raises(StoreChangedError, match=f"at revision {at}, not {wrong}"):
            ImportRun(store, make_plan, wrong)
    run = ImportRun(store, make_plan, at)
    # Even if the differences stay the same.
    store.change(changes.add_role, "other")
    with pytest.raises(StoreChangedError, match="nothing was changed"):
        next(run.apply())
    assert len(list(ImportRun(store, make_plan, at + 1).apply())) == 3


def test_a_step_that_fits_into_no_transaction() -> None:
    """It is found out before anything is written."""
    store, _ = large(max_records=2)
    content = read_document(minimal(auth=ON, users=[{"name": "bob", "roles": ["root"]}]))
    list(ImportRun(store, planner(content, store)).apply())
    before = store.state.revision
    store.change(
        lambda _: [token_record(bytes([n]) * 32, TokenRecord("bob", NOW)) for n in range(2)]
    )
    content = read_document(minimal(auth=ON, users=[ROOT]))
    list(ImportRun(store, planner(content, store, prune=True)).apply())
    assert "bob" not in store.state.users
    assert store.state.revision > before
    huge = {"name": "x" * 2_000_000, "roles": [], "noPassword": True}
    content = read_document(minimal(auth=ON, users=[ROOT, huge]))
    before = store.state.revision
    with pytest.raises(TooLargeError, match="divide the largest user"):
        ImportRun(store, planner(content, store))
    assert store.state.revision == before


def only(_: AuthState, records: list[Record]) -> list[Record]:
    return records


def test_a_role_with_very_many_permissions_is_deleted_in_batches() -> None:
    store, _ = large()
    store.change(changes.add_role, "r")
    for start in range(0, 6000, 1500):
        records = [
            permission_record("r", Permission(b"k%d" % n, b"", PermissionType.READ))
            for n in range(start, start + 1500)
        ]
        store.change(only, records)
    content = read_document(minimal(auth=ON, roles=[ROLES[0]]))
    run = ImportRun(store, planner(content, store, prune=True))
    assert [found.text for found in run.plan.differences] == ["- role r"]
    assert len(run.transactions) > 1
    list(run.apply())
    assert "r" not in store.state.roles
