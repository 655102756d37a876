"""Row 54: the server's clock is stepped while it runs, and put back."""

import asyncio
import json

from .lanes import encoded
from .load import CLERK
from .run import Run, SkippedError
from .tokens import HOUR, YEAR
from .window import Window

STEPS = (HOUR, -HOUR, YEAR, -YEAR)


async def clock_stepped(run: Run, window: Window) -> None:
    if run.machine.clock.missing:
        raise SkippedError(run.machine.clock.missing)
    for _ in range(run.times(1, 3)):
        for ahead in run.rng.sample(STEPS, len(STEPS)):
            # A log-in drops tokens that have expired: a clock in the past keeps the others.
            before = "" if ahead > 0 else await _log_in(run)
            await _step(run, window, ahead)
            meanwhile = await _log_in(run) if ahead > 0 else ""
            if meanwhile and not await _is_known(run, meanwhile):
                window.is_wrong(f"a session of a clock {ahead:+}s is refused")
            await _step(run, window, 0)
            if meanwhile and await _is_known(run, meanwhile):
                window.is_wrong(f"a session of a clock {ahead:+}s lives on when it is put back")
            if before and not await _is_known(run, before):
                window.is_wrong(f"a session is refused after a clock of {ahead:+}s was put back")
    await run.load.settle()


async def _step(run: Run, window: Window, ahead: int) -> None:
    """Set the clock, and review tokens of that time for a while: some of them are good now."""
    run.machine.clock.step(ahead)
    window.injected += 1
    now = run.load.signer.sign("of the stepped clock", "traveller", ahead=ahead)
    for _ in range(run.times(8, 50)):
        await run.load.review(now)
        await asyncio.sleep(0.15)


async def _log_in(run: Run) -> str:
    reply = await run.load.must("authenticate", CLERK)
    token: str = json.loads(reply.body)["token"]
    return token


async def _is_known(run: Run, token: str) -> bool:
    """Return whether a session can request its own user."""
    client = run.new_client("")
    try:
        reply = await client.post("/v3/auth/user/get", encoded({"name": CLERK["name"]}), token)
    finally:
        client.forget()
    return reply.status == 200
