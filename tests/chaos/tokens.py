"""Tokens of several kinds, and the model of what a server has to say of each of them.

The model is the contract again in other words: numbers that were noted when the token was made,
and a clock. It asks nothing of the code that verifies.
"""

import base64
import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keys import jws
from keys.keyring import Keyring
from keys.pem import generate_signing_key
from tests.e2e.harness import AUDIENCE
from webhook.assembly import keyring_of, policy_of
from webhook.config.load import load_configuration
from webhook.token.claims import ObjectReference
from webhook.token.issuer import TokenSpec, issue_token

from .timeline import Timeline

NAMESPACE = "chaos"
LEEWAY_SECONDS = 60
HOUR = 3600
YEAR = 365 * 24 * HOUR
_LONGEST_TOKEN = 24 * HOUR
_KUBELET_SECONDS = 3607  # Kubernetes extends a pod's token of so many seconds to a year
ELSEWHERE = "https://elsewhere.example"
NO_ROLES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reason`` is empty for a token that is accepted; then its user has the ``roles``."""

    reason: str = ""
    roles: frozenset[str] = NO_ROLES


@dataclass(slots=True)
class Token:
    """A token and what is known of it. ``always`` is a reason that no clock changes."""

    text: str
    kind: str
    name: str
    uid: str = ""
    jti: str = ""
    starts: int = 0
    ends: int = 0
    always: str = ""
    roles: Timeline[frozenset[frozenset[str]]] | None = None
    revoked: Timeline[frozenset[bool]] | None = None

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{NAMESPACE}:{self.name}"

    def reason_at(self, now: float) -> str:
        """Say why the clock refuses it; the leeway itself still passes on both sides."""
        if self.always:
            return self.always
        if self.starts > now + LEEWAY_SECONDS:
            return "NotYetValid"
        return "Expired" if now - LEEWAY_SECONDS > self.ends else ""

    def verdicts(
        self, begin: float, end: float, offsets: Iterable[int], stale: float
    ) -> set[Verdict]:
        """Return what may be answered to a review between two moments of the steady clock.

        ``offsets`` are those of the server's clock meanwhile. What was written up to ``stale``
        seconds before the review need not be known yet.
        """
        wall = time.time() - time.monotonic()
        reasons = {
            self.reason_at(wall + moment + offset) for offset in offsets for moment in (begin, end)
        }
        found = {Verdict(reason) for reason in reasons if reason}
        if "" in reasons:
            revoked = {False}
            if self.revoked is not None:
                revoked = {r for rs in self.revoked.during(begin - stale, end) for r in rs}
            if True in revoked:
                found.add(Verdict("Revoked"))
            if False in revoked:
                found |= {Verdict("", roles) for roles in self._roles(begin - stale, end)}
        return found

    def _roles(self, begin: float, end: float) -> set[frozenset[str]]:
        if self.roles is None:
            return {NO_ROLES}
        return {roles for possible in self.roles.during(begin, end) for roles in possible}

    def review(self) -> bytes:
        """Return the body of a review, as kube-apiserver sends it."""
        return json.dumps(
            {
                "kind": "TokenReview",
                "apiVersion": "authentication.k8s.io/v1",
                "spec": {"token": self.text, "audiences": [AUDIENCE]},
            }
        ).encode()


def verdict_of(token: Token, body: bytes) -> Verdict:
    """Read an answer. Raises ValueError where it contradicts itself or names another user."""
    review = json.loads(body)
    status = review["status"]
    if not status.get("authenticated"):
        if status.get("user"):
            raise ValueError("a user that is not authenticated")
        return Verdict(review["metadata"]["annotations"]["leeway.dev/reason"])
    user = status["user"]
    if user["username"] != token.user or user["uid"] != token.uid:
        raise ValueError(f"user {user['username']} instead of {token.user}")
    if status["audiences"] != [AUDIENCE]:
        raise ValueError(f"audiences {status['audiences']}")
    fixed = {
        "system:serviceaccounts",
        f"system:serviceaccounts:{NAMESPACE}",
        "system:authenticated",
    }
    groups = set(user["groups"])
    roles = {group.removeprefix("leeway:role:") for group in groups - fixed}
    if not fixed <= groups:
        raise ValueError(f"groups {sorted(groups)}")
    return Verdict("", frozenset(roles))


class Signer:
    """Makes tokens with the key that is active in a folder."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._policy = policy_of(load_configuration(data_dir, {}, {}))
        self._keyring = keyring_of(data_dir)
        self._foreign = Keyring().with_new_key(generate_signing_key("ES256"), int(time.time()))

    def take_new_keys(self) -> None:
        self._keyring = keyring_of(self._data_dir)

    def sign(
        self,
        kind: str,
        name: str,
        *,
        ahead: int = 0,
        seconds: int = HOUR,
        audiences: Sequence[str] = (),
        extended: bool = False,
        foreign: bool = False,
    ) -> Token:
        """Sign a token, by a clock that is ``ahead`` of the right one."""
        request = TokenSpec(
            NAMESPACE,
            name,
            audiences=audiences,
            expiration_seconds=_KUBELET_SECONDS if extended else seconds,
            pod=ObjectReference("pod", str(uuid.uuid4())) if extended else None,
            objects_confirmed=extended,
        )
        keyring = self._foreign if foreign else self._keyring
        issued = issue_token(request, self._policy, keyring, int(time.time()) + ahead)
        claims = issued.claims
        assert claims.not_before is not None
        assert claims.expires_at is not None
        return Token(
            issued.token,
            kind,
            name,
            claims.service_account.uid,
            claims.jti,
            claims.not_before,
            claims.expires_at,
        )

    def fixed(self, run_seconds: float) -> list[Token]:
        """Make the tokens that a whole run reviews again and again.

        Some of them pass the end of their leeway in the course of it, one after the other.
        """
        good = [self.sign("good", f"plain-{n}", seconds=_LONGEST_TOKEN) for n in range(8)]
        shifted = [
            self.sign(f"of a clock {ahead:+}s", "traveller", ahead=ahead)
            for ahead in (-YEAR, -HOUR, HOUR, YEAR)
            for _ in range(2)
        ]
        ending = [
            self.sign("ending", "mayfly", ahead=int(after) - HOUR - LEEWAY_SECONDS)
            for after in _spread(run_seconds, 24)
        ]
        return [
            *good,
            *shifted,
            *ending,
            self.sign("of a year", "kept", extended=True),
            self._refused(self.sign("for others", "plain", audiences=[ELSEWHERE])),
            self._refused(self.sign("unknown key", "plain", foreign=True)),
            self._forged(),
            self._of_a_stranger(),
        ]

    @staticmethod
    def _refused(token: Token) -> Token:
        token.always = {"for others": "AudienceMismatch", "unknown key": "UnknownKey"}[token.kind]
        return token

    def _forged(self) -> Token:
        token = self.sign("bad signature", "plain")
        signed, _, signature = token.text.rpartition(".")
        token.text = f"{signed}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
        token.always = "BadSignature"
        return token

    def _of_a_stranger(self) -> Token:
        payload = json.dumps({"iss": "https://stranger.example"}).encode()
        text = jws.sign(payload, self._foreign.signing_key())
        return Token(text, "another issuer", "plain", always="NotRecognised")


def _spread(seconds: float, count: int) -> Iterable[float]:
    return (seconds * (number + 1) / count for number in range(count))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
