"""Explains the outcome of authentication, check by check, without knowledge of RFC 7519.

Claims are shown only if the signature is valid.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

import msgspec

from keys import jws
from keys.encoding import decode_base64url
from keys.errors import KeysError
from keys.messages import utc
from webhook.duration import rounded_duration
from webhook.errors import (
    ClockError,
    MalformedTokenError,
    MarkedInvalidError,
    NoKeysError,
    Reason,
    TokenRefusedError,
    UnknownBindingError,
)
from webhook.token.claims import Claims, ClockLeeway
from webhook.token.outcome import Authenticated, Outcome

OK: Final = "ok"
FAIL: Final = "FAIL"
NOT_REACHED: Final = "-"
_CLOCK_CHECKS: Final = ("not before", "expiry", "issued at")
CHECKS: Final = (
    "form",
    "issuer",
    "key",
    "signature",
    "claims",
    "audience",
    *_CLOCK_CHECKS,
    "objects",
    "revoked",
)

_CHECK_OF_REASON: Final = {
    Reason.MALFORMED: "claims",
    Reason.NOT_RECOGNISED: "issuer",
    Reason.UNKNOWN_KEY: "key",
    Reason.ALGORITHM_NOT_ALLOWED: "key",
    Reason.BAD_SIGNATURE: "signature",
    Reason.SUBJECT_MISMATCH: "claims",
    Reason.AUDIENCE_MISMATCH: "audience",
    Reason.NOT_YET_VALID: "not before",
    Reason.EXPIRED: "expiry",
    Reason.ISSUED_IN_FUTURE: "issued at",
    Reason.SERVICE_ACCOUNT_GONE: "objects",
    Reason.UID_MISMATCH: "objects",
    Reason.BOUND_OBJECT_GONE: "objects",
    Reason.LOOKUP_FAILED: "objects",
    Reason.REVOKED: "revoked",
}
_ADVICE: Final = {
    "form": "This text is not a complete service account token. Copy it again from where it came, "
    "all of it: three parts of letters, digits, - and _, joined by dots.",
    "issuer": "Another system made this token. If you trust that system, add it to trustedIssuers "
    "in leeway.yaml with its keys; if not, ask the right API server for a token.",
    "key": "The issuer is right, but none of its keys fits. The key has been rotated away, or the "
    "token comes from another installation with the same issuer URL. Ask for a new token; "
    "`leeway keys list` shows the keys that are here.",
    "signature": "Do not trust this token: it was changed after it was signed, or someone made it "
    "up. If it came from a trusted place, it was damaged on the way; ask for a new one.",
    "claims": "The signature is good, but what was signed is not a service account token as the "
    "API server makes them. Ask the TokenRequest API (`kubectl create token`) for one.",
    "audience": "The token is good, but was made for somebody else. Ask for one with the audience "
    "that the receiver expects: `kubectl create token NAME --audience AUDIENCE`.",
    "not before": "The clock of the machine that signed the token is ahead of this one's, or this "
    "one's is behind. Run `date -u` on both and set the wrong one right (chronyc makestep). Until "
    "then the token becomes valid by itself in {wait}, or at once with a larger leeway.notBefore "
    "in leeway.yaml: {needed} would do.",
    "expiry": "The token is too old. A Pod gets a new one by itself before that; a program that "
    "reads its token only once must read it again. If it was made just now, this machine's clock "
    "is ahead: check it with `date -u`. A leeway.expiry of {needed} would have let it pass.",
    "issued at": "The token claims to be made in the future. The clock of the machine that signed "
    "it is ahead of this one's, or this one's is behind. Run `date -u` on both and set the wrong "
    "one right. A leeway.issuedAt of {needed} would have let it pass.",
    "objects": "The token is good, but the service account, Pod, Secret or Node that it was made "
    "for is not there any more, or could not be looked up. Ask for a token for what is there now; "
    "`kubectl get` with -o yaml shows its uid.",
    "revoked": "Somebody ran `leeway revoke`. If that was right, ask for a new token.",
}
_SPECIAL_ADVICE: Final[dict[type[TokenRefusedError], str]] = {
    NoKeysError: "This token may be good, but the keys to verify it could not be fetched. Fix "
    "the problem above, which is between this machine and the issuer, and try again.",
    UnknownBindingError: "The token is good only together with something that this version "
    "of Leeway cannot check. Ask for a token that is bound to a Pod, a Secret, a Node or to "
    "nothing, or have this one reviewed by the API server that issued it.",
    MarkedInvalidError: "The token is good, but Kubernetes marked its Secret as invalid, "
    "because the token was not used for a year. Ask the TokenRequest API (`kubectl create token`) "
    "for one instead.",
}
_HEADER_ADVICE: Final = (
    "The text is complete, so copying it again will not help: whoever signed this token gave it a "
    "header that no service account token has. Ask the TokenRequest API (`kubectl create token`) "
    "for one."
)
_NO_ISSUER_ADVICE: Final = (
    "This is a complete JWT, but not a service account token: those name their issuer in `iss`. "
    "Ask the TokenRequest API (`kubectl create token`) for one."
)
_MAX_LEEWAY_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, ``ok``, ``FAIL`` or ``-`` for not reached, and a description."""

    name: str
    result: str
    detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every check in order, the verdict in one line, and advice."""

    checks: tuple[Check, ...]
    verdict: str
    advice: str


def explain(
    token: str,
    outcome: Outcome,
    leeway: ClockLeeway,
    now: float,
    *,
    looks_up_objects: bool = False,
) -> Explanation:
    """Explain the outcome of ``Authenticator.authenticate`` for the same token, leeway and time.

    ``looks_up_objects`` is whether the authenticator had a source of objects.
    """
    failed = len(CHECKS)
    if not isinstance(outcome, Authenticated):
        failed = CHECKS.index(_failed_check(outcome.error))
    checks = []
    for place, name in enumerate(CHECKS):
        result = OK if place < failed else FAIL if place == failed else NOT_REACHED
        detail = _detail(name, result, token, outcome.claims, leeway, now)
        if name == "objects" and result == OK and not looks_up_objects:
            detail = "taken at its word: with `objects.source: none` nothing is looked up"
        checks.append(Check(name, result, detail))
    if isinstance(outcome, Authenticated):
        return Explanation(tuple(checks), _accepted(outcome), _lifetime(outcome.claims, now))
    error = outcome.error
    verdict = f"REFUSED ({error.reason}): {error}"
    return Explanation(tuple(checks), verdict, _advice(error, token))


def _failed_check(error: TokenRefusedError) -> str:
    if isinstance(error, MalformedTokenError):
        return "form"
    return "objects" if isinstance(error, MarkedInvalidError) else _CHECK_OF_REASON[error.reason]


def _advice(error: TokenRefusedError, token: str) -> str:
    special = _SPECIAL_ADVICE.get(type(error))
    if special:
        return special
    if _failed_check(error) == "form" and _is_complete(token):
        return _HEADER_ADVICE if error.is_ours else _NO_ISSUER_ADVICE
    text = _ADVICE[_failed_check(error)]
    if not isinstance(error, ClockError):
        return text
    needed = f"{error.skew_seconds}s"
    if error.skew_seconds > _MAX_LEEWAY_SECONDS:
        needed += f" (more than the {_MAX_LEEWAY_SECONDS}s that can be set: correct the clock)"
    return text.format(needed=needed, wait=rounded_duration(error.short_seconds))


def _is_complete(token: str) -> bool:
    """Return whether all three parts can be decoded, whatever they contain."""
    try:
        parsed = jws.parse(token)
        msgspec.json.decode(decode_base64url(parsed.header_segment))
        msgspec.json.decode(parsed.unverified_payload)
        decode_base64url(parsed.signature_segment)
    except (KeysError, msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def _accepted(outcome: Authenticated) -> str:
    text = f"ACCEPTED: {outcome.claims.subject}"
    if outcome.leeway_claims:
        text += f", only thanks to the leeway for {', '.join(outcome.leeway_claims)}"
    if outcome.stale_seconds is not None:
        text += f"; stale: {rounded_duration(outcome.stale_seconds)} past its warnafter"
    return text


def _lifetime(claims: Claims, now: float) -> str:
    if claims.expires_at is None:
        return "This token never expires. Replace it by one of the TokenRequest API."
    if claims.expires_at < now:
        return "Nothing is wrong yet, but the token has expired: read a new one now."
    left = rounded_duration(claims.expires_at - now)
    return f"Nothing needs to be done; the token is good for another {left}."


def _detail(
    name: str, result: str, token: str, claims: Claims | None, leeway: ClockLeeway, now: float
) -> str:
    if claims is not None and name in _CLOCK_CHECKS:
        return _clock_detail(name, claims, leeway, now)
    if result == NOT_REACHED:
        return "not checked, because of the line above that failed"
    details = {
        "form": ("a JWT of {length} characters", "not a JWT that can be accepted"),
        "issuer": ("made by an issuer that is trusted here", "made by an issuer unknown here"),
        "key": ("{key} is here", "none of the issuer's keys fits"),
        "signature": (
            "made with that key; nobody has changed the token since",
            "not made with that key",
        ),
        "claims": ("complete; it speaks for {subject}", "not those of a service account token"),
        "audience": ("made for {audiences}", "made for {audiences}, which is not what was asked"),
        "objects": ("what it is bound to is not gone", "not what it was made for, see below"),
        "revoked": ("not revoked", "revoked"),
    }
    return details[name][result == FAIL].format(
        length=len(token),
        key=_describe_key(token) if name == "key" and result == OK else "",
        subject=claims.subject if claims else "",
        audiences=", ".join(claims.audiences) or "the API server" if claims else "",
    )


def _describe_key(token: str) -> str:
    header = jws.header(jws.parse(token))
    return f"the {header.algorithm} key " + (header.kid or "that fits, for it names none,")


def _clock_detail(name: str, claims: Claims, leeway: ClockLeeway, now: float) -> str:
    moment, allowed, words = {
        "not before": (claims.not_before, leeway.not_before, ("valid since", "valid from")),
        "expiry": (claims.expires_at, leeway.expiry, ("expired at", "expires at")),
        "issued at": (claims.issued_at, leeway.issued_at, ("issued at", "issued at")),
    }[name]
    if moment is None:
        return "the token has no such time"
    ahead = moment - now
    distance = rounded_duration(ceil(abs(ahead)))
    where = f"in {distance}" if ahead > 0 else f"{distance} ago"
    needed = ceil(max(0.0, -ahead if name == "expiry" else ahead))
    return (
        f"{words[ahead > 0]} {utc(moment)}, {where}; leeway needed {needed}s, allowed {allowed:g}s"
    )
