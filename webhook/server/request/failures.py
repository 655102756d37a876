"""What is said of an error after which a server goes on."""

from typing import Final

from keys.errors import KeysError
from keys.messages import describe_os_error
from webhook.errors import LeewayError

_EXPECTED: Final = (OSError, LeewayError, KeysError)


def in_words(error: Exception) -> str:
    """Return what is wrong. What nobody expected may say anything, so it is left to the log."""
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, _EXPECTED):
        return str(error)
    return f"an internal error occurred ({type(error).__name__}); it is in the log"


def traceback_of(error: Exception) -> Exception | None:
    """Return what a log record gets as ``exc_info``: what is expected needs no traceback."""
    return None if isinstance(error, _EXPECTED) else error
