"""Every command of the documents is run as printed, and its output compared."""

import difflib
import os
import re
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import sleep

import pytest

from tests.secrets_made import folder_made

from .pages import PAGES, ROOT, Page, python_of
from .shell import Session, Step, steps_of

DOCUMENTS = [
    name
    for name in (
        "README.md",
        *(f"{name}.md" for name in ("ARCHITECTURE", "CONTRIBUTING", "SECURITY")),
        *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
    )
    if steps_of((ROOT / name).read_text("utf-8"))
]
PORT = 8443
# Text that differs from run to run, and what is compared instead.
CHANGING = [
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "TIME"),
    (r"\b\d{4}-\d\d-\d\d\b", "DATE"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UUID"),
    (r"(?<![\w-])[\w-]{43}(?![\w-])", "KID"),
    (r"\bToken [0-9a-f]{12}\b", "Token FINGERPRINT"),
    (r"\ba JWT of \d+ characters", "a JWT of N characters"),
    (r"\b[0-9A-F]{32,40}\b", "SERIAL"),
    (r"\bencryption key [0-9a-f]{16}\b", "encryption key ID"),
    (r"\b(encrypted with|before with|has only) [0-9a-f]{16}\b", r"\1 ID"),
    (r'"(pid|durationMs|skewSeconds)":[0-9.]+', r'"\1":N'),
    (r"\b3\.[4-9]\.\d+\b", "3.N.N"),
    (r"\b[0-9a-f]{32}\b", "ID"),
    (r"\b(?:leader|follower)\b", "ROLE"),
    (r"\b\d+\.\d+(ms|s| s|MiB| MiB)\b", r"N\1"),
    (r"\b\d+s (ahead of|behind) this signer", r"OFFSET \1 this signer"),
    (r'"(requestId|fingerprint)":"[0-9a-f]+"', r'"\1":"HEX"'),
    (r"\b1[789]\d{8}\b", "SECONDS"),
    (r"\bDate: .* GMT\b", "Date: DATE"),
    (r"\bcontent-length: \d+", "content-length: N"),
    (r"\b(in|another|active for) (?:\d+[dhms])+", r"\1 DURATION"),
    (r"\d+\.\ds (ahead of|behind) this one \(± \d\.\ds", r"OFFSET this one (ERROR"),
    (r"\b(?:\d+[dhms])+ (ago|old)\b", r"DURATION \1"),
    (r"(is \S+) (?:ahead of|behind) (this one)", r"\1 OFF \2"),
]


def stable(line: str) -> str:
    """Return the part of a line that is the same in each run; white space counts as one blank."""
    for pattern, replacement in CHANGING:
        line = re.sub(pattern, replacement, line)
    return " ".join(line.split())


def differences(printed: Sequence[str], found: Sequence[str]) -> list[str]:
    """Return how the output differs from what a page shows.

    A line of ``...`` in the page stands for any lines, and ``...`` in a line for any text.
    """
    wanted = [stable(line) for line in "\n".join(printed).strip().splitlines()]
    got = [stable(line) for line in "\n".join(found).strip().splitlines()]
    pattern = "".join(
        r"(?:.*\n)*?"
        if line in ("...", "…")
        else re.sub(r"(?:\\\.){3}|…", ".*", re.escape(line)) + r"\n"
        for line in wanted
    )
    if re.fullmatch(pattern, "".join(f"{line}\n" for line in got)):
        return []
    return list(difflib.unified_diff(wanted, got, "the page", "this run", lineterm=""))


@pytest.mark.parametrize(
    ("printed", "found", "same"),
    [
        (["a b"], ["a   b", ""], True),
        (["a"], ["b"], False),
        (["a", "..."], ["a", "b", "c"], True),
        (["...", "c"], ["a", "b", "c"], True),
        (["...", "c"], ["a", "c", "b"], False),
        (["at 2026-11-25T15:11:43Z, 4s ago"], ["at 2027-01-01T00:00:00Z, 1m2s ago"], True),
        (["it has ... of them"], ["it has 3 of them"], True),
        (["it has ... of them"], ["it has 3 of those"], False),
        ([], ["a"], False),
    ],
)
def test_the_comparison(printed: list[str], found: list[str], same: bool) -> None:
    assert (differences(printed, found) == []) is same


def test_every_page_with_commands_is_listed() -> None:
    assert set(PAGES) == set(DOCUMENTS)


def entry(table: Mapping[str, str | int], step: Step, time: int, used: set[str]) -> str | int:
    """Return what a table says of a command that a page shows for the first, second ... time.

    An empty text where it says nothing. What was found is added to ``used``.
    """
    for beginning, value in table.items():
        text, _, number = beginning.partition("#")
        if step.command.startswith(text) and number in ("", str(time)):
            used.add(beginning)
            return value
    return ""


def is_port_free() -> bool:
    """Return whether the port of the pages is free; another run's server has a minute to end."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", PORT)) != 0:
                return True
        sleep(0.1)
    return False


@pytest.mark.fault(39)
@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page(name: str, tmp_path: Path) -> None:
    page = PAGES[name]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        path += f":{assets}"
    missing = [program for program in page.needs if not shutil.which(program, path=path)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    if not is_port_free():
        pytest.skip(f"something listens on port {PORT}, which the pages use")
    environment = {
        "HOME": str(tmp_path),
        "PATH": path,
        "TERM": "dumb",
        "KUBECONFIG": "",
        "MACHINE": str(tmp_path),
    }
    session = Session(tmp_path, environment)
    try:
        if page.before:
            lines, code = session.run(page.before)
            assert code == 0, "\n".join(lines)
        problems = run_steps(session, name, page)
    finally:
        session.close()
        folder_made(tmp_path)
        remove_what_a_user_made(tmp_path)
    assert problems == [], "\n".join(problems)


def remove_what_a_user_made(folder: Path) -> None:
    """Keep data directories and logs, in which no token and no password may be found."""
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".log":
            path.unlink()


def run_steps(session: Session, name: str, page: Page) -> list[str]:
    """Run the commands of a page; return what differs from it."""
    problems = []
    used: set[str] = set()
    seen: Counter[str] = Counter()
    for step in steps_of((ROOT / name).read_text("utf-8")):
        seen[step.command] += 1
        time = seen[step.command]
        if entry(page.not_run, step, time, used):
            continue
        if before := str(entry(page.first, step, time, used)):
            if "{python}" in before:
                before = before.replace("{python}", python_of(ROOT / name))
            lines, code = session.run(before)
            assert code == 0, "\n".join(lines)
        command = step.command
        for adapted in page.adapted:
            literal = adapted.replacement.replace("\\", r"\\")
            command, times = re.subn(adapted.pattern, literal, command, flags=re.M)
            used.update([adapted.pattern] * times)
        lines, code = session.run(command)
        wanted_code = entry(page.exits, step, time, used) or 0
        where = f"{name}:{step.line}: $ {step.command}"
        if code != wanted_code:
            problems += [f"{where}\nexit code {code}, not {wanted_code}", *lines]
        elif step.printed and not entry(page.not_compared, step, time, used):
            # The pages name the folders of the machine that they were written on.
            text = re.sub(f"{re.escape(str(session.folder))}/(etc|run)/", r"/\1/", "\n".join(lines))
            text = text.replace(f"{ROOT}/", "")
            shown = text.replace(str(session.folder), "/srv/demo").splitlines()
            differing = differences(step.printed, shown)
            problems += [where, *differing] if differing else []
    tables = {*page.not_run, *page.first, *page.exits, *page.not_compared}
    tables.update(adapted.pattern for adapted in page.adapted)
    return problems + [f"{name}: nothing begins with {text!r}" for text in sorted(tables - used)]
