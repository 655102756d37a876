"""Runs the command line as another user than root, when the tests run as root."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

NOBODY = 65534
_ROOT = Path(__file__).parent.parent


def run_as_nobody(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run ``leeway`` with arguments, as NOBODY."""
    return subprocess.run(
        [*program_of_nobody(), *map(str, arguments)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env=environment_of_nobody(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def environment_of_nobody() -> dict[str, str]:
    """Return an environment in which any Python of this version finds the installed packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEEWAY_")}
    paths = [str(_ROOT), *(path for path in sys.path if path.endswith("site-packages"))]
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "HOME": "/"}


@cache
def program_of_nobody() -> tuple[str, ...]:
    """Return a ``leeway`` that NOBODY can run. Skips the test if that is impossible."""
    if os.getuid() != 0:
        pytest.skip("only root can run a command as another user")
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            subprocess.run(
                [python, "-c", "import webhook.cli.main"],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                env=environment_of_nobody(),
                cwd="/",
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return python, "-m", "webhook"
    pytest.skip("no Python of this version can be run by another user")


def folder_in_reach() -> Path:
    """Make a folder that every user can reach, unlike those of pytest."""
    folder = Path(mkdtemp(prefix="leeway-tests-"))
    folder.chmod(0o755)
    return folder
