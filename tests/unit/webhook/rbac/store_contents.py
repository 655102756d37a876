"""Hypothesis strategies for the content of a store, and stores with it."""

from hypothesis import strategies as st

from tests.memory_backend import MemoryBackend
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import ROOT, Group, Permission, PermissionType, User
from webhook.rbac.ranges import OPEN_END, prefix_end
from webhook.rbac.records import (
    REVOKED_JTI,
    REVOKED_SUBJECT,
    AuthMeta,
    Lifetime,
    Record,
    Revocation,
    TokenRecord,
    group_record,
    lifetime_record,
    meta_record,
    permission_record,
    revocation_record,
    role_record,
    text_id,
    token_record,
    user_record,
)

# What YAML reads as another type, as syntax, or in another encoding.
ODD = (
    "no", "~", "null", "1:30", "0x1f", "1e3", ".inf", "2026-11-30", "2026-11-30T14:25:49Z", "<<",
    "=", "a: b", "- a", "#", "'", '"', "\\", "{", "&a", "*a", "!!str", "%", "?", " a ", "a\nb",
    "\t", "\0", "\x1b[2J", "\x7f", "\x85",
    "\u2028", "\u202e", "\ufeff", "é", "\U0001f4a5", "x" * 300,
)  # fmt: skip
HASHES = tuple(
    f"$2{letter}${cost}${'A' * 21}.{letter * 31}".encode()
    for letter, cost in (("b", "04"), ("y", "10"), ("a", "16"))
)

names = (
    st.sampled_from(("a", "b", "é")) | st.sampled_from(ODD) | st.text("ab\0\xff\n: ", min_size=1)
)
jtis = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=8)
keys = st.binary(min_size=1, max_size=3) | names.map(text_id)
seconds = st.integers(0, 4_000_000_000)
revocations = st.builds(
    lambda before, longer: Revocation(before, before + longer),
    seconds,
    st.floats(0, 4e9).map(float) | st.sampled_from((float("inf"), 5000.25)),
)
hashes = st.sampled_from((b"", *HASHES))


@st.composite
def permissions(draw: st.DrawFn) -> Permission:
    """Draw a permission that etcd's rules allow."""
    key = draw(keys)
    end = draw(st.sampled_from((b"", OPEN_END, prefix_end(key), key + b"\0", key + b"\xff")))
    return Permission(key, end, draw(st.sampled_from(PermissionType)))


@st.composite
def stores(draw: st.DrawFn) -> AuthStore:
    """Draw a store with any content that commands and requests can lead to."""
    revision = draw(st.integers(1, 60))
    roles = draw(st.dictionaries(names, st.lists(permissions(), max_size=3), max_size=4))
    if draw(st.booleans()):
        roles[ROOT] = []
    some_roles = st.sets(st.sampled_from((ROOT, *roles)), max_size=3)
    records = [meta_record(AuthMeta(enabled=False, revision=revision))]
    for role, granted in roles.items():
        records += [role_record(role), *(permission_record(role, p) for p in granted)]
    users = draw(st.dictionaries(names | st.just(ROOT), st.tuples(hashes, some_roles), max_size=4))
    if draw(st.booleans()):
        users[ROOT] = (b"", {ROOT})
        roles.setdefault(ROOT, [])
        records += [role_record(ROOT), meta_record(AuthMeta(enabled=True, revision=revision))]
    for number, (name, (password_hash, held)) in enumerate(users.items()):
        generation = draw(st.integers(0, revision))
        held_roles = tuple(sorted(held, key=text_id))
        records.append(user_record(User(name, password_hash, held_roles, generation)))
        records.append(token_record(bytes([number]) * 32, TokenRecord(name, 1.0)))
    for group, held in draw(st.dictionaries(names, some_roles, max_size=3)).items():
        records.append(group_record(Group(group, tuple(sorted(held, key=text_id)))))
    for what, called in ((REVOKED_JTI, jtis), (REVOKED_SUBJECT, names)):
        for name, entry in draw(st.dictionaries(called, revocations, max_size=3)).items():
            records.append(revocation_record(what, name, entry))
    lived = st.sampled_from((0.0, 3600.0, 31_536_000.0))
    records.append(
        lifetime_record(Lifetime(draw(lived), draw(st.sampled_from((0.0, 5000.5, 1e9)))))
    )
    return store_with(records)


@st.composite
def similar_stores(draw: st.DrawFn) -> AuthStore:
    """Draw a store with auth enabled and few names, so that two of them have much in common."""
    kinds = st.sampled_from((None, *PermissionType))
    roles = draw(st.dictionaries(st.sampled_from("rs"), st.tuples(kinds, kinds)))
    held = st.sets(st.sampled_from(sorted(roles))) if roles else st.just(set[str]())
    records = [meta_record(AuthMeta(enabled=True, revision=9)), role_record(ROOT)]
    records.append(user_record(User(ROOT, b"", (ROOT,), 1)))
    for role, granted in roles.items():
        records.append(role_record(role))
        for key, kind in zip((b"k", b"l"), granted, strict=True):
            if kind is not None:
                records.append(permission_record(role, Permission(key, b"", kind)))
    for name, roles_held in draw(st.dictionaries(st.sampled_from("ab"), held)).items():
        records.append(user_record(User(name, b"", tuple(sorted(roles_held)), 1)))
    for name, roles_held in draw(st.dictionaries(st.sampled_from("gh"), held)).items():
        records.append(group_record(Group(name, tuple(sorted(roles_held)))))
    return store_with(records)


def store_with(records: list[Record]) -> AuthStore:
    """Return a store that contains records, all written in one commit."""
    backend = MemoryBackend()
    backend.commit(0, records)
    return AuthStore.loaded(backend)
