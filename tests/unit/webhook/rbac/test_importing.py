"""What an import changes: exactly what single commands would, and what it must never do."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keys.keyring import Keyring
from tests.support import ISSUER, NOW, signing_key
from tests.unit.webhook.rbac.store_contents import HASHES, similar_stores, store_with, stores
from tests.unit.webhook.rbac.store_model import Scratch, assert_same
from tests.unit.webhook.rbac.test_document import content_of, members_of, minimal, records_of
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import JWTTokens
from webhook.rbac.document import document_of
from webhook.rbac.document_reading import StoreContent, read_document
from webhook.rbac.errors import DocumentError, InvalidAuthTokenError
from webhook.rbac.import_plan import ImportPlan
from webhook.rbac.importing import plan_import
from webhook.rbac.model import Group, Permission, PermissionType, User
from webhook.rbac.records import (
    Lifetime,
    Revocation,
    TokenRecord,
    lifetime_record,
    revocation_record,
    token_record,
)
from webhook.rbac.state import AuthState

options = st.fixed_dictionaries({"prune": st.booleans(), "prune_revocations": st.booleans()})
HASH, OTHER_HASH = (HASHES[1].decode(), HASHES[2].decode())


def content_from(store: AuthStore) -> StoreContent:
    return read_document(members_of(document_of(store.state)))


def accepted(state: AuthState, content: StoreContent, **how: bool) -> ImportPlan:
    """Return the plan of an import that is not refused."""
    try:
        return plan_import(state, content, **how)
    except DocumentError:
        assume(False)
        raise


def apply(store: AuthStore, plan: ImportPlan) -> AuthState:
    """Apply a plan, and return the state before it."""
    before = store.state.copy()
    store.change(lambda _: records_of(plan))
    return before


@given(stores(), stores(), options)
def test_a_second_import_changes_nothing(
    store: AuthStore, exported: AuthStore, how: dict[str, bool]
) -> None:
    content = content_from(exported)
    plan = accepted(store.state, content, **how)
    untouched = content_of(store.state)
    apply(store, plan)
    ended = [found.text for found in plan.differences if "all auth tokens end" in found.text]
    assert (content_of(store.state) == untouched) is (len(ended) == len(plan.differences))
    again = plan_import(store.state, content, **how)
    assert not again.differences
    assert not again.steps
    assert_same(store, Scratch(store._backend))


@given(stores(), stores(), options)
def test_a_plan_does_not_change_the_state(
    store: AuthStore, exported: AuthStore, how: dict[str, bool]
) -> None:
    accepted(store.state, content_from(exported), **how)
    assert_same(store, Scratch(store._backend))
    copied = store.state.copy()
    assert document_of(copied) == document_of(store.state)
    assert copied.highest_password_cost == store.state.highest_password_cost


@given(stores(), stores())
def test_an_import_that_prunes_makes_the_store_equal(store: AuthStore, exported: AuthStore) -> None:
    plan = accepted(store.state, content_from(exported), prune=True, prune_revocations=True)
    assert not plan.kept
    before = apply(store, plan)
    found, wanted = content_of(store.state), content_of(exported.state)
    # Only the lifetime is the longer one of the two, and the role root is never deleted.
    for content in (found, wanted):
        content["roles"] = [role for role in content["roles"] if role["name"] != "root"]
    lifetimes = [found.pop("tokenLifetime"), wanted.pop("tokenLifetime")]
    assert found == wanted
    assert lifetimes[0]["seconds"] == max(lifetimes[1]["seconds"], before.lifetime.seconds)
    assert store.state.lifetime.earlier_until >= before.lifetime.earlier_until


@given(stores(), stores(), st.booleans())
def test_what_is_revoked_stays_revoked(store: AuthStore, exported: AuthStore, prune: bool) -> None:
    before = apply(store, accepted(store.state, content_from(exported), prune=prune))
    for old, new, theirs in (
        (before.revoked_jtis, store.state.revoked_jtis, exported.state.revoked_jtis),
        (before.revoked_subjects, store.state.revoked_subjects, exported.state.revoked_subjects),
    ):
        for source in (old, theirs):
            for name, revocation in source.items():
                assert new[name].before >= revocation.before
                assert new[name].until >= revocation.until
    assert store.state.lifetime.seconds >= before.lifetime.seconds
    assert store.state.lifetime.earlier_until >= before.lifetime.earlier_until


@given(stores(), stores(), options)
def test_nobody_is_locked_out(store: AuthStore, exported: AuthStore, how: dict[str, bool]) -> None:
    apply(store, accepted(store.state, content_from(exported), **how))
    state = store.state
    if state.meta.enabled:
        assert state.users["root"].has_root_role
        store.change(changes.disable)
        store.change(changes.enable)
    held: list[User | Group] = [*state.users.values(), *state.groups.values()]
    assert {role for entry in held for role in entry.roles} <= {"root", *state.roles}
    for role in state.roles.values():
        assert all(permission.is_valid for permission in role.permissions)


@given(stores(), stores(), st.booleans())
def test_without_prune_nothing_is_deleted(
    store: AuthStore, exported: AuthStore, prune_revocations: bool
) -> None:
    content = content_from(exported)
    plan = accepted(store.state, content, prune_revocations=prune_revocations)
    before = apply(store, plan)
    state = store.state
    assert before.users.keys() <= state.users.keys()
    assert before.roles.keys() <= state.roles.keys()
    assert before.groups.keys() <= state.groups.keys()
    assert state.meta.enabled >= before.meta.enabled
    for section in ("users", "roles", "groups"):
        for name, entry in getattr(before, section).items():
            if name not in getattr(content, section):
                found: Any = getattr(state, section)[name]
                assert section == "roles" or found.roles == entry.roles
                assert section != "roles" or found == entry


@given(stores(), stores(), options)
def test_tokens_end_where_the_single_commands_end_them(
    store: AuthStore, exported: AuthStore, how: dict[str, bool]
) -> None:
    content = content_from(exported)
    before = apply(store, accepted(store.state, content, **how))
    state, theirs = store.state, exported.state.meta.revision
    is_bumped = state.meta.revision > before.meta.revision
    for name, user in state.users.items():
        old = before.users.get(name)
        is_same = old is not None and old.password_hash == user.password_hash
        if is_bumped and theirs > before.meta.revision:
            # No auth token of the other store, of whatever revision, is accepted.
            assert state.meta.floor > theirs + 1000
            assert state.meta.token_epoch > before.meta.token_epoch
        elif is_same:
            assert old is not None
            assert user.generation == old.generation
            tokens_stay = not before.meta.enabled or state.meta.enabled
            assert (name in state.tokens_of_user) is (name in before.tokens_of_user and tokens_stay)
        else:
            assert user.generation > before.meta.revision
            assert name not in state.tokens_of_user
        assert user.generation <= state.meta.revision
    assert state.tokens_of_user.keys() <= state.users.keys()


@settings(max_examples=200)
@given(similar_stores(), similar_stores(), st.booleans())
def test_no_step_allows_what_neither_the_old_nor_the_new_state_allows(
    store: AuthStore, exported: AuthStore, prune: bool
) -> None:
    states = [store.state]
    for step in accepted(store.state, content_from(exported), prune=prune).steps:
        state = states[-1].copy()
        state.apply(state.revision + 1, step.records)
        states.append(state)
    assert all(state.meta.enabled for state in states)
    for subject in "abgh":
        allowed = [granted_to(state, subject) for state in states]
        assert all(found <= allowed[0] | allowed[-1] for found in allowed)


def granted_to(state: AuthState, subject: str) -> set[tuple[bytes, bool]]:
    """Return the keys that a user or group is granted, each with whether for writing."""
    holder = state.users.get(subject) or state.groups.get(subject)
    return {
        (permission.key, writes)
        for role in (holder.roles if holder else ())
        for permission in state.roles[role].permissions
        for writes in (False, True)
        if (permission.type.writes if writes else permission.type.reads)
    }


@given(stores(), stores(), options)
def test_the_differences_show_no_hash(
    store: AuthStore, exported: AuthStore, how: dict[str, bool]
) -> None:
    plan = accepted(store.state, content_from(exported), **how)
    texts = repr((plan.differences, plan.kept))
    assert not any(password_hash.decode() in texts for password_hash in HASHES)
    assert len(plan.differences) == len(plan.revisions)
    assert len(plan.differences) == sum(step.is_last for step in plan.steps)
    assert list(plan.revisions) == sorted(plan.revisions)
    ids = [(record.kind, record.id) for record in records_of(plan)]
    assert len(ids) == len(set(ids))


def filled() -> AuthStore:
    """Return a store as `leeway init` makes it, with a user, a group and revocations more."""
    store = store_with([])
    granted = Permission(b"/a/", b"/a0", PermissionType.READ)
    store.change(changes.add_role, "root")
    store.change(changes.add_user, "root")
    store.change(changes.grant_role, "root", "root")
    store.change(changes.add_role, "app")
    store.change(changes.grant_permission, "app", granted)
    store.change(changes.add_user, "alice", HASH.encode())
    store.change(changes.grant_role, "alice", "app")
    store.change(changes.grant_group_role, "devs", "app")
    store.change(changes.enable)
    store.change(
        lambda _: [
            token_record(b"\1" * 32, TokenRecord("alice", 1.0)),
            revocation_record("jti", "j", Revocation(1_700_000_000, 1_800_000_000.0)),
            revocation_record("subject", "s", Revocation(1_700_000_000, float("inf"))),
            lifetime_record(Lifetime(3600.0)),
        ]
    )
    return store


ROOT = {"name": "root", "roles": ["root"]}
ALICE = {"name": "alice", "roles": ["app"]}
APP = {"name": "app", "permissions": [{"permission": "READ", "prefix": "/a/"}]}
ROOT_ROLE: dict[str, Any] = {"name": "root", "permissions": []}
ON = {"enabled": True}
RAISED = f"~ auth revision: {300 + 2**20}, and all auth tokens end"
PRUNE, PRUNE_REVOCATIONS = ("prune",), ("prune_revocations",)

DIFFERENCES: list[tuple[str, dict[str, Any], tuple[str, ...], list[str]]] = [
    ("nothing-listed", {}, (), []),
    ("nothing-listed-pruned", {}, PRUNE, []),
    ("disable-needs-prune", {"auth": {"enabled": False}}, (), []),
    ("disable", {"auth": {"enabled": False}}, PRUNE, ["- auth: disabled"]),
    ("same-user", {"users": [ALICE]}, (), []),
    ("same-hash", {"users": [ALICE | {"passwordHash": HASH}]}, (), []),
    (
        "password",
        {"users": [ALICE | {"passwordHash": OTHER_HASH}]},
        (),
        ["~ user alice: password: changed"],
    ),
    (
        "no-password",
        {"users": [ALICE | {"noPassword": True}]},
        (),
        ["~ user alice: password: removed"],
    ),
    (
        "password-of-one-without",
        {"users": [ROOT | {"passwordHash": HASH}]},
        (),
        ["~ user root: password: changed"],
    ),
    (
        "new-user",
        {"users": [{"name": "bob", "roles": ["app", "root"]}]},
        (),
        ["+ user bob, without a password", "+ user bob: role app", "+ user bob: role root"],
    ),
    (
        "new-user-with-password",
        {"users": [{"name": "bob", "roles": [], "passwordHash": HASH}]},
        (),
        ["+ user bob, with a password"],
    ),
    (
        "other-role",
        {"users": [ALICE | {"roles": ["new"]}], "roles": [{"name": "new", "permissions": []}]},
        (),
        ["- user alice: role app", "+ role new", "+ user alice: role new"],
    ),
    ("users-pruned", {"users": [ROOT]}, PRUNE, ["- user alice"]),
    (
        "permissions",
        {
            "roles": [
                {
                    "name": "app",
                    "permissions": [
                        {"permission": "WRITE", "key": "k"},
                        {"permission": "READ", "fromKey": "x"},
                    ],
                }
            ]
        },
        (),
        ["- role app: READ [/a/, /a0)", "+ role app: WRITE k", "+ role app: READ [x, <open ended>"],
    ),
    (
        "permission-type",
        {"roles": [APP | {"permissions": [{"permission": "READWRITE", "prefix": "/a/"}]}]},
        (),
        ["~ role app: READWRITE [/a/, /a0), was READ"],
    ),
    (
        "permission-type-that-allows-less",
        {
            "roles": [
                APP | {"permissions": [{"permission": "WRITE", "prefix": "/a/"}]},
            ]
        },
        (),
        [
            "- role app: READ [/a/, /a0)",
            "+ role app: WRITE [/a/, /a0)",
        ],
    ),
    (
        "role-pruned-from-holders",
        {"roles": [ROOT_ROLE]},
        PRUNE,
        ["- user alice: role app", "- group devs: role app", "- role app"],
    ),
    (
        "role-pruned-with-holders",
        {"roles": [ROOT_ROLE], "users": [ROOT], "groups": []},
        PRUNE,
        ["- group devs: role app", "- user alice", "- role app"],
    ),
    ("role-root-stays", {"roles": [APP]}, PRUNE, []),
    (
        "taken-away-before-it-is-granted",
        {
            "users": [ROOT, {"name": "bob", "roles": ["app"]}],
            "groups": [],
            "roles": [{"name": "app", "permissions": [{"permission": "WRITE", "key": "k"}]}],
        },
        PRUNE,
        [
            "- role app: READ [/a/, /a0)",
            "- group devs: role app",
            "- user alice",
            "+ role app: WRITE k",
            "+ user bob, without a password",
            "+ user bob: role app",
        ],
    ),
    (
        "quoted",
        {
            "users": [{"name": "bob: role root", "roles": []}],
            "groups": [{"name": "o'ps \\", "roles": ["app"]}],
            "roles": [
                {
                    "name": "a b",
                    "permissions": [
                        {"permission": "READ", "key": "/w==", "encoding": "base64"},
                        {"permission": "READ", "key": "/x", "rangeEnd": "/y, /z"},
                        {"permission": "READ", "key": "/x, /y", "rangeEnd": "/z"},
                        {"permission": "READ", "key": "[/a, <open ended>"},
                        {"permission": "READ", "key": "\\xff"},
                    ],
                }
            ],
        },
        (),
        [
            "+ role 'a b'",
            "+ role 'a b': READ [/x, '/y, /z')",
            "+ role 'a b': READ ['/x, /y', /z)",
            "+ role 'a b': READ '[/a, <open ended>'",
            "+ role 'a b': READ '\\\\xff'",
            "+ role 'a b': READ b'\\xff'",
            "+ user 'bob: role root', without a password",
            """+ group "o'ps \\\\": role app""",
        ],
    ),
    ("group-emptied", {"groups": [{"name": "devs", "roles": []}]}, (), ["- group devs: role app"]),
    (
        "group-new",
        {"groups": [{"name": "ops", "roles": ["root"]}]},
        PRUNE,
        ["- group devs: role app", "+ group ops: role root"],
    ),
    (
        "revocation-later",
        {"revocations": [{"jti": "j", "before": "2027-01-01T00:00:00Z", "until": "never"}]},
        (),
        ["~ revocation of jti j: tokens issued up to 2027-01-01T00:00:00Z, kept for ever"],
    ),
    (
        "revocation-earlier",
        {
            "revocations": [
                {"subject": "s", "before": "2020-01-01T00:00:00Z", "until": "2021-01-01T00:00:00Z"}
            ]
        },
        (),
        [],
    ),
    (
        "revocation-earlier-pruned",
        {
            "revocations": [
                {"subject": "s", "before": "2020-01-01T00:00:00Z", "until": "2021-01-01T00:00:00Z"}
            ]
        },
        PRUNE_REVOCATIONS,
        [
            "~ revocation of subject s: tokens issued up to 2020-01-01T00:00:00Z, kept until "
            "2021-01-01T00:00:00Z",
            "- revocation of jti j",
        ],
    ),
    (
        "revocation-new",
        {"revocations": [{"jti": "n", "before": "2020-01-01T00:00:00Z", "until": "never"}]},
        PRUNE,
        ["+ revocation of jti n: tokens issued up to 2020-01-01T00:00:00Z, kept for ever"],
    ),
    ("lifetime-shorter", {"tokenLifetime": {"seconds": 600}}, PRUNE_REVOCATIONS, []),
    (
        "lifetime-longer",
        {"tokenLifetime": {"seconds": 7200, "earlierUntil": "2026-11-30T00:00:00Z"}},
        (),
        ["~ lifetime of tokens: up to 7200s, of earlier ones until 2026-11-30T00:00:00Z"],
    ),
    ("older-store", {"metadata": {"authRevision": 3}, "users": [ALICE]}, (), []),
    ("newer-store-and-same", {"metadata": {"authRevision": 300}, "users": [ALICE]}, (), []),
    (
        "newer-store-and-same-pruned",
        {"metadata": {"authRevision": 300}, "users": [ROOT, ALICE]},
        PRUNE,
        [RAISED],
    ),
    (
        "newer-store",
        {"metadata": {"authRevision": 300}, "groups": []},
        PRUNE,
        [RAISED, "- group devs: role app"],
    ),
    (
        "newer-store-revocations-only",
        {"metadata": {"authRevision": 300}, "revocations": []},
        PRUNE_REVOCATIONS,
        ["- revocation of jti j", "- revocation of subject s"],
    ),
]


@pytest.mark.parametrize(
    ("sections", "how", "texts"), [d[1:] for d in DIFFERENCES], ids=[d[0] for d in DIFFERENCES]
)
def test_differences(sections: dict[str, Any], how: Iterable[str], texts: list[str]) -> None:
    store = filled()
    content = read_document(minimal(**({"auth": ON} | sections)))
    plan = plan_import(store.state, content, **dict.fromkeys(how, True))
    assert [difference.text for difference in plan.differences] == texts
    assert bool(records_of(plan)) is bool(texts)


REFUSED: list[tuple[str, dict[str, Any], tuple[str, ...], str]] = [
    ("unknown-role", {"users": [ALICE | {"roles": ["x"]}]}, (), r"users\[0\]\.roles names .* 'x'"),
    (
        "unknown-role-of-group",
        {"groups": [{"name": "g", "roles": ["x"]}]},
        (),
        r"groups\[0\]\.roles",
    ),
    ("role-that-is-pruned", {"users": [ROOT, ALICE], "roles": [ROOT_ROLE]}, PRUNE, r"users\[1\]"),
    ("root-pruned", {"users": [ALICE]}, PRUNE, "users lacks root"),
    ("root-without-role", {"users": [ROOT | {"roles": ["app"]}]}, (), "lacks the role root"),
    ("root-without-roles", {"users": [ROOT | {"roles": []}]}, PRUNE, "lacks the role root"),
    (
        "root-without-role-and-disable-not-pruned",
        {"users": [ROOT | {"roles": []}], "auth": {"enabled": False}},
        (),
        "lacks the role root",
    ),
]


@pytest.mark.parametrize(
    ("sections", "how", "text"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_would_lock_out_is_refused(
    sections: dict[str, Any], how: Iterable[str], text: str
) -> None:
    content = read_document(minimal(**({"auth": ON} | sections)))
    with pytest.raises(DocumentError, match=text):
        plan_import(filled().state, content, **dict.fromkeys(how, True))


@pytest.mark.parametrize("prune", [True, False])
@pytest.mark.parametrize("users", [None, [], [ALICE | {"roles": []}], [ROOT | {"roles": []}]])
def test_auth_is_not_enabled_without_root(users: Any, prune: bool) -> None:
    content = read_document(minimal(auth=ON, users=users))
    with pytest.raises(DocumentError, match="without which auth cannot be enabled"):
        plan_import(store_with([]).state, content, prune=prune)


def test_auth_tokens_of_the_exported_store_are_refused() -> None:
    """The two stores have the same signing key, as when a store is moved."""
    keyring = Keyring().with_new_key(signing_key("ES256"), 0)
    old, new = filled(), filled()
    for _ in range(3):
        old.change(changes.change_password, "alice", HASH.encode())
        token = JWTTokens(old, keyring, ISSUER).assign(old.user("alice"), NOW)
    old.change(changes.add_role, "last")
    own = JWTTokens(new, keyring, ISSUER).assign(new.user("root"), NOW)
    apply(new, plan_import(new.state, content_from(old)))
    for _ in range(10):
        for ended in (token, own):
            with pytest.raises(InvalidAuthTokenError):
                JWTTokens(new, keyring, ISSUER).resolve(ended, NOW)
        new.change(changes.change_password, "root", b"")
    fresh = JWTTokens(new, keyring, ISSUER).assign(new.user("alice"), NOW)
    assert JWTTokens(new, keyring, ISSUER).resolve(fresh, NOW) == "alice"


def test_what_is_kept_is_counted() -> None:
    content = read_document(minimal(users=[ROOT], roles=[], groups=[], revocations=[]))
    plan = plan_import(filled().state, content)
    assert plan.kept == (
        ("--prune", "1 user"),
        ("--prune", "1 role"),
        ("--prune", "1 group"),
        ("--prune", "auth, which stays enabled"),
        ("--prune-revocations", "2 revocations"),
    )
    assert not plan.differences


def test_what_is_taken_away_comes_before_what_is_granted() -> None:
    store = filled()
    key = Permission(b"k", b"", PermissionType.READWRITE)
    store.change(changes.add_role, "z")
    store.change(changes.grant_permission, "z", key)
    read, write = ({"permission": kind, "key": "k"} for kind in ("READ", "WRITE"))
    content = read_document(
        minimal(
            auth=ON,
            roles=[{"name": "a", "permissions": [write]}, {"name": "z", "permissions": [read]}],
        )
    )
    assert [found.text for found in plan_import(store.state, content).differences] == [
        "~ role z: READ k, was READWRITE",
        "+ role a",
        "+ role a: WRITE k",
    ]
