"""Claim: a worker with many users and many tokens stays within ``server.maxWorkerBytes``.

One worker with 10,000 users in its store gets 100,000 different tokens over TLS, and
then all of them again. The peak of its resident memory is compared with the limit of
the default configuration. The second pass shows that all tokens are cached: it takes a fraction
of the processor time of the first, which verified as many signatures.
"""

import json
import os
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.load_client import LoadError, Plan, ToolMissingError, build, review_target, run_load
from benchmarks.report import Figure, Row
from benchmarks.servers import SERVER_LOG, leeway_server, make_data_dir
from benchmarks.tokens import make_tokens_of, token_review
from webhook.assembly import store_of
from webhook.config.load import load_configuration
from webhook.kube.token_review import TOKEN_REVIEW_PATH
from webhook.rbac.model import User
from webhook.rbac.records import Record, role_record, user_record

USERS: Final = 10_000
TOKENS: Final = 100_000
_QUICK_TOKENS: Final = 20_000
_ROLES: Final = 50
_CONNECTIONS: Final = 16
_LONGEST_SECONDS: Final = 300.0
_START_SECONDS: Final = 30.0
# Flask comes a second after the start.
_LATE_SECONDS: Final = 3.0
_MIB: Final = 1024 * 1024
_EXPECTED: Final = '"authenticated":true'


@dataclass(frozen=True, slots=True)
class _Memory:
    """Memory of a worker in bytes, and the seconds of processor time that it has used."""

    resident: int
    most: int
    cpu_seconds: float


def run(*, quick: bool) -> list[Row]:
    """Measure one worker."""
    count = _QUICK_TOKENS if quick else TOKENS
    claim = f"resident memory, {USERS:,} users, {count:,} cached tokens"
    with tempfile.TemporaryDirectory(prefix="leeway-bench-") as name:
        folder = Path(name)
        try:
            client = build(folder)
        except ToolMissingError as error:
            return [Row(claim, skipped=str(error))]
        if not Path("/proc/self/statm").exists():
            return [Row(claim, skipped="this system has no /proc")]
        return [_measure(claim, client, make_data_dir(folder, "ES256"), count)]


def _measure(claim: str, client: Path, data_dir: Path, count: int) -> Row:
    configuration = load_configuration(data_dir, {}, {})
    with closing(store_of(data_dir, configuration)) as store:
        store.change(lambda _: _records())
    audience = configuration.audiences[0]
    bodies = data_dir / "reviews"
    with bodies.open("w", encoding="ascii") as file:
        for token in make_tokens_of(data_dir, count):
            file.write(token_review(token, audience) + "\n")
    plan = Plan(bodies, _CONNECTIONS, _LONGEST_SECONDS, once=True)
    with leeway_server(data_dir, workers=1) as port:
        target = review_target(port, TOKEN_REVIEW_PATH, data_dir, _EXPECTED)
        worker = _worker_of(data_dir / SERVER_LOG)
        before = _memory_of(worker)
        loads = [run_load(client, target, plan)]
        first = _memory_of(worker)
        loads.append(run_load(client, target, plan))
        second = _memory_of(worker)
    bound = configuration.server.max_worker_bytes
    cold = (first.cpu_seconds - before.cpu_seconds) / loads[0].requests
    warm = (second.cpu_seconds - first.cpu_seconds) / loads[1].requests
    notes = [
        f"{before.resident / _MIB:.0f} MiB before the first token; "
        f"{(first.resident - before.resident) / loads[0].requests:,.0f} bytes for each of "
        f"{loads[0].requests:,}; {second.resident / _MIB:.0f} MiB after all of them came twice",
        f"processor time a review: first pass {cold * 1e6:.0f} us, second pass {warm * 1e6:.0f} us "
        "(all are cached if the second has no signature in it)",
    ]
    measured = Figure("one worker, at most", second.most / _MIB, "MiB")
    against = Figure("server.maxWorkerBytes", bound / _MIB, "MiB")
    return Row(claim, measured, against, second.most / bound, ceiling=1.0, notes=notes)


def _records() -> list[Record]:
    roles = [f"role-{number}" for number in range(_ROLES)]
    records = [role_record(role) for role in roles]
    return records + [
        user_record(User(f"user-{number}", b"", (roles[number % _ROLES],), 1))
        for number in range(USERS)
    ]


def _worker_of(log: Path) -> int:
    """Return the process ID of the worker, from the log, once it has loaded everything."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        for line in lines:
            if line["message"].startswith("Booting worker"):
                time.sleep(_LATE_SECONDS)
                return int(line["pid"])
        time.sleep(0.05)
    raise LoadError("the worker did not start")


def _memory_of(pid: int) -> _Memory:
    process = Path(f"/proc/{pid}")
    lines = (process / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    resident, most = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    times = (process / "stat").read_text().rpartition(")")[2].split()
    return _Memory(resident, most, (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"))
