"""Flask comes with the first request that needs it, once."""

import asyncio
import subprocess
import sys
from typing import Any

from flask import Flask

from webhook.server.late_flask import LateFlask


def make_flask(made: list[Flask]) -> Flask:
    app = Flask("webhook", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.add_url_rule("/here", "here", lambda: "found")
    made.append(app)
    return app


async def ask(route: LateFlask) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/here",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "scheme": "https",
        "server": ("127.0.0.1", 8443),
        "client": ("127.0.0.1", 1),
    }
    await route(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body


def test_requests_at_once_share_one_application() -> None:
    made: list[Flask] = []
    route = LateFlask(lambda: make_flask(made))
    assert made == []

    async def ask_all() -> list[tuple[int, bytes]]:
        return await asyncio.gather(*(ask(route) for _ in range(8)))

    assert asyncio.run(ask_all()) == [(200, b"found")] * 8
    assert route.routes() == [("GET", "/here")]
    assert len(made) == 1


def test_no_start_waits_for_what_its_first_answer_does_not_need() -> None:
    late = ("flask", "werkzeug", "a2wsgi", "kubernetes", "webhook.rbac.passwords")
    code = (
        "import sys; import webhook.cli.main, webhook.cli.serve, webhook.server.app, "
        f"webhook.server.worker; print([name for name in {late!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
