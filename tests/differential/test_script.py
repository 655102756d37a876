"""A fixed script through every operation and every error of etcd's auth API, at a real etcd too.

Where the two answer differently on purpose, the step says so with a ``Known``, which pins both
answers; every other step must be answered alike. Leeway matches etcd 3.6; where 3.5 answered
differently, both answers of etcd are written down, and its version selects one.
"""

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

import pytest

from .pair import NOBODY, ROOT, ROOT_PASSWORD, Pair, Reply, b64, etcd_program, unb64

_INVALID, _DENIED, _FAILED, _UNAUTHENTICATED = (400, 3), (403, 7), (400, 9), (401, 16)
_NO_IDENTITY = (*_INVALID, "etcdserver: user name is empty")
_AUTH_FAILED = (*_INVALID, "etcdserver: authentication failed, invalid user ID or password")
_INVALID_MANAGEMENT = (*_INVALID, "etcdserver: invalid auth management")
_PASSWORD_EMPTY = (*_INVALID, "the password is empty; use `--no-password` for none")

Refusal = tuple[int, int, str]


_AS_IN_3_5: Final = (0, 0, "")


class Known(NamedTuple):
    """Two answers that differ on purpose; None stands for a success."""

    reason: str
    etcd: Refusal | None
    leeway: Refusal | None
    etcd_3_6: Refusal | None = _AS_IN_3_5

    def answers(self) -> tuple[Refusal | None, Refusal | None]:
        """Return what the etcd in use and Leeway must answer."""
        return by_version(self.etcd, self.etcd_3_6), self.leeway


def by_version(etcd_3_5: Refusal | None, etcd_3_6: Refusal | None) -> Refusal | None:
    is_changed = etcd_program().is_3_6 and etcd_3_6 is not _AS_IN_3_5
    return etcd_3_6 if is_changed else etcd_3_5


# All known differences.
EMPTY_PASSWORD = Known(
    "contract 5: an empty password is refused; etcd hashes it", None, _PASSWORD_EMPTY
)
LONG_PASSWORD = Known(
    "contract 5: bcrypt looks at 72 bytes only; etcd 3.5.1 silently ignores the rest, and 3.6 "
    "answers with an internal error",
    None,
    (*_INVALID, "the password has 73 bytes, bcrypt takes 72; use a shorter one"),
    (500, 2, "bcrypt: password length exceeds 72 bytes"),
)
NO_PASSWORD_LOGIN = Known(
    "contract 5: a user without password is answered like a wrong password; in etcd 3.5.1 it is an "
    "error without a code",
    (500, 2, "auth: authentication failed, password was given for no password user"),
    _AUTH_FAILED,
)
RANGE_UNCHECKED = Known(
    "etcd 3.5.1 takes a range without keys; 3.6 (isValidPermissionRange in range_perm_cache.go) "
    "refuses it, and 3.6 is what the contract names",
    None,
    _INVALID_MANAGEMENT,
    _INVALID_MANAGEMENT,
)
ROOT_ROLE_IS_SHOWN = Known(
    "etcd 3.5.1 shows what was granted to the role root; 3.6 what it may: all (etcd #13006)",
    None,
    None,
)
NAMELESS_GET = Known(
    "contract 4: no identity is `user name is empty`; in etcd nobody may read the user ``''``",
    (*_FAILED, "etcdserver: user name not found"),
    _NO_IDENTITY,
)


class Step(NamedTuple):
    name: str
    body: Mapping[str, object]
    refused: Refusal | None = None
    """What both must answer; None for a success."""
    known: Known | None = None


def _grant(role: str, kind: str | None, key: bytes, end: bytes = b"") -> dict[str, object]:
    perm: dict[str, object] = {"key": b64(key)}
    if end:
        perm["range_end"] = b64(end)
    if kind is not None:
        perm["permType"] = kind
    return {"name": role, "perm": perm}


def _revoke(role: str, key: bytes, end: bytes = b"") -> dict[str, object]:
    body: dict[str, object] = {"role": role, "key": b64(key)}
    return body | ({"range_end": b64(end)} if end else {})


def _user(name: str, password: str = "pw") -> dict[str, object]:
    return {"name": name, "password": password}


def _text(reply: Reply) -> Refusal | None:
    if reply.status == 200:
        return None
    assert set(reply.body) == {"code", "message"}, reply
    return reply.status, reply.body["code"], reply.body["message"]


def _play(pair: Pair, caller: str, *steps: Step) -> list[Reply]:
    replies = []
    for step in steps:
        where = f"{step.name} {step.body} as {caller!r}"
        etcd, leeway = pair.call(step.name, step.body, caller)
        if step.known is not None:
            found = (_text(etcd), _text(leeway))
            assert found == step.known.answers(), f"{where}: {step.known.reason}"
        else:
            assert leeway == etcd, f"{where}: etcd {etcd}, Leeway {leeway}"
            assert _text(etcd) == step.refused, f"{where}: both {etcd}"
            if etcd.status == 200 and step.name in ("enable", "disable"):
                pair.enabled = step.name == "enable"
        replies.append(leeway)
    return replies


_NO_USER = (*_FAILED, "etcdserver: user name not found")
_NO_ROLE = (*_FAILED, "etcdserver: role name not found")
_ROLE_EMPTY = (*_INVALID, "etcdserver: role name is empty")
_USER_THERE = (*_FAILED, "etcdserver: user name already exists")
_ROLE_THERE = (*_FAILED, "etcdserver: role name already exists")
_NOT_HIS_ROLE = (*_FAILED, "etcdserver: role is not granted to the user")
_NOT_ITS_PERMISSION = (*_FAILED, "etcdserver: permission is not granted to the role")
_NO_PERMISSION = (*_INVALID, "etcdserver: permission not given")
_NO_ROOT = (*_FAILED, "etcdserver: root user does not exist")
_ROOT_HAS_NO_ROLE = (*_FAILED, "etcdserver: root user does not have root role")
_AUTH_OFF = (*_FAILED, "etcdserver: authentication is not enabled")
_FORBIDDEN = (*_DENIED, "etcdserver: permission denied")
_BAD_TOKEN = (*_UNAUTHENTICATED, "etcdserver: invalid auth token")
_OPTIONS: dict[str, object] = {"options": {"no_password": True}}

_USERS_AND_ROLES_WHILE_DISABLED = (
    Step("user/list", {}),
    Step("role/list", {}),
    Step("status", {}),
    Step("disable", {}),
    Step("enable", {}, _NO_ROOT),
    Step("authenticate", _user("alice"), _AUTH_OFF),
    Step("authenticate", {}, _AUTH_OFF),
    # Users.
    Step("user/add", _user(""), _NO_IDENTITY),
    Step("user/add", {}, _NO_IDENTITY),
    Step("user/add", {"name": ""} | _OPTIONS, _NO_IDENTITY),
    Step("user/add", _user("alice")),
    Step("user/add", _user("alice"), _USER_THERE),
    Step("user/add", {"name": "alice"} | _OPTIONS, _USER_THERE),
    Step("user/add", {"name": "cert"} | _OPTIONS),
    Step("user/add", {"name": "cert", "password": "given too"} | _OPTIONS, _USER_THERE),
    Step("user/add", {"name": "cert2", "password": "given too"} | _OPTIONS),
    Step("user/add", {"name": "camel", "options": {"noPassword": True}}),
    Step("user/add", {"name": "explicit", "password": "pw", "options": {"no_password": False}}),
    Step("user/add", {"name": "half", "password": "pw", "options": {}}),
    Step("user/add", {"name": "null", "password": "pw", "options": None}),
    Step("user/add", _user("longest", "x" * 72)),
    Step("user/add", _user("Ünïcode \u2603", "pässword")),
    Step("user/add", _user("with space/and\nline")),
    Step("user/add", _user("nul\0")),
    Step("user/get", {"name": "alice"}),
    Step("user/get", {"name": "Ünïcode \u2603"}),
    Step("user/get", {"name": "nobody"}, _NO_USER),
    Step("user/get", {}, _NO_USER),
    Step("user/delete", {"name": "nobody"}, _NO_USER),
    Step("user/delete", {}, _NO_USER),
    Step("user/changepw", _user("nobody"), _NO_USER),
    Step("user/changepw", {}, _NO_USER),
    Step("user/changepw", _user("alice", "other")),
    Step("user/changepw", _user("alice", "other")),
    Step("user/changepw", _user("cert", "pw")),
    Step("user/grant", {"user": "nobody", "role": "nothing"}, _NO_USER),
    Step("user/grant", {"user": "alice", "role": "nothing"}, _NO_ROLE),
    Step("user/grant", {"user": "alice"}, _NO_ROLE),
    Step("user/grant", {}, _NO_USER),
    Step("user/revoke", {"name": "nobody", "role": "nothing"}, _NO_USER),
    Step("user/revoke", {"name": "alice", "role": "nothing"}, _NOT_HIS_ROLE),
    Step("user/revoke", {"name": "alice"}, _NOT_HIS_ROLE),
    Step("user/revoke", {}, _NO_USER),
    # The role root can be granted before it exists, and to any user.
    Step("user/grant", {"user": "alice", "role": "root"}),
    Step("user/get", {"name": "alice"}),
    Step("role/get", {"role": "root"}, _NO_ROLE),
    Step("user/revoke", {"name": "alice", "role": "root"}),
    Step("user/revoke", {"name": "alice", "role": "root"}, _NOT_HIS_ROLE),
    # Roles.
    Step("role/add", {"name": ""}, _ROLE_EMPTY),
    Step("role/add", {}, _ROLE_EMPTY),
    Step("role/add", {"name": "r1"}),
    Step("role/add", {"name": "r1"}, _ROLE_THERE),
    Step("role/add", {"name": "r2"}),
    Step("role/add", {"name": "a-first"}),
    Step("role/get", {"role": "r1"}),
    Step("role/get", {"role": "nothing"}, _NO_ROLE),
    Step("role/get", {}, _NO_ROLE),
    Step("role/delete", {"role": "nothing"}, _NO_ROLE),
    Step("role/delete", {}, _NO_ROLE),
    Step("user/grant", {"user": "alice", "role": "r1"}),
    Step("user/grant", {"user": "alice", "role": "r1"}),
    Step("user/grant", {"user": "alice", "role": "a-first"}),
    Step("user/grant", {"user": "alice", "role": "r2"}),
    Step("user/grant", {"user": "camel", "role": "r1"}),
    Step("user/get", {"name": "alice"}),
    Step("status", {}),
    # Permissions.
    Step("role/grant", {"name": "r1"}, _NO_PERMISSION),
    Step("role/grant", {"name": "nothing"}, _NO_PERMISSION),
    Step("role/grant", {}, _NO_PERMISSION),
    Step("role/grant", {"name": "r1", "perm": None}, _NO_PERMISSION),
    Step("role/grant", _grant("nothing", "READ", b"k"), _NO_ROLE),
    Step("role/grant", _grant("r1", None, b"k")),
    Step("role/grant", _grant("r1", "READ", b"k")),
    Step("role/get", {"role": "r1"}),
    Step("role/grant", _grant("r1", "WRITE", b"k")),
    Step("role/grant", _grant("r1", "READWRITE", b"m", b"n")),
    Step("role/grant", _grant("r1", "READ", b"a", b"\0")),
    Step("role/grant", _grant("r1", "READ", b"\0", b"\0")),
    Step("role/grant", _grant("r1", "WRITE", b"\0\xff", b"\xff\0")),
    Step("role/grant", {"name": "r1", "perm": {"key": b64(b"num"), "permType": 2}}),
    Step("role/grant", {"name": "r1", "perm": {"key": b64(b"c"), "rangeEnd": b64(b"d")}}),
    Step("role/get", {"role": "r1"}),
    Step("role/revoke", _revoke("nothing", b"k"), _NO_ROLE),
    Step("role/revoke", {}, _NO_ROLE),
    Step("role/revoke", _revoke("r1", b"k", b"l"), _NOT_ITS_PERMISSION),
    Step("role/revoke", _revoke("r1", b"mm"), _NOT_ITS_PERMISSION),
    Step("role/revoke", {"role": "r1"}, _NOT_ITS_PERMISSION),
    Step("role/revoke", _revoke("r1", b"k")),
    Step("role/revoke", _revoke("r1", b"k"), _NOT_ITS_PERMISSION),
    Step("role/revoke", {"role": "r1", "key": b64(b"c"), "rangeEnd": b64(b"d")}),
    Step("role/revoke", _revoke("r1", b"a", b"\0")),
    Step("role/get", {"role": "r1"}),
    # A deleted role is removed from all users, and is empty when added again.
    Step("role/delete", {"role": "r1"}),
    Step("user/get", {"name": "alice"}),
    Step("user/get", {"name": "camel"}),
    Step("role/add", {"name": "r1"}),
    Step("role/get", {"role": "r1"}),
    Step("user/get", {"name": "alice"}),
    # A deleted user has no roles when added again.
    Step("user/delete", {"name": "alice"}),
    Step("user/get", {"name": "alice"}, _NO_USER),
    Step("user/add", _user("alice")),
    Step("user/get", {"name": "alice"}),
    Step("user/list", {}),
    Step("role/list", {}),
    Step("status", {}),
)

_ENABLING = (
    Step("user/add", _user(ROOT, ROOT_PASSWORD)),
    Step("enable", {}, _ROOT_HAS_NO_ROLE),
    Step("user/grant", {"user": ROOT, "role": "r2"}),
    Step("enable", {}, _ROOT_HAS_NO_ROLE),
    Step("user/grant", {"user": ROOT, "role": ROOT}),
    # Without the role itself; nothing protects root while auth is disabled.
    Step("role/add", {"name": ROOT}),
    Step("role/get", {"role": ROOT}, known=ROOT_ROLE_IS_SHOWN),
    Step("role/grant", _grant(ROOT, "READ", b"k")),
    Step("role/get", {"role": ROOT}, known=ROOT_ROLE_IS_SHOWN),
    Step("user/revoke", {"name": ROOT, "role": ROOT}),
    Step("role/delete", {"role": ROOT}),
    Step("user/delete", {"name": ROOT}),
    Step("enable", {}, _NO_ROOT),
    Step("user/add", _user(ROOT, ROOT_PASSWORD)),
    Step("role/add", {"name": ROOT}),
    Step("user/grant", {"user": ROOT, "role": ROOT}),
    Step("user/grant", {"user": "alice", "role": "r2"}),
    Step("status", {}),
    Step("enable", {}),
)

_AS_ROOT = (
    Step("status", {}),
    Step("enable", {}),
    Step("status", {}),
    Step("user/delete", {"name": ROOT}, _INVALID_MANAGEMENT),
    Step("user/revoke", {"name": ROOT, "role": ROOT}, _INVALID_MANAGEMENT),
    Step("role/delete", {"role": ROOT}, _INVALID_MANAGEMENT),
    Step("user/grant", {"user": ROOT, "role": ROOT}),
    Step("user/grant", {"user": ROOT, "role": "r2"}),
    Step("user/revoke", {"name": ROOT, "role": "r2"}),
    Step("user/revoke", {"name": ROOT, "role": "r2"}, _NOT_HIS_ROLE),
    Step("role/grant", _grant(ROOT, "WRITE", b"k")),
    Step("role/get", {"role": ROOT}, known=ROOT_ROLE_IS_SHOWN),
    Step("role/revoke", _revoke(ROOT, b"k")),
    Step("role/revoke", _revoke(ROOT, b"k"), _NOT_ITS_PERMISSION),
    Step("user/add", _user(ROOT), _USER_THERE),
    Step("role/add", {"name": ROOT}, _ROLE_THERE),
    Step("user/list", {}),
    Step("role/list", {}),
    Step("user/get", {"name": "nobody"}, _NO_USER),
    Step("role/get", {"role": "nothing"}, _NO_ROLE),
    Step("user/get", {}, _NO_USER),
    Step("role/get", {}, _NO_ROLE),
    Step("authenticate", _user("alice", "wrong"), _AUTH_FAILED),
    Step("authenticate", _user("alice", ""), _AUTH_FAILED),
    Step("authenticate", _user("nobody"), _AUTH_FAILED),
    Step("authenticate", {}, _AUTH_FAILED),
    Step("authenticate", _user("alice")),
    Step("authenticate", _user("cert", "pw"), known=NO_PASSWORD_LOGIN),
    Step("authenticate", _user("cert", ""), known=NO_PASSWORD_LOGIN),
    Step("authenticate", _user("cert2", "given too"), known=NO_PASSWORD_LOGIN),
    Step("authenticate", _user("Ünïcode \u2603", "pässword")),
)

_EVERY_ADMIN_CALL: tuple[tuple[str, dict[str, object]], ...] = (
    ("disable", {}),
    ("user/add", _user("carol")),
    ("user/add", {}),
    ("user/list", {}),
    ("user/delete", {"name": "bob"}),
    ("user/delete", {"name": "nobody"}),
    ("user/delete", {"name": ROOT}),
    ("user/changepw", _user("bob")),
    ("user/changepw", _user("alice", "own")),
    ("user/grant", {"user": "bob", "role": "r1"}),
    ("user/grant", {"user": "bob", "role": ROOT}),
    ("user/revoke", {"name": "bob", "role": "r1"}),
    ("user/revoke", {"name": ROOT, "role": ROOT}),
    ("role/add", {"name": "r3"}),
    ("role/add", {}),
    ("role/list", {}),
    ("role/delete", {"role": "r1"}),
    ("role/delete", {"role": ROOT}),
    ("role/grant", _grant("r1", "READ", b"k")),
    ("role/grant", {}),
    ("role/revoke", _revoke("r1", b"k")),
    ("user/get", {"name": "bob"}),
    ("user/get", {"name": "nobody"}),
    ("role/get", {"role": "r1"}),
    ("role/get", {"role": ROOT}),
    ("role/get", {"role": "nothing"}),
    ("role/get", {}),
)


def test_users_roles_and_permissions_while_auth_is_disabled(pair: Pair) -> None:
    _play(pair, NOBODY, *_USERS_AND_ROLES_WHILE_DISABLED)


def test_every_operation_and_every_error_with_auth_enabled(pair: Pair) -> None:
    _play(pair, NOBODY, *_USERS_AND_ROLES_WHILE_DISABLED, *_ENABLING)
    pair.log_in(ROOT, ROOT_PASSWORD)
    _play(pair, ROOT, *_AS_ROOT)


def _prepared(pair: Pair) -> None:
    pair.set_up_root()
    for name in ("r1", "r2"):
        pair.agree("role/add", {"name": name})
    for name in ("alice", "bob"):
        pair.agree("user/add", _user(name))
        pair.log_in(name, "pw")
    pair.agree("user/grant", {"user": "alice", "role": "r2"})
    pair.agree("role/grant", _grant("r2", "READ", b"a", b"b"))


def test_passwords_that_only_leeway_refuses(pair: Pair) -> None:
    _prepared(pair)
    _play(
        pair,
        ROOT,
        Step("user/add", _user("empty", ""), known=EMPTY_PASSWORD),
        Step("user/add", _user("long", "x" * 73), known=LONG_PASSWORD),
        Step("user/changepw", _user("alice", ""), known=EMPTY_PASSWORD),
        Step("user/add", {"name": "cert"} | _OPTIONS),
        Step("user/changepw", _user("cert", ""), known=EMPTY_PASSWORD),
    )


def test_a_plain_user_can_read_only_itself_and_its_roles(pair: Pair) -> None:
    _prepared(pair)
    _play(pair, "alice", *(Step(name, body, _FORBIDDEN) for name, body in _EVERY_ADMIN_CALL))
    _play(
        pair,
        "alice",
        Step("user/get", {"name": "alice"}),
        Step("role/get", {"role": "r2"}),
        Step("authenticate", _user("bob")),
        Step("authenticate", _user("bob", "wrong"), _AUTH_FAILED),
    )
    # Once the role is revoked, only root can read its details.
    _play(pair, ROOT, Step("user/revoke", {"name": "alice", "role": "r2"}))
    _play(pair, "alice", Step("role/get", {"role": "r2"}, _FORBIDDEN))
    # The role root makes any user an administrator.
    _play(pair, ROOT, Step("user/grant", {"user": "alice", "role": ROOT}))
    _play(pair, "alice", Step("user/list", {}), Step("user/delete", {"name": "bob"}))
    _play(pair, "alice", Step("user/delete", {"name": "alice"}))
    _play(pair, "alice", Step("user/list", {}, _BAD_TOKEN))


def test_without_identity(pair: Pair) -> None:
    _prepared(pair)
    _play(pair, NOBODY, *(Step(name, body, _NO_IDENTITY) for name, body in _EVERY_ADMIN_CALL))
    _play(
        pair,
        NOBODY,
        Step("authenticate", _user("bob")),
        Step("user/get", {"name": "bob"}, _NO_IDENTITY),
        Step("user/get", {}, known=NAMELESS_GET),
    )


def test_tokens_that_are_no_longer_valid(pair: Pair) -> None:
    _prepared(pair)
    calls: list[tuple[str, dict[str, object]]] = [*_EVERY_ADMIN_CALL, ("status", {})]
    calls += [("enable", {}), ("user/get", {"name": "bob"})]
    pair.tokens["forged"] = ("no.such.token", "no.such.token")
    _play(pair, "forged", *(Step(name, body, _BAD_TOKEN) for name, body in calls))
    _play(pair, "forged", Step("authenticate", _user("bob")))
    for token in ("x", "Basic YWxpY2U6cHc=", "Bearer x", "a" * 1500):
        pair.tokens["forged"] = (token, token)
        _play(pair, "forged", Step("user/list", {}, _BAD_TOKEN))
    # A new password ends the user's tokens, and no others.
    pair.log_in("bob", "pw", "bob, again")
    own = Step("user/get", {"name": "bob"})
    _play(pair, "bob", own)
    _play(pair, "bob, again", own)
    _play(pair, ROOT, Step("user/changepw", _user("bob", "new")))
    for token in ("bob", "bob, again"):
        _play(pair, token, own._replace(refused=_BAD_TOKEN))
    _play(pair, "alice", Step("user/get", {"name": "alice"}))
    _play(pair, ROOT, Step("authenticate", _user("bob"), _AUTH_FAILED))
    pair.log_in("bob", "new")
    _play(pair, "bob", own)
    # A change of permissions does not affect tokens.
    _play(pair, ROOT, Step("user/grant", {"user": "bob", "role": "r1"}))
    _play(pair, ROOT, Step("role/delete", {"role": "r1"}))
    _play(pair, "bob", own)
    # Nor does the deletion of another user; that of the user does, even if it is added again.
    _play(pair, ROOT, Step("user/delete", {"name": "alice"}))
    _play(pair, "bob", own)
    _play(pair, ROOT, Step("user/delete", {"name": "bob"}))
    _play(pair, "bob", own._replace(refused=_BAD_TOKEN))
    _play(pair, ROOT, Step("user/add", _user("bob", "new")))
    _play(pair, "bob", own._replace(refused=_BAD_TOKEN))


def test_disabling_auth_ends_every_token(pair: Pair) -> None:
    _prepared(pair)
    _play(pair, ROOT, Step("disable", {}))
    _play(pair, NOBODY, Step("disable", {}), Step("status", {}), Step("user/list", {}))
    _play(pair, NOBODY, Step("authenticate", _user("bob"), _AUTH_OFF), Step("enable", {}))
    for user in (ROOT, "alice"):
        _play(pair, user, Step("user/get", {"name": user}, _BAD_TOKEN))
    pair.log_in(ROOT, ROOT_PASSWORD)
    _play(pair, ROOT, Step("status", {}), Step("user/list", {}))


def test_a_range_without_keys_is_refused_as_in_etcd_3_6(pair: Pair) -> None:
    _prepared(pair)
    for key, end in (
        (b"", b""), (b"", b"\0"), (b"", b"a"), (b"b", b"a"), (b"b", b"b"), (b"\xff", b"a"),
        (b"\0", b"\0\0"), (b"a", b"\0\0"),
    ):  # fmt: skip
        valid = bool(key) and key < end
        known = None if valid else RANGE_UNCHECKED
        _play(pair, ROOT, Step("role/grant", _grant("r1", "READ", key, end), known=known))
        if valid:
            _play(pair, ROOT, Step("role/revoke", _revoke("r1", key, end)))
        elif not etcd_program().is_3_6:
            assert pair.call_etcd("role/revoke", _revoke("r1", key, end)).status == 200
    # In 3.6 the check comes before that of the role.
    etcd, leeway = pair.call("role/grant", _grant("nothing", "READ", b"b", b"a"))
    assert _text(etcd) == by_version(_NO_ROLE, _INVALID_MANAGEMENT)
    assert _text(leeway) == _INVALID_MANAGEMENT


def test_a_permission_granted_again_is_changed_where_etcd_may_keep_both(pair: Pair) -> None:
    """etcd looks at the first permission of a key only (RoleGrantPermission, sort.Search).

    The contract: granting the same range again changes its type.
    """
    _prepared(pair)
    for end in (b"c", b"d"):
        _play(pair, ROOT, Step("role/grant", _grant("r1", "READ", b"a", end)))
    etcd, leeway = pair.call("role/grant", _grant("r1", "WRITE", b"a", b"d"))
    assert etcd.status == leeway.status == 200
    etcd, leeway = pair.call("role/get", {"role": "r1"})
    ends = [[p["range_end"] for p in reply.body["perm"]] for reply in (etcd, leeway)]
    assert ends == [[b64(b"c"), b64(b"d"), b64(b"d")], [b64(b"c"), b64(b"d")]]
    assert leeway.body["perm"][1]["permType"] == "WRITE"
    _play(
        pair, ROOT, Step("role/revoke", _revoke("r1", b"a", b"d")), Step("role/get", {"role": "r1"})
    )


def test_enabling_twice_and_the_status_need_root(pair: Pair) -> None:
    _prepared(pair)
    for caller, refusal in (("alice", _FORBIDDEN), (NOBODY, _NO_IDENTITY)):
        _play(pair, caller, Step("enable", {}, refusal), Step("status", {}, refusal))


def test_the_role_root_is_shown_as_in_etcd_3_6(pair: Pair) -> None:
    _prepared(pair)
    leeway = pair.call_leeway("role/get", {"role": ROOT})
    assert leeway.body == {"perm": [{"permType": "READWRITE", "range_end": b64(b"\0")}]}


def test_requests_that_only_leeway_refuses(pair: Pair) -> None:
    """Contract 5: an unknown permType and an unknown field are refused."""
    _prepared(pair)
    for name, body in (
        ("role/grant", {"name": "r1", "perm": {"key": b64(b"k"), "permType": "EXECUTE"}}),
        ("role/grant", {"name": "r1", "perm": {"key": b64(b"k"), "permType": 7}}),
        ("user/add", _user("carol") | {"unknown": 1}),
        ("role/grant", {"name": "r1", "perm": {"key": b64(b"k"), "unknown": ""}}),
    ):
        leeway = pair.call_leeway(name, body)
        assert (leeway.status, leeway.body["code"]) == _INVALID, (name, body, leeway)


def _post_raw(pair: Pair, path: str, body: bytes) -> tuple[tuple[int, bytes], ...]:
    answers = []
    for connection in (pair.etcd, pair.certified):
        connection.request("POST", f"/v3/auth/{path}", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answers.append((response.status, response.read()))
    return tuple(answers)


def test_bodies_that_are_not_the_json_of_the_call(pair: Pair) -> None:
    """Both refuse them with code 3; the text is that of the JSON parser."""
    for path, raw in (
        ("user/add", b"{"),
        ("user/add", b"[]"),
        ("user/add", b'"x"'),
        ("user/add", b'{"name":1}'),
        ("user/add", b'{"name":["a"]}'),
        ("user/add", b'{"name":"u","options":{"no_password":1}}'),
        ("user/add", b'{"name":"u","options":{"no_password":"true"}}'),
        ("role/grant", b'{"name":"r","perm":7}'),
        ("role/grant", b'{"name":"r","perm":{"key":"!"}}'),
        ("role/grant", b'{"name":"r","perm":{"key":1}}'),
        ("role/grant", b'{"name":"r","perm":{"key":"_/8="}}'),
        ("role/grant", b'{"name":"r","perm":{"key":"aw="}}'),
        ("role/grant", b'{"name":"r","perm":{"key":"aw==","permType":true}}'),
        ("role/grant", b'{"name":"r","perm":{"key":"aw==","permType":1.5}}'),
    ):
        for status, body in _post_raw(pair, path, raw):
            assert (status, b'"code":3' in body) == (400, True), (path, raw, body)


@pytest.mark.fault(14)
def test_keys_and_types_are_read_as_by_the_gateway_of_etcd_3_6(pair: Pair) -> None:
    """etcd 3.5.1 accepts only the standard alphabet with padding, and integers."""
    pair.agree("role/add", {"name": "r"})
    for text, expected in (
        ("Zm8=", b"fo"), ("Zm8", b"fo"), ("//4=", b"\xff\xfe"), ("__4=", b"\xff\xfe"),
        ("__4", b"\xff\xfe"), ("-_8=", b"\xfb\xff"), ("YR==", b"a"), ("YR", b"a"),
        ("Z", None), ("Zm8==", None), ("_/4=", None), ("+-8=", None), ("aw=", None), ("=", None),
        ("Z m8", None), ("\nZm8=", None), ("YWI=YWI=", None), ("\u00e9===", None),
    ):  # fmt: skip
        raw = json.dumps({"name": "r", "perm": {"key": text}}).encode()
        etcd, leeway = _post_raw(pair, "role/grant", raw)
        assert leeway[0] == (400 if expected is None else 200), (text, leeway)
        if etcd_program().is_3_6:
            assert etcd[0] == leeway[0], (text, etcd, leeway)
        if expected is not None:
            assert _only_permission(pair.call_leeway("role/get", {"role": "r"})) == (expected, None)
            if etcd_program().is_3_6:
                etcd_reply = pair.call_etcd("role/get", {"role": "r"})
                assert _only_permission(etcd_reply) == (expected, None)
            pair.call("role/revoke", {"role": "r", "key": b64(expected)})
    for number in (b"2", b"2.0", b"2e0", b"20e-1", b'"READWRITE"'):
        raw = b'{"name":"r","perm":{"key":"aw==","permType":%b}}' % number
        etcd, leeway = _post_raw(pair, "role/grant", raw)
        assert leeway[0] == 200, (number, leeway)
        if etcd_program().is_3_6:
            assert etcd[0] == 200, (number, etcd)
            assert pair.snapshot()["roles"]["r"]["perm"] == [
                {"key": "aw==", "permType": "READWRITE"}
            ]


def _only_permission(reply: Reply) -> tuple[bytes, str | None]:
    (permission,) = reply.body["perm"]
    return unb64(permission["key"]), permission.get("permType")


@pytest.mark.fault(14)
def test_an_unknown_name_of_a_type_grants_nothing(pair: Pair) -> None:
    """etcd 3.6 drops an unknown name, also a number in quotes, and grants READ."""
    pair.agree("role/add", {"name": "r"})
    for text in ("2", "1", "0", "read", "EXECUTE", ""):
        raw = json.dumps({"name": "r", "perm": {"key": "aw==", "permType": text}}).encode()
        etcd, leeway = _post_raw(pair, "role/grant", raw)
        assert (leeway[0], json.loads(leeway[1])["code"]) == _INVALID, (text, leeway)
        if etcd_program().is_3_6:
            assert etcd[0] == 200
            etcd_reply = pair.call_etcd("role/get", {"role": "r"})
            assert _only_permission(etcd_reply) == (b"k", None)
    assert pair.call_leeway("role/get", {"role": "r"}).body == {}


def test_null_and_absent_mean_the_default(pair: Pair) -> None:
    pair.agree("role/add", {"name": "r"})
    for path, raw, expected in (
        ("user/list", b"", 200),
        ("user/list", b"{}", 200),
        ("status", b"", 200),
        ("user/add", b'{"name":null}', 400),
        ("user/add", b'{"name":"u1","password":null,"options":{"no_password":true}}', 200),
        ("role/grant", b'{"name":"r","perm":null}', 400),
        ("role/grant", b'{"name":"r","perm":{"key":"aw==","permType":null}}', 200),
        ("role/grant", b'{"name":"r","perm":{"key":"aw==","range_end":null}}', 200),
        ("role/grant", b'{"name":"r","perm":{"key":"aw==","rangeEnd":"bA=="}}', 200),
        ("no/such", b"{}", 404),
    ):
        etcd, leeway = _post_raw(pair, path, raw)
        assert (etcd[0], leeway[0]) == (expected, expected), (path, raw, etcd, leeway)
        if expected == 400:
            messages = [json.loads(body)["message"] for _, body in (etcd, leeway)]
            assert messages[0] == messages[1]
    pair.snapshot()


@pytest.mark.fault(14)
def test_json_that_is_refused_as_by_etcd_3_6(pair: Pair) -> None:
    for path, raw in (
        ("user/list", b"null"),
        ("user/add", b"null"),
        ("user/add", b'{"name":"u2","name":"u3","options":{"no_password":true}}'),
        ("user/add", b'{"name":"\\ud800","options":{"no_password":true}}'),
        ("user/add", b'{"name":"u4","options":{"no_password":true,"noPassword":true}}'),
    ):
        etcd, leeway = _post_raw(pair, path, raw)
        assert (leeway[0], json.loads(leeway[1])["code"]) == _INVALID, (raw, leeway)
        if etcd_program().is_3_6:
            assert (etcd[0], json.loads(etcd[1])["code"]) == _INVALID, (raw, etcd)


def test_json_that_only_leeway_refuses(pair: Pair) -> None:
    """A body that two parsers may read differently is refused, as everywhere in Leeway."""
    for raw in (
        b'{"name":"u1","options":{"no_password":true}} trailing',
        b'{"name":"u2","x":1,"x":2,"options":{"no_password":true}}',
        # etcd's own field for a hash made by the client.
        b'{"name":"u5","hashedPassword":"","options":{"no_password":true}}',
    ):
        etcd, leeway = _post_raw(pair, "user/add", raw)
        assert (etcd[0], leeway[0]) == (200, 400), (raw, etcd, leeway)
        assert json.loads(leeway[1])["code"] == 3
