"""Which claims are signed for kube-apiserver: text and the time in, a decision out.

Source: kubernetes ``pkg/serviceaccount/claims.go`` writes the claims,
``pkg/serviceaccount/externaljwt/plugin`` sends them.

>>> from webhook.token.claims import ClockLeeway
>>> policy = SigningPolicy("https://a.example", 3600, ClockLeeway(60, 60, 60))
>>> check_claims("e30", 0.0, policy)
Traceback (most recent call last):
    ...
webhook.signer.policy.ClaimsRefusedError: the claims could not be validated: aud is missing
"""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

from keys.encoding import decode_base64url
from keys.errors import EncodingError
from webhook.errors import LeewayError, Reason, TokenRefusedError, go_quoted
from webhook.token.claims import Claims, ClockLeeway, parse_requested

MAX_CLAIMS_LENGTH: Final = 28 * 1024
"""Characters. With the longest header and signature a token has 32 KiB, which is the longest that
is verified."""
MIN_BEHIND_SECONDS: Final = 5.0
"""How far ``iat`` can be behind with any leeway: it has no fraction, and calls take time."""


class Refusal(StrEnum):
    """Why claims are not signed, as in the log and the label of the metric."""

    TOO_LARGE = "TooLarge"
    MALFORMED = "Malformed"
    OTHER_ISSUER = "OtherIssuer"
    SUBJECT_MISMATCH = "SubjectMismatch"
    LIFETIME = "LifetimeTooLong"
    IN_FUTURE = "IssuedInFuture"
    IN_PAST = "IssuedInPast"


class ClaimsRefusedError(LeewayError):
    """Claims that are not signed.

    ``claims`` are None unless they are those of a service account token of our issuer. ``skew`` is
    by how many seconds ``iat`` is ahead of this clock, None if that is not the reason.
    """

    def __init__(
        self,
        reason: Refusal,
        message: str,
        claims: Claims | None = None,
        skew: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.claims = claims
        self.skew = skew


@dataclass(frozen=True, slots=True)
class SigningPolicy:
    """Our issuer, the longest lifetime of a token in seconds, and the leeway for clocks."""

    issuer: str
    max_seconds: int
    leeway: ClockLeeway


def check_claims(segment: str, now: float, policy: SigningPolicy) -> Claims:
    """Return the claims of a payload segment that may be signed as it is.

    The segment (1) has at most 28 KiB, (2) is base64url without padding, (3) is JSON without
    duplicate members, (4) has the members that kube-apiserver writes and no others, whatever their
    case, with the right types and names that Kubernetes allows, bound to one object at most, and a
    ``sub`` that agrees with ``kubernetes.io``, (5) has our issuer, (6) has an ``nbf`` that is not
    after its ``iat``, and an ``exp`` that is after it by at most the longest lifetime, (7) has an
    ``iat`` that is ahead of this clock by at most the leeway for ``iat``, and (8) behind it by at
    most the leeway for ``exp``, or 5 seconds if that is less. ``now`` is in Unix seconds. Raises
    ClaimsRefusedError.
    """
    if len(segment) > MAX_CLAIMS_LENGTH:  # 1.
        raise ClaimsRefusedError(
            Refusal.TOO_LARGE,
            f"the claims have {len(segment)} characters, {MAX_CLAIMS_LENGTH} are accepted",
        )
    claims = _parse(segment)
    if claims.issuer != policy.issuer:  # 5.
        raise ClaimsRefusedError(
            Refusal.OTHER_ISSUER,
            f"the claims have the issuer {go_quoted(claims.issuer)}, not {policy.issuer}; "
            "kube-apiserver's --service-account-issuer and the issuer of leeway.yaml must be the "
            "same",
        )
    issued, expires = claims.issued_at or 0, claims.expires_at or 0
    lifetime = expires - issued
    if (claims.not_before or 0) > issued:  # 6.
        raise ClaimsRefusedError(
            Refusal.MALFORMED, "the claims have an nbf after their iat", claims
        )
    if not 0 < lifetime <= policy.max_seconds:  # 6.
        raise ClaimsRefusedError(
            Refusal.LIFETIME,
            f"the token would live {lifetime}s; 1s to {policy.max_seconds}s is accepted "
            "(tokens.maxExpiration)",
            claims,
        )
    ahead = issued - now
    if ahead > policy.leeway.issued_at:  # 7.
        raise _skewed(Refusal.IN_FUTURE, claims, ahead, policy.leeway.issued_at)
    behind = max(policy.leeway.expiry, MIN_BEHIND_SECONDS)
    if -ahead > behind:  # 8.
        raise _skewed(Refusal.IN_PAST, claims, ahead, behind)
    return claims


def _parse(segment: str) -> Claims:
    try:
        payload = decode_base64url(segment.encode("ascii"))  # 2.
    except (UnicodeEncodeError, EncodingError) as error:
        why = str(error) if isinstance(error, EncodingError) else "not ASCII"
        raise ClaimsRefusedError(Refusal.MALFORMED, f"the claims are {why}") from error
    try:
        return parse_requested(payload)  # 3, 4.
    except TokenRefusedError as error:
        is_subject = error.reason is Reason.SUBJECT_MISMATCH
        reason = Refusal.SUBJECT_MISMATCH if is_subject else Refusal.MALFORMED
        text = str(error).removeprefix("service account token ")
        raise ClaimsRefusedError(reason, f"the {text}") from error


def _skewed(reason: Refusal, claims: Claims, ahead: float, leeway: float) -> ClaimsRefusedError:
    """Return the refusal for a clock that differs; seconds are rounded up, as in reviews."""
    where = "ahead of" if ahead > 0 else "behind"
    return ClaimsRefusedError(
        reason,
        f"kube-apiserver's clock is {ceil(abs(ahead))}s {where} this signer's: that is by how much "
        f"iat differs, and {leeway:g}s are accepted; set the clock that is wrong",
        claims,
        ahead,
    )
