"""Runs the command line in this process, so that coverage counts it, or in its own."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.secrets_made import printed

LEEWAY = str(Path(sys.executable).with_name("leeway"))


@dataclass(frozen=True)
class Ran:
    """The result of a command: its exit code and its output."""

    code: int
    out: str
    err: str

    def assert_done(self) -> str:
        """Assert exit code 0 and an empty stderr; return stdout."""
        assert (self.code, self.err) == (0, ""), self
        return self.out

    def assert_failed(self, code: int, *parts: str) -> str:
        """Assert an exit code, one line on stderr with all parts, and an empty stdout."""
        assert self.code == code, self
        assert self.out == ""
        assert re.fullmatch(r"leeway: [^\n]+\n", self.err), self.err
        assert "Traceback" not in self.err
        assert len(self.err) < 1000
        for part in parts:
            assert part in self.err
        return self.err


class Leeway(Protocol):
    """Runs ``leeway`` with arguments in this process."""

    def __call__(self, *arguments: str | Path, stdin: str = "") -> Ran: ...


def run_process(
    *arguments: str | Path,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Ran:
    """Run ``leeway`` in a process of its own."""
    done = subprocess.run(
        [LEEWAY, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        timeout=120,
    )
    ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
    printed(("leeway", *arguments), ran.out, ran.err)
    return ran
