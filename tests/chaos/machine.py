"""The server: a real ``leeway serve`` on TLS with two workers, and what can be done to it."""

import asyncio
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from keys import pki
from keys.files import replace_file
from tests.e2e.harness import HOST, LEEWAY, RunningServer, serve, start_server

from .clock import SteppedClock
from .contention import Spent, Stopwatch, adopt_orphans, bury
from .room import Room

WORKERS = 2
STORE_FOLDER = "store"
_GONE_SECONDS = 30.0
# In a session of its own, for to Linux that is one party to the machine, as a client elsewhere is
# another: or a server of many threads would have its client wait, and seem slow.
_PROGRAM = ("setsid", LEEWAY) if shutil.which("setsid") else (LEEWAY,)
# From before a clock that is a year behind until after one that is a year ahead.
_CERTIFICATE_LIFETIME = timedelta(days=3650)
_TWO_YEARS = timedelta(days=730)


class Machine:
    """One data directory, and the server on it, which comes and goes."""

    def __init__(self, folder: Path, room: Room) -> None:
        adopt_orphans()
        self.clock = SteppedClock(folder)
        self._environment = dict(self.clock.environment())
        self._folders: set[Path] = set()

        def prepare(data_dir: Path) -> None:
            _make_certificates(data_dir / "tls")
            room.open(data_dir / STORE_FOLDER)
            for file in data_dir.glob("auth.db*"):
                shutil.move(file, data_dir / STORE_FOLDER / file.name)
            with (data_dir / "leeway.yaml").open("a") as configuration:
                configuration.write(f"store: {{sqlite: {{path: {STORE_FOLDER}/auth.db}}}}\n")

        self.server: RunningServer = start_server(
            folder, prepare, algorithm="ES256", environment=self._environment, program=_PROGRAM
        )
        self.data_dir = self.server.data_dir
        self.database = self.data_dir / STORE_FOLDER / "auth.db"

    @property
    def master(self) -> int:
        return self.server.process.pid

    def workers(self) -> list[int]:
        """Return the process ids of the workers that are there now."""
        return _children(self.master)

    async def start(self) -> None:
        """Serve again, and return once it is ready."""
        self.server = await asyncio.to_thread(
            serve, self.data_dir, self.server.port, self._environment, program=_PROGRAM
        )

    def kill(self) -> None:
        """Send SIGKILL to every process, the master first."""
        self.note_folders()
        workers = self.workers()
        for pid in [self.master, *workers]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.process.wait()
        while not all(bury(pid) for pid in workers):
            time.sleep(0.001)

    async def terminate(self) -> Spent:
        """Send SIGTERM, and return what it took until the server was gone."""
        watch = Stopwatch()
        self.server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.server.process.wait, 2 * _GONE_SECONDS)
        return watch.read()

    def worker_of(self, port: int) -> int:
        """Return which worker has the other end of a client's port, 0 where none has."""
        inode = _inodes(self.server.port).get(port, "")
        return next((pid for pid in self.workers() if inode in _sockets(pid)), 0)

    def ports_of(self, worker: int, ports: Sequence[int]) -> set[int]:
        """Return those of the clients' ports whose other end a worker has."""
        inodes, sockets = _inodes(self.server.port), _sockets(worker)
        return {port for port in ports if inodes.get(port) in sockets}

    def note_folders(self) -> None:
        """Note what a killed server cannot remove: its folder of metrics in shared memory."""
        for pid in self.workers():
            with suppress(OSError):
                maps = Path(f"/proc/{pid}/maps").read_text()
                self._folders |= {
                    Path(found) for found in re.findall(r"/\S+/leeway-metrics-[^/]+", maps)
                }

    def log_trouble(self) -> list[str]:
        """Return lines of the log that no fault excuses: those of a program's mistake."""
        return [line[:2000] for line in self.server.log().splitlines() if is_crash(line)]

    def close(self) -> None:
        """Remove everything."""
        if self.server.process.poll() is None:
            self.kill()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def is_crash(line: str) -> bool:
    """Return whether a line of a log tells of a program's mistake."""
    if "Traceback" in line or "never retrieved" in line:
        return True
    try:
        return bool(json.loads(line)["level"] == "critical")
    except (ValueError, TypeError, KeyError):
        return True


def _make_certificates(folder: Path) -> None:
    """Replace what ``init`` has made by certificates that clocks a year off accept too."""
    now = datetime.now(UTC) - _TWO_YEARS
    lifetime = _CERTIFICATE_LIFETIME
    ca = pki.make_ca("chaos", now)
    pairs = {
        "ca": ca,
        "server": pki.make_server_certificate(ca, "leeway", [HOST, "localhost"], now, lifetime),
        "kube-apiserver": pki.make_client_certificate(ca, "kube-apiserver", now, lifetime),
        "root": pki.make_client_certificate(ca, "root", now, lifetime),
    }
    for name, pair in pairs.items():
        replace_file(folder / f"{name}.key", pair.private_key)
        replace_file(folder / f"{name}.crt", pair.certificate, 0o644)


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError):
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    return []


def _sockets(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(str(entry.readlink()))
    return found


def _inodes(server_port: int) -> dict[int, str]:
    """Return the inode of the server's end of each connection, by the client's port."""
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == server_port:
            found[int(fields[2].rpartition(":")[2], 16)] = f"socket:[{fields[9]}]"
    return found
