"""The errors of Leeway. The base is never raised; a message is one sentence for users.

``TokenRefusedError`` and its subclasses are outcomes: the authenticator returns them and never
raises them to its callers.
"""

from collections.abc import Sequence
from enum import StrEnum
from math import ceil
from typing import Final, NamedTuple, Self

MAX_SHOWN: Final = 256
"""How many characters of a client's text a message repeats; Kubernetes repeats all of it."""
_GO_ESCAPES: Final = {
    '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
    "\t": "\\t", "\v": "\\v",
}  # fmt: skip


def go_quoted(text: str) -> str:
    """Quote a text as Go's ``%q`` does, which Kubernetes uses; cut after 256 characters."""
    return f'"{"".join(map(_go_character, text[:MAX_SHOWN]))}"'


def _go_character(character: str) -> str:
    if character in _GO_ESCAPES or character.isprintable():
        return _GO_ESCAPES.get(character, character)
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class LeewayError(Exception):
    """Base of everything that Leeway itself raises."""


class ConfigurationError(LeewayError):
    """A configuration that cannot be used; names the source, the field and what is allowed."""


class ConfiguredFileError(ConfigurationError):
    """A file that the configuration names and that cannot be opened."""


class DataDirectoryError(LeewayError):
    """A data directory in which a file is missing, too open or already there."""

    @classmethod
    def none_at(cls, path: object) -> Self:
        """Return the error for a folder that is not a data directory."""
        return cls(
            f"{path} is not a data directory; create one with `leeway init`, or give another "
            "with --data-dir"
        )


class DirectoryDiffersError(DataDirectoryError):
    """A data directory that was made with options other than those given now."""


class CertificateError(LeewayError):
    """A certificate that cannot be made, renewed or revoked as requested."""


class ServerUnreachableError(LeewayError):
    """A server that cannot be reached, or whose answer does not fit the request."""


class InvalidReviewError(LeewayError):
    """A request body that is not the object expected."""


class Cause(NamedTuple):
    """Why a field is wrong: a reason like ``FieldValueInvalid``, a message, and the field."""

    reason: str
    message: str
    field: str


class InvalidObjectError(LeewayError):
    """An object that is well formed but not valid, with a cause for each field that is wrong.

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
    """A token that cannot be issued as requested.

    ``field`` is the wrong field of a TokenRequest: it is ``required`` but empty, or its ``value``
    is not allowed; without a value, the request is not allowed at all. ``detail`` is Kubernetes'
    text for it.
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
    """An object that a request needs does not exist. ``resource`` is a plural like ``pods``."""

    def __init__(self, resource: str, name: str) -> None:
        super().__init__(f"{resource} {go_quoted(name)} not found")
        self.resource = resource
        self.name = name[:MAX_SHOWN]


class ObjectConflictError(LeewayError):
    """An object exists, but has another UID than the request."""

    def __init__(self, kind: str, group: str, name: str, why: str) -> None:
        qualified = f"{kind}.{group}" if group else kind
        super().__init__(f"Operation cannot be fulfilled on {qualified} {go_quoted(name)}: {why}")
        self.kind = kind
        self.group = group
        self.name = name[:MAX_SHOWN]


class NotIssuedError(LeewayError):
    """A token that is not issued, because its object is missing or is a different one."""


class LookupUnavailableError(LeewayError):
    """An object that a request needs cannot be looked up at the moment."""


class APIServerError(LeewayError):
    """A request to an API server that failed.

    ``code`` is the HTTP status, or that of a watch event, and 0 without a complete response.
    ``is_not_found`` is true where the API server itself, and not a proxy in front of it, says that
    the object does not exist.
    """

    def __init__(self, message: str, code: int = 0, *, is_not_found: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_not_found = is_not_found


class KeysUnavailableError(LeewayError):
    """Keys of a trusted issuer that cannot be fetched, or that cannot be used."""


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
    """A token that is refused, with the reason as data.

    ``is_ours`` is false for a token that another authenticator may know: its refusal carries no
    error to the API server.
    """

    def __init__(self, reason: Reason, message: str, *, is_ours: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.is_ours = is_ours


class MalformedTokenError(TokenRefusedError):
    """Text that is not a JWT, or a JWT whose header or signature is not accepted."""

    def __init__(self, message: str, *, is_ours: bool = True) -> None:
        super().__init__(Reason.MALFORMED, message, is_ours=is_ours)


class InvalidClaimsError(TokenRefusedError):
    """Claims that are not those of a service account token."""

    def __init__(self, detail: str) -> None:
        text = f"service account token claims could not be validated: {detail}"
        super().__init__(Reason.MALFORMED, text)


class UnknownBindingError(InvalidClaimsError):
    """Claims that bind the token to a kind of object that Leeway does not know."""


class UnknownKeyError(TokenRefusedError):
    """No key of the issuer, whose URL is ``issuer``, has the token's ``kid``."""

    def __init__(self, message: str, issuer: str) -> None:
        super().__init__(Reason.UNKNOWN_KEY, message)
        self.issuer = issuer


class NoKeysError(UnknownKeyError):
    """There are no keys of the issuer, because they could not be fetched."""


class MarkedInvalidError(TokenRefusedError):
    """Kubernetes has marked the Secret of a legacy token as invalid."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.REVOKED, message)


class ClockError(TokenRefusedError):
    """A claim that is on the wrong side of the clock by more than the leeway.

    ``skew_seconds`` is by how much, ``leeway_seconds`` what was allowed, and ``short_seconds``
    how much more leeway would have let the token pass; in whole seconds, rounded up.
    """

    def __init__(self, reason: Reason, claim: str, skew: float, leeway: float) -> None:
        self.skew_seconds = ceil(skew)
        self.leeway_seconds = leeway
        self.short_seconds = ceil(skew - leeway)
        if reason is Reason.EXPIRED:
            phrase, where = "has expired", f"was {self.skew_seconds}s ago by"
        else:
            is_early = reason is Reason.NOT_YET_VALID
            phrase = "is not valid yet" if is_early else "is issued in the future"
            where = f"is {self.skew_seconds}s ahead of"
        super().__init__(
            reason,
            f"service account token {phrase}: {claim} {where} this server's clock "
            f"(leeway {leeway:g}s, {self.short_seconds}s short)",
        )
