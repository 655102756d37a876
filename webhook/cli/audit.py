"""The audit log of commands: ``audit.log`` in the data directory."""

import errno
import os
import pwd
from pathlib import Path
from time import time

from webhook.cli.output import say
from webhook.telemetry.audit import AUDIT_FILE, DONE, append_line, audit_fields, audit_message


def audit(data_dir: Path, action: str, **fields: object) -> None:
    """Append a line with what a command has done, who ran it, and ``fields``.

    A line that cannot be written is only a warning, since the change has been made.
    """
    path = data_dir / AUDIT_FILE
    who = {"caller": f"os:{_operating_user()}"}
    try:
        line = audit_fields(action, DONE, "command", who, fields)
        append_line(path, time(), audit_message(action, DONE), line)
    except OSError as error:
        is_link = error.errno == errno.ELOOP
        why = "it is a symbolic link" if is_link else error.strerror or str(error)
        say(f"leeway: warning: this was done, but not written to {path}: {why}", err=True)


def _operating_user() -> str:
    # Not from the environment, which the caller controls.
    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
