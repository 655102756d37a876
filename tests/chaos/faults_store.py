"""Rows 49, 50 and 51: a store without room, a store that is locked, a store that is damaged."""

import asyncio
import os
import random
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

from tests.e2e.harness import LEEWAY

from .contention import Stopwatch
from .lanes import encoded
from .run import Outage, Run, helper
from .tokens import b64
from .window import WRITE, Failure, Window

ROOM_SECONDS = 5.0
REFUSED_SECONDS = 2.0
_LARGE_KEY = 60_000
_REFUSES_SECONDS = 60.0


def _is_refused_write(failure: Failure) -> bool:
    return failure.what == WRITE and failure.kind == "503"


async def no_room(run: Run, window: Window) -> None:
    window.permits = _is_refused_write
    await run.load.must("role/add", {"name": "large"})
    for _ in range(run.times(1, 5)):
        pids = run.machine.workers()
        run.room.fill(pids)
        refused = 0
        try:
            ends = time.monotonic() + run.rng.uniform(2.0, 4.0)
            # Writes that need no new page may succeed; these need one.
            while time.monotonic() < ends or not refused:
                refused += not await _write_large(run, window)
                await asyncio.sleep(0.2)
                if time.monotonic() > ends + 10:
                    window.is_wrong("no write was refused, although there was no room")
                    break
        finally:
            run.room.empty(pids)
        window.injected += 1
        seconds = await run.wait_for(lambda: _write_large(run, window), ROOM_SECONDS)
        window.measure("writes after there is room again", seconds, ROOM_SECONDS)
        await run.load.settle()


async def _write_large(run: Run, window: Window) -> bool:
    key = b"/large/%d/" % run.rng.getrandbits(64) + b"x" * _LARGE_KEY
    body = {"name": "large", "perm": {"permType": "READ", "key": b64(key)}}
    reply = await run.load.root.post("/v3/auth/role/grant", encoded(body))
    if reply.status not in (200, 503):
        window.is_wrong(f"a large write: {reply.status} {reply.body[:200]!r}")
    return reply.status == 200


async def locked(run: Run, window: Window) -> None:
    window.permits = _is_refused_write
    for _ in range(run.times(1, 3)):
        kind = run.rng.choice(["IMMEDIATE", "EXCLUSIVE"])
        async with run.load.no_writes():
            # An acknowledged write that is locked before it is read is a 503 in every route.
            await asyncio.sleep(0.3)
        async with helper("locker", run.machine.database, kind) as locker:
            # Nothing is read from the store meanwhile, possibly starting a little earlier.
            run.load.stale_since = time.monotonic()
            assert await locker.hear() == "locked"
            await asyncio.sleep(30.0 if run.is_long else run.rng.uniform(4.0, 5.0))
            await locker.tell()
            assert await locker.hear() == "unlocked"
        window.injected += 1

        async def is_written() -> bool:
            before = run.load.acknowledged
            await asyncio.sleep(0.02)
            return run.load.acknowledged > before

        window.measure("writes after the lock is gone", await run.wait_for(is_written, 5.0))
        run.load.stale_since = None
        await run.load.settle()
    window.measure_beside("a write was refused", max(window.refusals, default=0.0), REFUSED_SECONDS)
    if not window.refusals:
        window.is_wrong("no write was refused, although the database was locked")


async def damaged(run: Run, window: Window) -> None:
    outage = Outage()
    window.permits = outage.permits
    for _ in range(run.times(1, 5)):
        await asyncio.sleep(0.3)
        outage.begin()
        await run.machine.terminate()
        # Revocations are written beside the server, and would meet the damage.
        async with run.load.no_writes():
            await _start_damaged(run, window)
        await run.machine.start()
        window.measure("back with the database restored", outage.end())
        await run.load.settle()


async def _start_damaged(run: Run, window: Window) -> None:
    intact = run.machine.database.read_bytes()
    position = _position_of_a_record(run.machine.database, run.rng)
    flipped = bytearray(intact)
    flipped[position] ^= 1 << run.rng.randrange(8)
    run.machine.database.write_bytes(flipped)
    watch = Stopwatch()
    answer = await asyncio.to_thread(_serve, run)
    window.injected += 1
    window.measure("it refused to start", watch.read())
    said = answer.stderr + answer.stdout
    if answer.returncode != 3 or "damaged" not in said or "Traceback" in said:
        window.is_wrong(f"served with a bit flipped: {answer.returncode}, {said[-500:]!r}")
    run.machine.database.write_bytes(intact)


def _serve(run: Run) -> "subprocess.CompletedProcess[str]":
    command = [LEEWAY, "serve", "--data-dir", str(run.machine.data_dir)]
    environment = {**os.environ, **run.machine.clock.environment()}
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_REFUSES_SECONDS,
        check=False,
    )


def _position_of_a_record(database: Path, rng: random.Random) -> int:
    """Choose a byte of a record that counts: one of a free page would be of no consequence."""
    content = database.read_bytes()
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute(
            "SELECT kind, id, value FROM records WHERE value IS NOT NULL ORDER BY kind, id"
        ).fetchall()
    rng.shuffle(found)
    for kind, record_id, value in found:
        cell = kind.encode() + record_id + value
        if content.count(cell) == 1:
            return content.index(cell) + rng.randrange(len(cell))
    raise AssertionError("no record is in one place only")
