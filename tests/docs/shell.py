"""The console blocks of a page as a session: its commands in order, with their output."""

import os
import re
import selectors
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.support import processes_of_session

_BLOCK = re.compile(r"^( *)```console\n(.*?)^\1```$", re.M | re.S)
_PROMPT = "$ "
_MARK = "end-of-command"
_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Step:
    """A command, the lines that the page shows below it, and the line of the page it is on."""

    command: str
    printed: tuple[str, ...]
    line: int


def steps_of(text: str) -> list[Step]:
    """Return the commands of a page, in order."""
    return [
        step
        for match in _BLOCK.finditer(text)
        for step in _steps_in(match[2], match[1], text.count("\n", 0, match.start()) + 2)
    ]


def _steps_in(block: str, indent: str, first: int) -> Iterator[Step]:
    lines = [line.removeprefix(indent) for line in block.splitlines()]
    starts = [i for i, line in enumerate(lines) if line.startswith(_PROMPT)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        command = lines[start].removeprefix(_PROMPT)
        below = start + 1
        while below < end and not _is_complete(command):
            command += "\n" + lines[below]
            below += 1
        yield Step(command, tuple(lines[below:end]), first + start)


def _is_complete(command: str) -> bool:
    """Return whether a command is complete, so that a shell asks for no further line."""
    if command.endswith("\\"):
        return False
    checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False)
    # A here-document without its end is a warning only.
    return not checked.stderr


class Session:
    """One shell in one folder, from the first command of a page to its last."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[list[str], int]:
        """Run a command; return the lines that it printed, and its exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # The command gets no input of its own: it would read the commands that follow.
        script = f"{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' {_MARK} $?\n"
        self._process.stdin.write(script.encode())
        self._process.stdin.flush()
        output = _read_until_mark(self._process.stdout)
        text, _, code = output.rpartition(f"\n{_MARK} ")
        return text.splitlines(), int(code)

    def close(self) -> None:
        """End the shell and everything that it has started."""
        for pid in processes_of_session(self._process.pid):
            os.kill(pid, 15)
        deadline = time.monotonic() + 10
        while (left := processes_of_session(self._process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            os.kill(pid, 9)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def _read_until_mark(stream: IO[bytes]) -> str:
    ending = re.compile(rf"\n{_MARK} \d+\n\Z".encode())
    found = b""
    deadline = time.monotonic() + _WAIT_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not ending.search(found[-64:]):
            assert selector.select(max(0.0, deadline - time.monotonic())), found.decode()
            data = os.read(stream.fileno(), 65536)
            assert data, found.decode()
            found += data
    return found.decode("utf-8", "replace")
