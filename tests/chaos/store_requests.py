"""What the load asks of the store, and the model of the right answers, in other words than ours."""

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from webhook.rbac import changes
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.records import (
    AUTH_ID,
    META,
    PERMISSION,
    REVOCATION,
    ROLE,
    USER,
    AuthMeta,
    Record,
    permission_id,
    read_user,
    read_value,
    text_id,
)
from webhook.rbac.state import AuthState

from .history import RecordKey, Told, View
from .lanes import Call
from .timeline import Timeline
from .tokens import Token, b64, verdict_of

REVIEWERS = "reviewers"
FORBIDDEN: Told = ("forbidden",)
ALWAYS = "kube-apiserver"
_WALL = time.time() - time.monotonic()


@dataclass(frozen=True, slots=True, eq=False)
class ReviewRequest:
    """A TokenReview by a caller that is allowed to ask, or is while it has the role reviewers.

    ``offsets`` is how far ahead the clock of the replica that is asked is, in seconds.
    """

    token: Token
    caller: str
    offsets: Timeline[int]

    @property
    def what(self) -> str:
        return f"a review by {self.caller} of a token of {self.token.name} ({self.token.kind})"

    @property
    def touches(self) -> frozenset[RecordKey]:
        return frozenset(
            {
                (USER, text_id(self.token.user)),
                (USER, text_id(self.caller)),
                (REVOCATION, text_id(f"jti:{self.token.jti}")),
            }
        )

    def answers(self, view: View, begin: float, end: float) -> frozenset[Told]:
        if self.caller != ALWAYS and REVIEWERS not in _roles(view, self.caller):
            return frozenset({FORBIDDEN})
        reasons = {
            self.token.reason_at(_WALL + moment + offset)
            for offset in self.offsets.during(begin, end)
            for moment in (begin, end)
        }
        found: set[Told] = {(reason, ()) for reason in reasons if reason}
        if "" in reasons:
            if view.get(REVOCATION, text_id(f"jti:{self.token.jti}")) is not None:
                found.add(("Revoked", ()))
            else:
                found.add(("", tuple(sorted(_roles(view, self.token.user)))))
        return frozenset(found)

    def told(self, status: int, body: bytes) -> Told:
        """Read an answer. Raises ValueError for one that no state explains."""
        if status == 403:
            return FORBIDDEN
        if status != 201:
            raise ValueError(f"status {status}: {body[:300]!r}")
        verdict = verdict_of(self.token, body)
        return (verdict.reason, tuple(sorted(verdict.roles)))


@dataclass(frozen=True, slots=True, eq=False)
class RangeRequest:
    """A RangeAccessReview: is a lane's user allowed to read one key?"""

    user: str
    roles: tuple[str, ...]
    key: bytes
    minimum: str = ""

    @property
    def what(self) -> str:
        return f"a range review of {self.user} on {self.key!r}"

    @property
    def touches(self) -> frozenset[RecordKey]:
        return frozenset(
            {(META, AUTH_ID), (USER, text_id(self.user))}
            | {(ROLE, text_id(role)) for role in self.roles}
            | {(PERMISSION, permission_id(role, self.key, b"")) for role in self.roles}
        )

    def answers(self, view: View, begin: float, end: float) -> frozenset[Told]:
        meta = view.get(META, AUTH_ID)
        granting = tuple(
            role
            for role in sorted(_roles(view, self.user))
            if view.get(ROLE, text_id(role)) is not None
            and view.get(PERMISSION, permission_id(role, self.key, b"")) is not None
        )
        revision = read_value(meta, AuthMeta).revision if meta else 1
        return frozenset({(bool(granting), granting, revision)})

    def body(self) -> bytes:
        spec = {"user": self.user, "permission": "READ", "key": b64(self.key)}
        if self.minimum:
            spec["minRevision"] = self.minimum
        review = {"kind": "RangeAccessReview", "apiVersion": "leeway.dev/v1", "spec": spec}
        return json.dumps(review).encode()

    def told(self, status: int, body: bytes) -> tuple[Told, str]:
        """Read an answer and the position that it names. Raises ValueError."""
        if status != 201:
            raise ValueError(f"status {status}: {body[:300]!r}")
        told: dict[str, Any] = json.loads(body)["status"]
        answer = (told["allowed"], tuple(sorted(told["roles"])), int(told["revision"]))
        return answer, told["storeRevision"]


@dataclass(frozen=True, slots=True)
class RolesRequest:
    """Asks which roles a user has, and for the auth revision."""

    user: str

    @property
    def what(self) -> str:
        return f"the roles of {self.user}"

    @property
    def touches(self) -> frozenset[RecordKey]:
        return frozenset({(USER, text_id(self.user)), (META, AUTH_ID)})

    def answers(self, view: View, begin: float, end: float) -> frozenset[Told]:
        user, meta = view.get(USER, text_id(self.user)), view.get(META, AUTH_ID)
        roles = read_user(text_id(self.user), user).roles if user else ("-",)
        return frozenset({(roles, read_value(meta, AuthMeta).revision if meta else 1)})


def roles_in(state: AuthState, name: str) -> Told:
    """Return the answer to a RolesRequest from a state."""
    user = state.users.get(name)
    return (user.roles if user else ("-",), state.meta.revision)


def _roles(view: View, name: str) -> Sequence[str]:
    value = view.get(USER, text_id(name))
    return () if value is None else read_user(text_id(name), value).roles


def decide_of(call: Call) -> Callable[[AuthState], Sequence[Record]]:
    """Return what the store has to make of a call of the auth API."""
    name, body = call
    arguments: dict[str, Any] = dict(body)
    made: Mapping[str, Callable[[AuthState], Sequence[Record]]] = {
        "user/add": partial(_decide, changes.add_user, arguments.get("name")),
        "user/delete": partial(_decide, changes.delete_user, arguments.get("name")),
        "user/grant": partial(
            _decide, changes.grant_role, arguments.get("user"), arguments.get("role")
        ),
        "user/revoke": partial(
            _decide, changes.revoke_role, arguments.get("name"), arguments.get("role")
        ),
        "role/add": partial(_decide, changes.add_role, arguments.get("name")),
        "role/delete": partial(_decide, changes.delete_role, arguments.get("role")),
        "role/grant": partial(_grant, arguments),
        "role/revoke": partial(_revoke, arguments),
    }
    return made[name]


def _decide(function: Callable[..., Sequence[Record]], *given: object) -> Sequence[Record]:
    *arguments, state = given
    return function(state, *arguments)


def _grant(arguments: dict[str, Any], state: AuthState) -> Sequence[Record]:
    key = _unb64(arguments["perm"]["key"])
    permission = Permission(key, b"", PermissionType[arguments["perm"]["permType"]])
    return changes.grant_permission(state, arguments["name"], permission)


def _revoke(arguments: dict[str, Any], state: AuthState) -> Sequence[Record]:
    return changes.revoke_permission(state, arguments["role"], _unb64(arguments["key"]), b"")


def _unb64(text: str) -> bytes:
    return base64.b64decode(text)


def names_of(call: Call) -> frozenset[str]:
    """Return the users and roles that a call is about."""
    body = call[1]
    found = {str(body[field]) for field in ("name", "user", "role") if field in body}
    return frozenset(found - {REVIEWERS} if len(found) > 1 else found)
