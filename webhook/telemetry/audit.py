"""The audit log: who changed what, and who was issued which token.

A line is written after the action, on a best-effort basis: an acknowledged change is in the store
whether or not its line could be written, and a failure to write is reported.

The server's lines go to its log. A command has no log, so its lines go to ``audit.log`` in the data
directory; only users who can run commands make that file grow.
"""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from keys.files import hand_over
from keys.messages import utc
from webhook.telemetry.log_lines import Fields, json_line
from webhook.token.claims import Claims

AUDIT_FILE: Final = "audit.log"
DONE: Final = "done"
DENIED: Final = "denied"
FAILED: Final = "failed"
UNKNOWN: Final = "unknown"
"""Whether the change was made is not known."""


class Audit(Protocol):
    """Writes a line about an action, with the user who caused it."""

    def __call__(self, action: str, outcome: str, fields: Fields) -> None:
        """Write a line. Never raises."""


def audit_fields(action: str, outcome: str, via: str, who: Fields, fields: Fields) -> Fields:
    """Return the fields of a line; ``via`` is ``server`` or ``command``."""
    return {"event": "audit", "action": action, "outcome": outcome, "via": via, **who, **fields}


def audit_message(action: str, outcome: str) -> str:
    """Return the message of a line."""
    return f"{action} {outcome}"


def fingerprint(token: str) -> str:
    """Return the name of a token in logs: the first 12 hex digits of its SHA-256.

    >>> fingerprint("eyJhbGciOiJSUzI1NiJ9.e30.c2ln")
    'cc529d9b1b8a'
    """
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def token_fields(claims: Claims, token: str) -> Mapping[str, object]:
    """Return the fields about a token that was issued."""
    bound = {"Pod": claims.pod, "Secret": claims.secret, "Node": claims.node}
    named = [f"{kind} {one.name}" for kind, one in bound.items() if one is not None]
    return {
        "subject": claims.subject,
        "audiences": claims.audiences,
        "jti": claims.jti,
        "fingerprint": fingerprint(token),
        "expiresAt": None if claims.expires_at is None else utc(claims.expires_at),
        "boundObjects": named or None,
    }


def append_line(path: Path, seconds: float, message: str, fields: Fields) -> None:
    """Append a record to a file with mode 0600, completely or not at all.

    A symbolic link is not followed. Raises OSError if the file cannot be written.
    """
    data = json_line(seconds, "info", message, fields).encode("ascii") + b"\n"
    # Without O_NONBLOCK a pipe that nobody reads would block the command.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        if not size:
            hand_over(descriptor, path.parent)
        try:
            written = os.write(descriptor, data)
            if written < len(data):
                # A second write raises the error that stopped the first.
                os.write(descriptor, data[written:])
        except OSError:
            # A partial line would corrupt the next one.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
