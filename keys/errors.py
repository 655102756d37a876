"""Everything ``keys`` raises. The base class is never raised itself."""


class KeysError(Exception):
    """Base of every failure of this package. The message is one sentence, fit to be shown."""


class EncodingError(KeysError):
    """Bytes that are not the strict JSON or base64url they should be."""


class JOSEError(KeysError):
    """Base of what is wrong with a compact JWS."""


class MalformedJWSError(JOSEError):
    """Not a compact JWS, or a header that is not accepted."""


class AlgorithmNotAllowedError(JOSEError):
    """The header's ``alg`` is not the algorithm of the key."""


class InvalidKeyError(KeysError):
    """Base of what is wrong with a key or its file."""


class UnusableKeyError(InvalidKeyError):
    """A key that is too weak, of a kind that is not served, or not meant for signatures."""


class KeyFileError(InvalidKeyError):
    """A file that is missing, readable by others, empty, truncated or otherwise not a key."""


class KeyScheduleError(InvalidKeyError):
    """A set of keys that cannot be in use together, or a step that their states do not allow."""


class UnsafeStepError(KeyScheduleError):
    """A step that would break tokens in use now.

    ``safe_from`` (Unix seconds) is when it no longer would; None where time alone does not tell.
    """

    def __init__(self, message: str, safe_from: int | None) -> None:
        super().__init__(message)
        self.safe_from = safe_from
