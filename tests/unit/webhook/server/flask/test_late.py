"""Flask comes with the first request that needs it, once."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from flask import Flask, request

from webhook.rbac.errors import TooManyRequestsError
from webhook.server.flask.late import (
    ANONYMOUS_BODY_BYTES,
    LOG_IN_PATH,
    MAX_WAITING_LOG_INS,
    THREADS,
    LateFlask,
    flask_threads,
    log_in_queue,
)
from webhook.server.request.caller import CALLER, Caller
from webhook.server.request.http import BODY, DisconnectedError, RequestError

MAX_BODY = 2 * ANONYMOUS_BODY_BYTES
GONE = {"type": "http.disconnect"}


def late_flask(made: list[Flask]) -> LateFlask:
    return LateFlask(lambda: make_flask(made), MAX_BODY, log_in_queue(1), flask_threads())


def make_flask(made: list[Flask]) -> Flask:
    app = Flask("webhook", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.add_url_rule("/here", "here", lambda: "found")
    app.add_url_rule("/body", "body", show_body, methods=["POST"])
    made.append(app)
    return app


def show_body() -> str:
    body = request.environ["asgi.scope"][BODY]
    return f"{body.code}: {body}" if isinstance(body, RequestError) else f"{len(body)} bytes"


def part(size: int, *, more: bool = False) -> dict[str, object]:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


async def ask(
    route: LateFlask,
    path: str = "/here",
    messages: Iterable[Mapping[str, object]] = (part(0),),
    caller: Caller | None = None,
    address: str = "127.0.0.1",
) -> tuple[int, bytes]:
    """Send a request whose messages come one by one, and never end where the last has more."""
    sent: list[Any] = []
    coming = iter(messages)

    async def receive() -> Mapping[str, object]:
        for message in coming:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET" if path == "/here" else "POST",
        "path": path,
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "scheme": "https",
        "server": ("127.0.0.1", 8443),
        "client": (address, 1),
        CALLER: caller,
    }
    await route(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body


def test_requests_at_once_share_one_application() -> None:
    made: list[Flask] = []
    route = late_flask(made)
    assert made == []

    async def ask_all() -> list[tuple[int, bytes]]:
        return await asyncio.gather(*(ask(route) for _ in range(8)))

    assert asyncio.run(ask_all()) == [(200, b"found")] * 8
    assert route.routes() == [("GET", "/here"), ("POST", "/body")]
    assert len(made) == 1


@pytest.mark.parametrize(
    ("sizes", "caller", "answer"),
    [
        ([0], None, b"0 bytes"),
        ([10, 20], None, b"30 bytes"),
        ([ANONYMOUS_BODY_BYTES], None, b"%d bytes" % ANONYMOUS_BODY_BYTES),
        ([ANONYMOUS_BODY_BYTES, 1], None, f"at most {ANONYMOUS_BODY_BYTES} bytes"),
        ([ANONYMOUS_BODY_BYTES, 1], Caller("root"), b"%d bytes" % (ANONYMOUS_BODY_BYTES + 1)),
        ([MAX_BODY, 1], Caller("root"), f"at most {MAX_BODY} bytes"),
    ],
)
def test_the_body_is_there_as_a_whole_or_why_it_is_not(
    sizes: list[int], caller: Caller | None, answer: bytes | str
) -> None:
    route = late_flask([])
    messages = [part(size, more=index < len(sizes) - 1) for index, size in enumerate(sizes)]
    code, body = asyncio.run(ask(route, "/body", messages, caller))
    assert code == 200
    if isinstance(answer, bytes):
        assert body == answer
    else:
        assert body.startswith(b"413: ")
        assert answer.encode() in body


def test_half_a_body_is_no_request() -> None:
    made: list[Flask] = []
    route = late_flask(made)
    with pytest.raises(DisconnectedError):
        asyncio.run(ask(route, "/body", [part(2, more=True), GONE], Caller("root")))
    assert made == []


def test_who_waits_for_the_rest_of_a_body_holds_no_thread() -> None:
    route = late_flask([])

    async def ask_beside_stalled_ones() -> tuple[int, bytes]:
        stalled = [
            asyncio.create_task(ask(route, "/body", [part(1, more=True)]))
            for _ in range(4 * THREADS)
        ]
        await asyncio.sleep(0)
        answer = await asyncio.wait_for(ask(route), 20)
        assert not any(task.done() for task in stalled)
        for task in stalled:
            task.cancel()
        return answer

    assert asyncio.run(ask_beside_stalled_ones()) == (200, b"found")


@pytest.mark.fault(47)
def test_log_ins_keep_nobody_else_waiting_and_are_bounded_by_address() -> None:
    made: list[Flask] = []
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


def test_no_start_waits_for_what_its_first_answer_does_not_need() -> None:
    late = ("flask", "werkzeug", "a2wsgi", "kubernetes", "webhook.rbac.passwords")
    code = (
        "import sys, webhook.cli.main, webhook.cli.serve; "
        "import webhook.server.reload.live_application, webhook.server.connection.worker; "
        f"print([name for name in {late!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
