"""Random calls that a real etcd and Leeway must answer in the same way."""

import random
from collections import Counter
from dataclasses import dataclass, field

from .pair import NOBODY, ROOT, Body, Pair, Reply, b64, unb64

_USERS = ("alice", "bob", "carol", "dave")
_ROLES = ("r1", "r2", "r3", "r4")
_ALPHABET = b"\x00\x01ab\xff"
_TYPES = (None, "READ", "WRITE", "READWRITE")
OPEN_END = b"\0"

Span = tuple[bytes, bytes]


def is_valid(key: bytes, end: bytes) -> bool:
    """Return whether a range can hold a key."""
    return bool(key) and (not end or end == OPEN_END or key < end)


@dataclass
class Player:
    """Makes random calls to both servers as the existing users, and compares every answer."""

    pair: Pair
    random: random.Random
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    # etcd's state, as far as its known deviations depend on it.
    grants: dict[str, set[Span]] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)

    def step(self) -> None:
        """Make one call."""
        name = self.random.choices(
            (
                "role/grant", "role/revoke", "user/grant", "user/revoke", "role/add", "role/delete",
                "user/add", "user/delete", "user/changepw", "authenticate", "user/get", "role/get",
                "user/list", "role/list", "status",
            ),
            (40, 16, 14, 8, 8, 4, 8, 4, 3, 3, 4, 4, 1, 1, 2),
        )[0]  # fmt: skip
        body = self._body(name)
        caller = self._caller(name, body)
        self.done[name] += 1
        if name == "role/grant" and caller == ROOT and self._grant_with_deviations(body):
            return
        reply = self.pair.agree(name, body, caller)
        self.refused[reply.refusal] += 1
        if reply.status == 200 and (caller == ROOT or name == "authenticate"):
            self._note(name, body)

    def compare(self) -> None:
        """Compare the whole state."""
        state = self.pair.snapshot()
        found = set(state["roles"])
        assert found | {ROOT} == set(self.grants) | {ROOT}, (found, set(self.grants))

    def prepare_logins(self) -> list[str]:
        """Return the users that are logged in."""
        users = [user for user in self.passwords if user != ROOT]
        for user in users:
            self.pair.log_in(user, self.passwords[user])
        return users

    def key(self) -> bytes:
        return bytes(self.random.choices(_ALPHABET, k=self.random.randint(1, 3)))

    def span(self) -> Span:
        """Return a range: a key, an open end, and often one that touches another grant."""
        spans = [span for known in self.grants.values() for span in sorted(known)]
        known = [bound for span in spans for bound in span]
        key = self.key()
        if known and self.random.random() < 0.4:
            key = self.random.choice(known) or key
        kind = self.random.random()
        if kind < 0.3:
            return key, b""
        if kind < 0.4:
            return key, OPEN_END
        if kind < 0.5:
            return key, key + b"\0"
        end = self.random.choice(known) if known and kind < 0.7 else self.key()
        if end and end != OPEN_END and end < key:
            key, end = end, key
        return key, end

    def _span_of_any_kind(self) -> Span:
        key, end = self.span()
        odd = self.random.random()
        if odd < 0.02:
            return b"", end
        if odd < 0.04:
            return key, key
        if odd < 0.06 and end:
            return end, key
        return key, end

    def _body(self, name: str) -> Body:
        choose = self.random.choice
        user = choose((*_USERS * 3, ROOT, "nobody", ""))
        role = choose((*_ROLES * 3, ROOT, "nothing", ""))
        if name == "role/grant":
            key, end = self._span_of_any_kind()
            perm = {"key": b64(key), "range_end": b64(end), "permType": choose(_TYPES)}
            return {"name": role, "perm": {n: v for n, v in perm.items() if v}}
        if name == "role/revoke":
            spans = sorted(self.grants.get(role, ()))
            key, end = choose(spans) if spans and self.random.random() < 0.7 else self.span()
            return {"role": role, "key": b64(key), "range_end": b64(end)}
        if name in ("user/add", "user/changepw", "authenticate"):
            password = choose(("p1", "p2"))
            if name == "user/add":
                return {"name": user, "password": password, "options": {"no_password": False}}
            return {"name": user, "password": password}
        return {
            "user/grant": {"user": user, "role": role},
            "user/revoke": {"name": user, "role": role},
            "role/add": {"name": role},
            "role/delete": {"role": role},
            "role/get": {"role": role if role != ROOT else "r1"},
            "user/delete": {"name": user},
            "user/get": {"name": user},
        }.get(name, {})

    def _caller(self, name: str, body: Body) -> str:
        if not self.pair.enabled:
            return ROOT
        if self.random.random() < 0.9:
            return ROOT
        caller = self.random.choice((*_USERS, NOBODY, NOBODY, "forged"))
        nameless = name == "user/get" and body["name"] == ""
        if caller not in self.pair.tokens and nameless:  # contract 4: see NAMELESS_GET
            return ROOT
        # Never an administrator: changes are recorded for root's calls only.
        if caller in _USERS and caller in self._administrators():
            return ROOT
        return caller

    def _administrators(self) -> set[str]:
        found = set()
        for user in _USERS:
            reply = self.pair.call_etcd("user/get", {"name": user})
            if ROOT in reply.body.get("roles", ()):
                found.add(user)
        return found

    def _grant_with_deviations(self, body: Body) -> bool:
        """Make a grant that etcd 3.5.1 answers differently, and correct its state.

        1. A range without keys: see ``RANGE_UNCHECKED`` in test_script.
        2. A permission granted again whose key has another one: etcd keeps both.
        """
        role, perm = str(body["name"]), body["perm"]
        assert isinstance(perm, dict)
        wire = {"role": role} | {n: perm[n] for n in ("key", "range_end") if n in perm}
        span = _span_of(perm)
        if not is_valid(*span):
            etcd, leeway = self.pair.call("role/grant", body)
            assert leeway == Reply(
                400, {"code": 3, "message": "etcdserver: invalid auth management"}
            ), (body, leeway)
            if etcd.status == 200:
                assert self.pair.call_etcd("role/revoke", wire).status == 200
                self.pair.ahead += 2
            self.refused["invalid range (Leeway only)"] += 1
            return True
        spans = self.grants.get(role, set())
        if span in spans and any(key == span[0] and end != span[1] for key, end in spans):
            assert self.pair.call_etcd("role/revoke", wire).status == 200
            self.pair.ahead += 1
            self.pair.agree("role/grant", body)
            self.refused["granted again (etcd: revoked before)"] += 1
            return True
        return False

    def _note(self, name: str, body: Body) -> None:
        who = str(body.get("name", ""))
        if name == "role/grant":
            self.grants[who].add(_span_of(body["perm"]))
        elif name == "role/revoke":
            self.grants[str(body["role"])].discard(_span_of(body))
        elif name == "role/add":
            self.grants[who] = set()
        elif name == "role/delete":
            self.grants.pop(str(body["role"]))
        elif name in ("user/add", "user/changepw"):
            self.passwords[who] = str(body["password"])
            if who == ROOT and self.pair.enabled:
                self.pair.log_in(ROOT, self.passwords[ROOT])
        elif name == "user/delete":
            self.passwords.pop(who)
        elif name == "authenticate" and who != ROOT:
            self.pair.log_in(who, str(body["password"]))

    def turn(self, *, on: bool) -> None:
        """Turn auth on or off if needed, and log all users in after it was off."""
        if self.pair.enabled is on:
            return
        if not on:
            self.pair.agree("disable", {})
            return
        self.refused[self.pair.agree("enable", {}).refusal] += 1
        if self.pair.enabled:
            self.pair.log_in(ROOT, self.passwords[ROOT])
        else:
            self.turn_on()
        self.prepare_logins()

    def turn_on(self) -> None:
        """Restore root, and turn auth on."""
        if ROOT not in self.passwords:
            self._as_root("user/add", {"name": ROOT, "password": "p1"})
        self._as_root("user/grant", {"user": ROOT, "role": ROOT})
        self._as_root("enable", {})
        self.pair.log_in(ROOT, self.passwords[ROOT])

    def _as_root(self, name: str, body: Body) -> None:
        reply = self.pair.agree(name, body)
        assert reply.status == 200, reply
        self._note(name, body)


def _span_of(members: object) -> Span:
    assert isinstance(members, dict)
    key, end = (unb64(members.get(n, "")) for n in ("key", "range_end"))
    return key, end
