"""Writes, and the model of what they lead to.

A lane is a user with two roles of its own that nobody else writes to, so its writes follow one
another and its state is known: after each answer exactly, during a write one of two, and after
a write that has failed one of two until the store is looked at.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from webhook.rbac.state import AuthState

from .timeline import Timeline
from .tokens import NAMESPACE, b64

_MOST_GRANTS = 4

Call = tuple[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class LaneState:
    """Whether the user exists, its roles, and the keys that each existing role can read."""

    user: bool = False
    granted: frozenset[str] = frozenset()
    roles: tuple[tuple[str, frozenset[bytes]], ...] = ()

    def keys_of(self, role: str) -> frozenset[bytes] | None:
        return dict(self.roles).get(role)

    def with_role(self, role: str, keys: frozenset[bytes] | None) -> "LaneState":
        others = {name: held for name, held in self.roles if name != role}
        kept = others if keys is None else others | {role: keys}
        granted = self.granted - {role} if keys is None else self.granted
        return replace(self, granted=granted, roles=tuple(sorted(kept.items())))


@dataclass(eq=False)
class Lane:
    """``state`` is what is known to be there, ``after`` what a write leads to that is not known."""

    number: int
    state: LaneState = LaneState()
    after: LaneState | None = None
    groups: Timeline[frozenset[frozenset[str]]] = field(
        default_factory=lambda: Timeline(frozenset({frozenset()}))
    )

    @property
    def name(self) -> str:
        return f"lane-{self.number}"

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{NAMESPACE}:{self.name}"

    @property
    def role_names(self) -> tuple[str, str]:
        return f"{self.name}-a", f"{self.name}-b"

    @property
    def possible(self) -> tuple[LaneState, ...]:
        return (self.state,) if self.after is None else (self.state, self.after)

    def begin(self, rng: random.Random) -> Call:
        """Choose a write that is in order now, and note that it may happen from here on."""
        call, self.after = rng.choice(self._choices(rng))
        self._note()
        return call

    def done(self) -> None:
        """The write was acknowledged."""
        assert self.after is not None
        self.found(self.after)

    def found(self, state: LaneState) -> None:
        """Use the state of the store."""
        self.state, self.after = state, None
        self._note()

    def _note(self) -> None:
        self.groups.set(frozenset(state.granted for state in self.possible))

    def _choices(self, rng: random.Random) -> Sequence[tuple[Call, LaneState]]:
        now = self.state
        found: list[tuple[Call, LaneState]] = []
        if not now.user:
            body = {"name": self.user, "options": {"no_password": True}}
            found.append((("user/add", body), replace(now, user=True)))
        elif rng.random() < 0.1:
            gone = replace(now, user=False, granted=frozenset())
            found.append((("user/delete", {"name": self.user}), gone))
        for role in self.role_names:
            found += self._role_choices(role, rng)
        return found

    def _role_choices(self, role: str, rng: random.Random) -> Sequence[tuple[Call, LaneState]]:
        now = self.state
        keys = now.keys_of(role)
        if keys is None:
            return [(("role/add", {"name": role}), now.with_role(role, frozenset()))]
        found: list[tuple[Call, LaneState]] = []
        if len(keys) < _MOST_GRANTS:
            key = f"/{self.name}/{rng.getrandbits(32):08x}".encode()
            perm = {"permType": "READ", "key": b64(key)}
            call = ("role/grant", {"name": role, "perm": perm})
            found.append((call, now.with_role(role, keys | {key})))
        if keys:
            key = rng.choice(sorted(keys))
            call = ("role/revoke", {"role": role, "key": b64(key)})
            found.append((call, now.with_role(role, keys - {key})))
        if now.user and role not in now.granted:
            call = ("user/grant", {"user": self.user, "role": role})
            found.append((call, replace(now, granted=now.granted | {role})))
        if role in now.granted:
            call = ("user/revoke", {"name": self.user, "role": role})
            found.append((call, replace(now, granted=now.granted - {role})))
        if rng.random() < 0.1:
            found.append((("role/delete", {"role": role}), now.with_role(role, None)))
        return found


def stored(lane: Lane, state: AuthState) -> LaneState:
    """Return what the store has of a lane."""
    user = state.users.get(lane.user)
    roles = {
        name: frozenset(permission.key for permission in role.permissions)
        for name in lane.role_names
        if (role := state.roles.get(name)) is not None
    }
    granted = frozenset(user.roles) if user else frozenset()
    return LaneState(user is not None, granted, tuple(sorted(roles.items())))


def encoded(body: Mapping[str, object]) -> bytes:
    return json.dumps(body).encode()
