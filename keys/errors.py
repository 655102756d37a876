"""Everything ``keys`` raises. The base class is never raised itself."""


class KeysError(Exception):
    """Base of all errors of this package. The message is one sentence for users."""


class EncodingError(KeysError):
    """Bytes that are not strict JSON or base64url."""


class MalformedJWSError(KeysError):
    """Not a compact JWS, or a header that is not accepted."""


class AlgorithmNotAllowedError(KeysError):
    """The header's ``alg`` is not the algorithm of the key."""


class InvalidKeyError(KeysError):
    """Base of the errors of a key or its file."""


class UnusableKeyError(InvalidKeyError):
    """A key that is too weak, of an unsupported kind, or not for signatures."""


class KeyFileError(InvalidKeyError):
    """A file that is missing, readable by others, empty, corrupt or not a key."""


class KeyScheduleError(InvalidKeyError):
    """Keys that cannot be used together, or a step that their states do not allow."""


class MissingEncryptionKeyError(InvalidKeyError):
    """A stored key cannot be decrypted: its encryption key is missing here."""


class SealedRecordError(InvalidKeyError):
    """A stored signing key or schedule that is not authentic: damaged, or written by others."""


class RestoredScheduleError(InvalidKeyError):
    """A stored schedule that is older than one that was in use, or that nobody has kept."""


class NotSigningError(KeyScheduleError):
    """No key signs now; what can be verified still is."""


class UnsafeStepError(KeyScheduleError):
    """A step that would break tokens which are in use.

    ``safe_from`` (Unix seconds) is when it is safe; None if that does not depend on time alone.
    """

    def __init__(self, message: str, safe_from: int | None) -> None:
        super().__init__(message)
        self.safe_from = safe_from
