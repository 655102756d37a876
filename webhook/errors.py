"""One family of errors. The base is never raised; messages are one sentence, fit to be shown.

``TokenRefusedError`` and what is below it are outcomes: the authenticator returns them, typed and
with their numbers, and never lets them out as exceptions.
"""

from enum import StrEnum
from math import ceil
from typing import ClassVar


class LeewayError(Exception):
    """Base of everything that Leeway itself raises."""


class ConfigurationError(LeewayError):
    """A configuration that cannot be used: names the source, the field, and what is allowed."""


class DataDirectoryError(LeewayError):
    """A data directory in which something is missing, too open, or already there."""


class InvalidReviewError(LeewayError):
    """A request body that is not the review it should be."""


class IssueError(LeewayError):
    """A token that may not be issued as asked for."""


class Reason(StrEnum):
    """Why a token is refused, as in the annotation ``leeway.dev/reason``."""

    MALFORMED = "Malformed"
    NOT_RECOGNISED = "NotRecognised"
    UNKNOWN_KEY = "UnknownKey"
    ALGORITHM_NOT_ALLOWED = "AlgorithmNotAllowed"
    BAD_SIGNATURE = "BadSignature"
    AUDIENCE_MISMATCH = "AudienceMismatch"
    EXPIRED = "Expired"
    NOT_YET_VALID = "NotYetValid"
    ISSUED_IN_FUTURE = "IssuedInFuture"
    SUBJECT_MISMATCH = "SubjectMismatch"


class TokenRefusedError(LeewayError):
    """Base of the refusals.

    ``is_ours`` tells whether the token names an issuer of ours; another authenticator may know
    the others, so their refusal carries no error to the API server.
    """

    reason: ClassVar[Reason]
    is_ours = True


class NotATokenError(TokenRefusedError):
    """Not a JWT that names an issuer."""

    reason = Reason.MALFORMED
    is_ours = False


class MalformedTokenError(TokenRefusedError):
    """A JWT of an issuer of ours whose header or signature is not accepted."""

    reason = Reason.MALFORMED


class InvalidClaimsError(TokenRefusedError):
    """Claims that are not those of a service account token."""

    reason = Reason.MALFORMED


class NotRecognisedError(TokenRefusedError):
    """A token of an issuer that is not trusted here."""

    reason = Reason.NOT_RECOGNISED
    is_ours = False


class UnknownKeyError(TokenRefusedError):
    """No key of the issuer has the token's ``kid``."""

    reason = Reason.UNKNOWN_KEY


class TokenAlgorithmError(TokenRefusedError):
    """The token's ``alg`` is not that of the key."""

    reason = Reason.ALGORITHM_NOT_ALLOWED


class BadSignatureError(TokenRefusedError):
    """The signature is not one by the key that the token names."""

    reason = Reason.BAD_SIGNATURE


class AudienceMismatchError(TokenRefusedError):
    """The token is for none of the audiences asked for."""

    reason = Reason.AUDIENCE_MISMATCH


class SubjectMismatchError(TokenRefusedError):
    """``sub`` contradicts the ``kubernetes.io`` claims."""

    reason = Reason.SUBJECT_MISMATCH


class ClockError(TokenRefusedError):
    """Base of the refusals that a clock decides.

    ``skew_seconds`` is how far the claim is on the wrong side of the clock, ``leeway_seconds``
    what was allowed, ``short_seconds`` how much more would have let the token pass; whole
    seconds, rounded up.
    """

    phrase: ClassVar[str]

    def __init__(self, claim: str, skew: float, leeway: float) -> None:
        self.claim = claim
        self.skew_seconds = ceil(skew)
        self.leeway_seconds = leeway
        self.short_seconds = ceil(skew - leeway)
        super().__init__(
            f"service account token {self.phrase}: {self._where()} "
            f"(leeway {leeway:g}s, {self.short_seconds}s short)"
        )

    def _where(self) -> str:
        return f"{self.claim} is {self.skew_seconds}s ahead of this server's clock"


class NotYetValidError(ClockError):
    """``nbf`` is further ahead than the leeway."""

    reason = Reason.NOT_YET_VALID
    phrase = "is not valid yet"


class IssuedInFutureError(ClockError):
    """``iat`` is further ahead than the leeway."""

    reason = Reason.ISSUED_IN_FUTURE
    phrase = "is issued in the future"


class ExpiredError(ClockError):
    """``exp`` is longer ago than the leeway."""

    reason = Reason.EXPIRED
    phrase = "has expired"

    def _where(self) -> str:
        return f"{self.claim} was {self.skew_seconds}s ago by this server's clock"
