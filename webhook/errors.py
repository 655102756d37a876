"""One family of errors. The base is never raised; messages are one sentence, fit to be shown.

``TokenRefusedError`` and what is below it are outcomes: the authenticator returns them, typed and
with their numbers, and never lets them out as exceptions.
"""

from collections.abc import Sequence
from enum import StrEnum
from math import ceil
from typing import ClassVar, NamedTuple, Self

from webhook.go_text import MAX_SHOWN, go_quoted


class LeewayError(Exception):
    """Base of everything that Leeway itself raises."""


class ConfigurationError(LeewayError):
    """A configuration that cannot be used: names the source, the field, and what is allowed."""


class ConfiguredFileError(ConfigurationError):
    """A file that the configuration names and that cannot be opened."""


class DataDirectoryError(LeewayError):
    """A data directory in which something is missing, too open, or already there."""

    @classmethod
    def none_at(cls, path: object) -> Self:
        """Return the error for a folder that is not a data directory."""
        return cls(
            f"{path} is not a data directory; create one with `leeway init`, or give another "
            "with --data-dir"
        )


class DirectoryDiffersError(DataDirectoryError):
    """A data directory that was made with other options than those that are given now."""


class CertificateError(LeewayError):
    """A certificate that cannot be made, renewed or revoked as asked for."""


class ServerUnreachableError(LeewayError):
    """A server that cannot be reached, or that does not answer what it was asked."""


class InvalidReviewError(LeewayError):
    """A request body that is not the review it should be."""


class Cause(NamedTuple):
    """Why a field is wrong: ``FieldValueInvalid`` or the like, in words, and which field."""

    reason: str
    message: str
    field: str


class InvalidObjectError(LeewayError):
    """An object that is well formed, but not valid: a cause for each field that is wrong.

    Source of the message: kubernetes ``apimachinery/pkg/api/errors``, ``NewInvalid``.
    """

    def __init__(self, kind: str, group: str, name: str, causes: Sequence[Cause]) -> None:
        texts = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
        text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
        qualified = f"{kind}.{group}" if group else kind
        super().__init__(f'{qualified} "{name}" is invalid: {text}')
        self.kind = kind
        self.group = group
        self.name = name
        self.causes = causes


class IssueError(LeewayError):
    """A token that may not be issued as asked for.

    ``field`` is the one of a TokenRequest that is wrong: it is ``required`` but empty, or its
    ``value`` is not allowed, or, without a value, what it asks for is not. ``detail`` is what
    Kubernetes says of it.
    """

    def __init__(
        self,
        message: str,
        field: str = "spec",
        value: str | int | None = None,
        detail: str = "",
        *,
        required: bool = False,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.detail = detail or message
        self.required = required


class ObjectNotFoundError(LeewayError):
    """An object that a request needs is not there. ``resource`` is its plural, ``pods``."""

    def __init__(self, resource: str, name: str) -> None:
        super().__init__(f"{resource} {go_quoted(name)} not found")
        self.resource = resource
        self.name = name[:MAX_SHOWN]


class ObjectConflictError(LeewayError):
    """An object is there, but not the one that a request means."""

    def __init__(self, kind: str, group: str, name: str, why: str) -> None:
        qualified = f"{kind}.{group}" if group else kind
        super().__init__(f"Operation cannot be fulfilled on {qualified} {go_quoted(name)}: {why}")
        self.kind = kind
        self.group = group
        self.name = name[:MAX_SHOWN]


class NotIssuedError(LeewayError):
    """A token that is not issued, because what it is to be bound to is missing or another one."""


class LookupUnavailableError(LeewayError):
    """An object that a request needs could not be looked up now."""


class APIServerError(LeewayError):
    """An API server that could not be asked, or did not answer as asked.

    ``code`` is the HTTP status, or that of an event, and 0 where there was no whole answer;
    ``is_not_found`` tells whether the API server itself says that an object is not there, and not a
    proxy before it.
    """

    def __init__(self, message: str, code: int = 0, *, is_not_found: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_not_found = is_not_found


class KeysUnavailableError(LeewayError):
    """The keys of a trusted issuer could not be fetched, or what was fetched cannot be used."""


class HandshakeFailure(StrEnum):
    """Why a TLS handshake failed, as in the label of its metric."""

    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    CERTIFICATE_REVOKED = "certificate-revoked"
    CERTIFICATE_UNTRUSTED = "certificate-untrusted"
    CERTIFICATE_NOT_FOR_CLIENTS = "certificate-not-for-clients"
    CERTIFICATE_REFUSED = "certificate-refused"
    REVOCATION_LIST = "revocation-list"
    REFUSED_BY_CLIENT = "refused-by-client"
    NO_COMMON_VERSION = "no-common-version"
    NOT_TLS = "not-tls"
    SESSION_RESUMED = "session-resumed"
    UNFINISHED = "unfinished"
    OTHER = "other"


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
    SERVICE_ACCOUNT_GONE = "ServiceAccountGone"
    UID_MISMATCH = "UIDMismatch"
    BOUND_OBJECT_GONE = "BoundObjectGone"
    LOOKUP_FAILED = "LookupFailed"
    REVOKED = "Revoked"


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


class UnknownBindingError(InvalidClaimsError):
    """Claims that bind the token to a kind of object that is not known here."""


class NotRecognisedError(TokenRefusedError):
    """A token of an issuer that is not trusted here."""

    reason = Reason.NOT_RECOGNISED
    is_ours = False


class UnknownKeyError(TokenRefusedError):
    """No key of the issuer, whose URL is ``issuer``, has the token's ``kid``."""

    reason = Reason.UNKNOWN_KEY

    def __init__(self, message: str, issuer: str) -> None:
        super().__init__(message)
        self.issuer = issuer


class NoKeysError(UnknownKeyError):
    """There are no keys of the issuer, since they could not be fetched."""


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


class ServiceAccountGoneError(TokenRefusedError):
    """The service account has been deleted."""

    reason = Reason.SERVICE_ACCOUNT_GONE


class UIDMismatchError(TokenRefusedError):
    """An object of that name is there, but it is another one."""

    reason = Reason.UID_MISMATCH


class BoundObjectGoneError(TokenRefusedError):
    """The Pod, Secret or Node that the token is bound to has been deleted."""

    reason = Reason.BOUND_OBJECT_GONE


class LookupFailedError(TokenRefusedError):
    """Whether an object still exists could not be found out; the token itself may be good."""

    reason = Reason.LOOKUP_FAILED


class RevokedError(TokenRefusedError):
    """The token has been revoked."""

    reason = Reason.REVOKED


class MarkedInvalidError(RevokedError):
    """Kubernetes has marked the Secret of a legacy token as invalid."""


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
