"""Row 56: a process that crashes leaves no core file, which would have its keys in it."""

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from .harness import LEEWAY, start_server

_UNLIMITED = ("sh", "-c", 'ulimit -c unlimited; exec "$0" "$@"', LEEWAY)


@pytest.mark.bad_input(56)
def test_a_crash_leaves_no_core_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("core files are not allowed here anyway")
    monkeypatch.chdir(tmp_path)
    server = start_server(tmp_path, program=_UNLIMITED)
    master = server.process.pid
    try:
        workers = server.both_workers()
        for pid in (master, *workers):
            (limit,) = [
                line
                for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
                if line.startswith("Max core file size")
            ]
            assert limit.split()[4:6] == ["0", "0"]
        os.kill(workers[0], signal.SIGSEGV)
        deadline = time.monotonic() + 20
        # A server that is still starting ignores SIGTERM.
        while "SIGSEGV" not in server.log() or not server.has_replaced(workers[0]):
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "server.log"]
        server.stop(expected_trouble="SIGSEGV")
    finally:
        server.process.kill()
        server.process.wait()
