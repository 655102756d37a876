"""What the pages need before their first command, and which commands cannot be run as printed.

Everything else that a page prints after a prompt is run as it stands, in order, in one shell.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
INITIALISED: Final = "umask 077\nleeway init > init.log"
UNTIL_READY: Final = (
    "until curl -sf --cacert leeway-data/tls/ca.crt https://127.0.0.1:8443/readyz > ready.log; "
    "do kill -0 $!; sleep 0.1; done"
)
SERVING: Final = f"{INITIALISED}\nleeway serve > server.log 2>&1 &\n{UNTIL_READY}"
WITH_TOKEN: Final = "leeway token create loofah -n argo-run > token"
PYTHON_BLOCK: Final = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
NEEDS_CLUSTER: Final = "needs a cluster; tests/deploy checks what is applied to it"
NEEDS_CONTAINERS: Final = "needs a container engine; tests/unit/test_packaging.py does its steps"
TAKES_LONG: Final = "takes minutes to hours"


@dataclass(frozen=True)
class Adapted:
    """A command that is run in another form, and why."""

    pattern: str
    replacement: str
    reason: str


@dataclass(frozen=True)
class Page:
    """How the commands of one page are run.

    ``before`` is run first, and ``needs`` are programs without which the page is skipped.
    ``not_run`` has the reason by the beginning of a command, ``exits`` the exit codes other than
    0, and ``not_compared`` the reason why what a command printed is not what it prints each time.
    """

    before: str = ""
    needs: tuple[str, ...] = ()
    adapted: tuple[Adapted, ...] = ()
    not_run: dict[str, str] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    not_compared: dict[str, str] = field(default_factory=dict)


SERVE: Final = Adapted(
    r"leeway serve(?: &)?$",
    f"leeway serve > server.log 2>&1 &\n{UNTIL_READY}",
    "its log would come between the output of other commands, and a shell waits for no server",
)
PAGES: Final = {
    "README.md": Page(
        needs=("curl",),
        adapted=(
            SERVE,
            Adapted(r"^make demo$", f"make -C {ROOT} --no-print-directory demo", "elsewhere"),
            Adapted(r"\. \.venv/bin/activate", ":", "the session has the commands on its PATH"),
        ),
        exits={"leeway token review @token --at": 1},
    ),
}


def python_of(page: Path, number: int = 0) -> str:
    """Return the text of a Python block of a page."""
    return PYTHON_BLOCK.findall(page.read_text("utf-8"))[number]
