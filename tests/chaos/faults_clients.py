"""Rows 36 and 45: clients that stall, and log-ins all at once."""

import json
from typing import Any

from .load import CLERK
from .run import Run, helper
from .window import Window

STALLED = 1000
LOG_INS = 200
P99_SECONDS = 0.5
# 9 s, two for a client that does not close, and some for a busy machine.
CLOSED_SECONDS = 12.5


async def stalled_clients(run: Run, window: Window) -> None:
    for _ in range(run.times(1, 3)):
        found = await _flood(run, "stall", STALLED, [])
        if found["closed"] != found["count"]:
            window.is_wrong(f"{found['closed']} of {found['count']} stalled clients were closed")
        window.injected += int(found["count"])
        window.measure_beside("stalled clients closed", found["slowest"], CLOSED_SECONDS)
    window.measure_beside("p99 of reviews", window.p99, P99_SECONDS)


async def log_ins_at_once(run: Run, window: Window) -> None:
    for _ in range(run.times(1, 3)):
        found = await _flood(run, "log-in", LOG_INS, [json.dumps(CLERK)])
        if found["others"]:
            window.is_wrong(f"log-ins were answered {found['others']}")
        # A log-in without a turn after some seconds is told to try again; the others get tokens.
        if not found["put off"] < found["count"]:
            window.is_wrong("nobody could log in")
        window.injected += int(found["count"])
        window.measure_beside("all logged in", found["slowest"])
    window.measure_beside("p99 of reviews", window.p99, P99_SECONDS)


async def _flood(run: Run, kind: str, count: int, lines: list[str]) -> dict[str, Any]:
    tls = run.machine.data_dir / "tls"
    files = [tls / "ca.crt", tls / "kube-apiserver.crt", tls / "kube-apiserver.key"]
    seed = run.rng.getrandbits(32)
    async with helper("flood", kind, run.machine.server.port, *files, count, seed) as flood:
        for line in lines:
            await flood.tell(line)
        assert await flood.hear() == "connected"
        await flood.tell()
        found: dict[str, Any] = json.loads(await flood.hear())
        return found
