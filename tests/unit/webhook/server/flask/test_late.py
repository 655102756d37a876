"""Flask comes with the first request that needs it, once."""

import asyncio
import gc
import subprocess
import sys
import threading

import pytest

from webhook.rbac.errors import AuthFailedError, TooManyRequestsError
from webhook.server.flask.app import FlaskApp
from webhook.server.flask.late import (
    LOG_IN_PATH,
    MAX_WAITING_LOG_INS,
    FlaskThreads,
    LateFlask,
)
from webhook.server.request.message import Caller, Request


def late_flask(made: list[FlaskApp]) -> LateFlask:
    return LateFlask(lambda: make_flask(made), FlaskThreads())


def make_flask(made: list[FlaskApp]) -> FlaskApp:
    app = FlaskApp()
    app.add_url_rule("/here", "here", lambda: "found")
    made.append(app)
    return app


async def ask(
    route: LateFlask,
    path: str = "/here",
    caller: Caller | None = None,
    address: str = "127.0.0.1",
) -> tuple[int, bytes]:
    request = Request("GET" if path == "/here" else "POST", path, client=(address, 1))
    request.caller = caller
    response = await route(request)
    return response.code, response.body


def test_requests_at_once_share_one_application() -> None:
    made: list[FlaskApp] = []
    route = late_flask(made)
    assert made == []

    async def ask_all() -> list[tuple[int, bytes]]:
        return await asyncio.gather(*(ask(route) for _ in range(8)))

    assert asyncio.run(ask_all()) == [(200, b"found")] * 8
    assert route.routes() == [("GET", "/here")]
    assert len(made) == 1


@pytest.mark.fault(47)
def test_log_ins_keep_nobody_else_waiting_and_are_bounded_by_address() -> None:
    made: list[FlaskApp] = []
    route = late_flask(made)
    may_end = threading.Event()
    route.load()
    made[0].add_url_rule(LOG_IN_PATH, "log_in", lambda: str(may_end.wait(30)), methods=["POST"])

    async def ask_beside_log_ins() -> None:
        flood = [
            asyncio.create_task(ask(route, LOG_IN_PATH)) for _ in range(2 * MAX_WAITING_LOG_INS)
        ]
        await asyncio.sleep(0)
        others = [
            asyncio.create_task(ask(route, LOG_IN_PATH, caller=caller, address=address))
            for caller, address in ((None, "192.0.2.1"), (Caller("root"), "127.0.0.1"))
        ]
        answers = [await asyncio.wait_for(ask(route), 20) for _ in range(3)]
        assert answers == [(200, b"found")] * 3
        assert not any(log_in.done() for log_in in others)
        may_end.set()
        assert await asyncio.gather(*others) == [(200, b"True")] * 2
        results = await asyncio.gather(*flood, return_exceptions=True)
        refused = [result for result in results if isinstance(result, TooManyRequestsError)]
        served = [result for result in results if result == (200, b"True")]
        assert MAX_WAITING_LOG_INS - 2 <= len(served) <= MAX_WAITING_LOG_INS + 1
        assert len(served) + len(refused) == len(flood)
        assert {str(error) for error in refused} == {"etcdserver: too many requests"}

    asyncio.run(ask_beside_log_ins())


@pytest.mark.fault(47)
def test_the_turn_of_a_client_that_leaves_ends_with_its_thread() -> None:
    made: list[FlaskApp] = []
    route = late_flask(made)
    may_end, began = threading.Event(), threading.Semaphore(0)
    route.load()

    def check() -> str:
        began.release()
        may_end.wait(30)
        raise AuthFailedError

    made[0].add_url_rule(LOG_IN_PATH, "log_in", check, methods=["POST"])

    async def leave_again_and_again() -> None:
        loop, said = asyncio.get_running_loop(), list[object]()
        loop.set_exception_handler(lambda _loop, context: said.append(context))
        log_ins = [asyncio.create_task(ask(route, LOG_IN_PATH)) for _ in range(8)]
        assert await asyncio.to_thread(began.acquire, timeout=30)
        for log_in in log_ins:
            log_in.cancel()
        waiting = asyncio.create_task(ask(route, LOG_IN_PATH))
        await asyncio.sleep(0.1)
        assert not began.acquire(blocking=False), "more than one password is checked"
        may_end.set()
        with pytest.raises(AuthFailedError):
            await waiting
        results = await asyncio.gather(*log_ins, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        del results, waiting, log_ins, log_in
        await asyncio.sleep(0.1)
        gc.collect()
        assert said == []

    asyncio.run(leave_again_and_again())


def test_no_start_waits_for_what_its_first_answer_does_not_need() -> None:
    late = ("flask", "werkzeug", "kubernetes", "webhook.rbac.passwords")
    code = (
        "import sys, webhook.cli.main, webhook.cli.serve; "
        "import webhook.server.reload.live_application, webhook.server.connection.worker; "
        f"print([name for name in {late!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
