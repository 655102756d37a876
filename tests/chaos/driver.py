"""Puts faults to a server under load, one after the other, in an order that a seed gives."""

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .faults_clients import log_ins_at_once, stalled_clients
from .faults_clock import clock_stepped
from .faults_files import everything_replaced, rotation_killed
from .faults_process import everything_killed, told_to_go, workers_killed
from .faults_store import damaged, locked, no_room
from .load import Load
from .machine import Machine
from .room import Room
from .run import Fault, Run, SkippedError
from .window import Window

FAULTS: dict[int, tuple[str, Fault]] = {
    36: ("clients that stall", stalled_clients),
    45: ("log-ins at once", log_ins_at_once),
    47: ("everything killed", everything_killed),
    48: ("a key rotation killed", rotation_killed),
    49: ("no room on the disk", no_room),
    50: ("the database locked", locked),
    51: ("a bit flipped", damaged),
    52: ("workers and a master killed", workers_killed),
    53: ("told to go", told_to_go),
    54: ("the clock stepped", clock_stepped),
    55: ("files replaced", everything_replaced),
}
_SHORT_SECONDS = 120.0
_LONG_SECONDS = 900.0
_SHORT_REVIEWS, _LONG_REVIEWS = 100, 200
_CALM_SECONDS = 0.5


async def drive(
    seed: int, is_long: bool, rows: Sequence[int], log: Path, tell: Callable[[str], None]
) -> list[Window]:
    """Run the faults of these rows; return what happened in each, and first in none."""
    order = [row for row in FAULTS if row in rows]
    random.Random(f"{seed}, order").shuffle(order)
    tell(f"order: {' '.join(map(str, order))}")
    with tempfile.TemporaryDirectory(prefix="leeway-chaos-") as name:
        room = Room()
        machine = None
        try:
            machine = await asyncio.to_thread(Machine, Path(name), room)
            return await _with_load(seed, is_long, order, machine, room, tell)
        finally:
            if machine is not None:
                shutil.copy(machine.server.log_file, log)
                machine.close()
            room.close()


async def _with_load(
    seed: int,
    is_long: bool,
    order: Sequence[int],
    machine: Machine,
    room: Room,
    tell: Callable[[str], None],
) -> list[Window]:
    calm = Window(0, "none")
    seconds = _LONG_SECONDS if is_long else _SHORT_SECONDS
    reviews = _LONG_REVIEWS if is_long else _SHORT_REVIEWS
    load = Load(machine, calm, random.Random(f"{seed}, load"), seconds, reviews)
    await load.prepare()
    running = asyncio.create_task(load.run())
    windows = [calm]
    try:
        for row in order:
            await asyncio.sleep(_CALM_SECONDS)
            title, fault = FAULTS[row]
            window = load.window = Window(row, title)
            run = Run(machine, room, load, random.Random(f"{seed}, {row}"), is_long)
            started = time.monotonic()
            await _inject(fault, run, window)
            window.close()
            windows.append(window)
            load.window, calm.after = calm, row
            tell(f"{row}: {time.monotonic() - started:.1f} s")
        await asyncio.sleep(_CALM_SECONDS)
    finally:
        load.stop()
        await running
    calm.close()
    await machine.terminate()
    for line in machine.log_trouble():
        calm.is_wrong(f"in the log: {line}")
    return sorted(windows, key=lambda window: window.row)


async def _inject(fault: Fault, run: Run, window: Window) -> None:
    try:
        await fault(run, window)
    except SkippedError as error:
        window.skipped = str(error)
    except Exception as error:  # the other faults are still to come
        window.is_wrong(f"{type(error).__name__}: {error}")
        if run.machine.server.process.poll() is not None:
            await run.machine.start()
