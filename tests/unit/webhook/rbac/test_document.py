"""The document of a store: what is written is read again, and nothing else is."""

from typing import Any

import msgspec
import pytest
from hypothesis import given

from tests.unit.webhook.rbac.store_contents import HASHES, store_with, stores
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.document import Document, document_of
from webhook.rbac.document_reading import read_document
from webhook.rbac.errors import DocumentError
from webhook.rbac.import_plan import ImportPlan
from webhook.rbac.importing import plan_import
from webhook.rbac.model import Permission, PermissionType, User
from webhook.rbac.records import Record, permission_record, role_record, user_record
from webhook.rbac.state import AuthState

HASH = HASHES[1].decode()


def members_of(document: Document) -> Any:
    return msgspec.to_builtins(document)


def content_of(state: AuthState) -> Any:
    """Return the members of a state's document but those on where it is from."""
    members = members_of(document_of(state))
    del members["metadata"]
    return members


def records_of(plan: ImportPlan) -> list[Record]:
    """Return all records of a plan as one transaction."""
    return [record for found in plan.transactions(None) for record in found.records]


def imported(store: AuthStore, members: Any, **options: bool) -> AuthStore:
    """Import a document into a store."""
    content = read_document(members)
    store.change(lambda state: records_of(plan_import(state, content, **options)))
    return store


@given(stores())
def test_export_and_import_into_an_empty_store_is_the_identity(store: AuthStore) -> None:
    written = members_of(document_of(store.state))
    found = imported(store_with([]), written).state
    assert content_of(found) == content_of(store.state)
    assert found.revoked_jtis.keys() == store.state.revoked_jtis.keys()
    assert found.roles == store.state.roles
    assert found.groups == store.state.groups
    assert {(u.name, u.password_hash, u.roles) for u in found.users.values()} == {
        (u.name, u.password_hash, u.roles) for u in store.state.users.values()
    }
    assert not found.tokens


@given(stores())
def test_the_document_does_not_depend_on_the_order_of_changes(store: AuthStore) -> None:
    revision, records = store._backend.load()
    other = AuthState()
    other.apply(revision, reversed(records))
    assert msgspec.json.encode(document_of(other)) == msgspec.json.encode(document_of(store.state))


PERMISSIONS = [
    (b"a", b"", {"key": "a"}),
    (b"a", b"b", {"prefix": "a"}),
    (b"a", b"ab", {"key": "a", "rangeEnd": "ab"}),
    (b"a", b"\0", {"fromKey": "a"}),
    (b"\0", b"\0", {"prefix": ""}),
    (b"\0", b"", {"key": "\0"}),
    ("é".encode(), "ê".encode(), {"prefix": "é"}),
    (b"a\x7f", b"a\x80", {"prefix": "a\x7f"}),
    (b"a", b"a\x80", {"key": "YQ==", "rangeEnd": "YYA=", "encoding": "base64"}),
    (b"\xff", b"", {"key": "/w==", "encoding": "base64"}),
    (b"\xff", b"\0", {"fromKey": "/w==", "encoding": "base64"}),
    (b"\xfe", b"\xff", {"prefix": "/g==", "encoding": "base64"}),
]


@pytest.mark.parametrize(("key", "end", "members"), PERMISSIONS)
def test_keys_are_text_where_they_are_text(key: bytes, end: bytes, members: Any) -> None:
    permission = Permission(key, end, PermissionType.READ)
    store = store_with([role_record("r"), permission_record("r", permission)])
    written = members_of(document_of(store.state))
    assert written["roles"] == [
        {"name": "r", "permissions": [{"permission": "READ"} | members]}
    ] or written["roles"] == ({"name": "r", "permissions": ({"permission": "READ"} | members,)},)
    roles = read_document(written).roles
    assert roles is not None
    assert roles["r"].permissions == (permission,)


READ_TOO = [
    ({"fromKey": ""}, (b"\0", b"\0")),
    ({"key": "a", "rangeEnd": ""}, (b"a", b"")),
    ({"key": "a", "rangeEnd": "b"}, (b"a", b"b")),
    ({"key": "a", "rangeEnd": "\0"}, (b"a", b"\0")),
    ({"prefix": "", "encoding": "base64"}, (b"\0", b"\0")),
    ({"prefix": "/w==", "encoding": "base64"}, (b"\xff", b"\0")),
]


@pytest.mark.parametrize(("members", "span"), READ_TOO)
def test_other_forms_of_a_range_are_read(members: Any, span: tuple[bytes, bytes]) -> None:
    roles = read_document(
        minimal(roles=[{"name": "r", "permissions": [{"permission": "WRITE"} | members]}])
    ).roles
    assert roles is not None
    assert roles["r"].permissions == (Permission(*span, PermissionType.WRITE),)


def minimal(**members: object) -> Any:
    head = {"apiVersion": "leeway.dev/v1", "kind": "Store", "auth": {"enabled": False}}
    return {name: value for name, value in (head | members).items() if value is not None}


def user(**members: object) -> Any:
    return minimal(users=[{"name": "a", "roles": []}, {"name": "b", "roles": []} | members])


def permission(**members: object) -> Any:
    granted = {"permission": "READ"} | members
    entry = {name: value for name, value in granted.items() if value is not None}
    return minimal(
        roles=[{"name": "r", "permissions": [{"permission": "READ", "key": "k"}, entry]}]
    )


def revocation(**members: object) -> Any:
    entry = {"before": "2026-11-30T14:25:49Z", "until": "never"} | members
    return minimal(
        revocations=[{name: value for name, value in entry.items() if value is not None}]
    )


BAD: list[tuple[str, Any, str]] = [
    ("nothing", None, "it must be an object, not null"),
    ("a list", [], "it must be an object, not a list"),
    ("a text", "users", "it must be an object, not a string"),
    ("empty", {}, "apiVersion is missing"),
    ("no-version", minimal(apiVersion=None), "apiVersion is missing"),
    ("other-version", minimal(apiVersion="leeway.dev/v2"), "allowed is leeway.dev/v1"),
    ("other-kind", minimal(kind="LeewayConfiguration"), "allowed is Store"),
    ("cut", minimal(auth=None), "auth is missing"),
    ("cut-in-auth", minimal(auth={}), "auth.enabled is missing"),
    ("enabled-text", minimal(auth={"enabled": "tru"}), "auth.enabled must be true or false"),
    ("unknown", minimal(tokens=[]), "unknown field tokens"),
    ("other-case", minimal(Users=[]), "unknown field Users"),
    ("number-as-member", minimal() | {1: 2}, "the name of a field of the document must be"),
    ("users-object", minimal(users={}), "users must be a list"),
    ("users-null", minimal(users=None) | {"users": None}, "users must be a list"),
    ("user-number-as-member", minimal(users=[{None: 1}]), "the name of a field of users[0] must"),
    ("user-null", minimal(users=[None]), "users[0] must be an object"),
    ("user-unknown", user(options={}), "unknown field users[1].options"),
    ("user-name-number", user(name=7), "users[1].name must be a string"),
    ("user-name-bool", user(name=False), "users[1].name must be a string"),
    ("user-name-empty", user(name=""), "users[1].name is empty"),
    ("user-twice", user(name="a"), "users[1].name: 'a' is listed twice"),
    ("user-no-roles", minimal(users=[{"name": "a"}]), "users[0].roles is missing"),
    ("user-role-twice", user(roles=["r", "r"]), "users[1].roles[1]: 'r' is listed twice"),
    ("user-roles-text", user(roles="r"), "users[1].roles must be a list"),
    ("hash-empty", user(passwordHash=""), "users[1].passwordHash is not a bcrypt hash"),
    ("hash-plain", user(passwordHash="sesame"), "users[1].passwordHash is not a bcrypt hash"),
    ("hash-long", user(passwordHash=HASH + "a"), "users[1].passwordHash is not a bcrypt hash"),
    ("hash-line", user(passwordHash=HASH + "\n"), "users[1].passwordHash is not a bcrypt hash"),
    ("hash-salt", user(passwordHash=HASH[:28] + "a" + HASH[29:]), "is not a bcrypt hash"),
    ("hash-cost-low", user(passwordHash=HASH.replace("$10$", "$03$")), "has the cost 3; 4 to 16"),
    ("hash-cost-high", user(passwordHash=HASH.replace("$10$", "$31$")), "has the cost 31"),
    ("hash-number", user(passwordHash=7), "users[1].passwordHash must be a string"),
    ("hash-and-none", user(passwordHash=HASH, noPassword=True), "users[1] has a passwordHash and"),
    ("part-of-a-hash-as-member", user(**{"rol10$AB": 1}), "something in users[1] is not allowed"),
    ("long-member", user(**{"l" * 21: 1}), "something in users[1] is not allowed"),
    ("hash-as-member", user(**{HASH: 1}), "could be a secret, so it is not shown"),
    ("role-twice", minimal(roles=[{"name": "r", "permissions": []}] * 2), "roles[1].name: 'r' is"),
    ("role-name-empty", minimal(roles=[{"name": "", "permissions": []}]), "roles[0].name is empty"),
    ("permission-type", permission(permission="read"), "roles[0].permissions[1].permission is"),
    ("permission-type-number", permission(permission=2), "permissions[1].permission must be"),
    ("permission-none", permission(), "permissions[1] must have one of key, prefix and fromKey"),
    ("permission-two", permission(key="a", prefix="a"), "permissions[1] must have one of"),
    ("range-end-alone", permission(rangeEnd="a"), "permissions[1] must have one of"),
    ("range-end-prefix", permission(prefix="a", rangeEnd="b"), "rangeEnd belongs to a key"),
    ("key-empty", permission(key=""), "etcd's rules allow no such permission"),
    ("key-empty-open", permission(key="", rangeEnd="\0"), "etcd's rules allow no such permission"),
    ("range-empty", permission(key="b", rangeEnd="b"), "etcd's rules allow no such permission"),
    ("range-inverted", permission(key="b", rangeEnd="a"), "etcd's rules allow no such permission"),
    ("range-twice", permission(key="k"), "permissions[1] is on the same range as another one"),
    ("base64-bad", permission(key="%", encoding="base64"), "permissions[1].key is not base64"),
    ("base64-bits", permission(key="/x==", encoding="base64"), "permissions[1].key is not base64"),
    ("base64-text", permission(key="é", encoding="base64"), "permissions[1].key is not base64"),
    ("encoding", permission(key="a", encoding="hex"), "allowed is base64"),
    ("group-twice", minimal(groups=[{"name": "g", "roles": []}] * 2), "groups[1].name: 'g' is"),
    ("group-unknown", minimal(groups=[{"name": "g", "roles": [], "x": 1}]), "groups[0].x"),
    ("revocation-none", revocation(), "revocations[0] must have either a jti or a subject"),
    ("revocation-two", revocation(jti="a", subject="b"), "must have either a jti or a subject"),
    ("revocation-twice", minimal(revocations=revocation(jti="a")["revocations"] * 2), "is listed"),
    ("jti-empty", revocation(jti=""), "revocations[0].jti must be 1 to 256"),
    ("jti-long", revocation(jti="a" * 257), "revocations[0].jti must be 1 to 256"),
    ("jti-control", revocation(jti="a\n"), "revocations[0].jti must be 1 to 256"),
    ("subject-empty", revocation(subject=""), "revocations[0].subject is empty"),
    ("no-before", revocation(jti="a", before=None), "revocations[0].before is missing"),
    ("no-until", revocation(jti="a", until=None), "revocations[0].until is missing"),
    ("before-never", revocation(jti="a", before="never"), "revocations[0].before must be a time"),
    (
        "until-before-before",
        revocation(jti="a", until="2026-11-30T14:25:48Z"),
        "revocations[0].until is 2026-11-30T14:25:48Z, before its before, 2026-11-30T14:25:49Z",
    ),
    ("before-number", revocation(jti="a", before=7), "revocations[0].before must be a string"),
    (
        "before-zone",
        revocation(jti="a", before="2026-11-30T14:25:49+01:00"),
        "must be a time in UTC",
    ),
    ("before-no-zone", revocation(jti="a", before="2026-11-30T14:25:49"), "must be a time in UTC"),
    ("before-week", revocation(jti="a", before="2026-W01"), "must be a time in UTC"),
    ("before-fraction", revocation(jti="a", before="2026-11-30T14:25:49.5Z"), "a time in UTC"),
    ("before-late", revocation(jti="a", before="99999-11-30T14:25:49Z"), "must be a time in UTC"),
    ("until-no-day", revocation(jti="a", until="2026-02-30T14:25:49Z"), "[0].until must be a time"),
    ("revision-negative", minimal(metadata={"revision": -1}), "metadata.revision is -1"),
    ("revision-large", minimal(metadata={"authRevision": 1 << 63}), "metadata.authRevision is"),
    (
        "revision-not-exact-in-json",
        minimal(metadata={"authRevision": 1 << 53}),
        "0 to 9007199254740991 are allowed, and it can be left out",
    ),
    ("revision-bool", minimal(metadata={"authRevision": True}), "must be a whole number"),
    ("metadata-unknown", minimal(metadata={"name": "x"}), "unknown field metadata.name"),
    ("lifetime-negative", minimal(tokenLifetime={"seconds": -1}), "tokenLifetime.seconds must be"),
    ("lifetime-large", minimal(tokenLifetime={"seconds": 1e12}), "tokenLifetime.seconds must be"),
    ("lifetime-nan", minimal(tokenLifetime={"seconds": float("nan")}), "seconds must be a number"),
    ("lifetime-infinite", minimal(tokenLifetime={"seconds": float("inf")}), "must be a number"),
    (
        "lifetime-late",
        minimal(tokenLifetime={"seconds": 1, "earlierUntil": "9000-01-01T00:00:00Z"}),
        "tokenLifetime.earlierUntil is too late",
    ),
    (
        "jti-token",
        minimal(
            revocations=[
                {"jti": "eyJh.eyJz.c2ln", "before": "2026-11-30T14:25:49Z", "until": "never"}
            ]
        ),
        "revocations[0].jti is a token, not its jti",
    ),
    ("surrogate", user(name="\ud800"), "users[1].name has a lone surrogate"),
    ("surrogate-member", minimal() | {"\udc00": 1}, "has a lone surrogate"),
]


@pytest.mark.parametrize(("members", "text"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_document_is_refused_with_the_field(members: Any, text: str) -> None:
    with pytest.raises(DocumentError) as refused:
        read_document(members)
    assert text in str(refused.value)
    assert HASH[7:] not in str(refused.value)
    assert "`" not in str(refused.value)


def test_the_place_of_a_bad_name_takes_no_memory() -> None:
    # With a path for each entry it would take 40 GB.
    with pytest.raises(DocumentError, match="could be a secret"):
        read_document(minimal(**{"a1" * 100_000: ["x"] * 200_000}))


def test_aliases_are_read() -> None:
    permissions = [{"permission": "READ", "key": "k"}]
    roles = [{"name": name, "permissions": permissions} for name in ("a", "b")]
    content = read_document(minimal(roles=roles))
    assert content.roles is not None
    assert content.roles["a"].permissions == content.roles["b"].permissions


def test_a_value_in_itself_is_refused() -> None:
    users: list[Any] = []
    users.append(users)
    with pytest.raises(DocumentError, match="the aliases in it repeat more than 100000 values"):
        read_document(minimal(users=users))


def test_a_hash_that_is_no_text_is_exported_and_not_imported() -> None:
    store = store_with([user_record(User("a", b"\xff"))])
    with pytest.raises(DocumentError, match=r"users\[0\]\.passwordHash is not a bcrypt hash"):
        read_document(members_of(document_of(store.state)))


def test_hashes_are_not_in_the_texts_of_a_content() -> None:
    assert HASH not in repr(read_document(user(passwordHash=HASH)))
