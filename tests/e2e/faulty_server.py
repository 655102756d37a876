"""``leeway serve`` with planted faults that no request or library should ever cause."""

import asyncio
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from webhook.cli.main import main
from webhook.server.connection import worker as server_worker
from webhook.server.connection.tls import load_context
from webhook.server.flask import api_discovery
from webhook.server.reload import live_application as server_app
from webhook.server.reload.composition import compose
from webhook.server.request.message import Request, Response

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJmYXVsdHkifQ.c2lnbmF0dXJlLW9mLWEtdG9rZW4"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0\n-----END PRIVATE KEY-----"
# Names a file; while it exists, the place that it names fails.
PLANTED = "TEST_PLANTED_FAULT"


def crash() -> Any:
    """Raise an error that holds secrets and tries to start a new line of the log."""
    raise ValueError(f'a token {JWT} and a key {PEM}\n{{"level": "forged"}}\x1b[31m')


async def fail(*_: Any) -> Any:
    """Fail on the event loop."""
    crash()


async def fail_beside(_request: Request) -> Response:
    """Fail in a thread and in a task, warn, and print."""
    thread = threading.Thread(target=crash, name="planted")
    thread.start()
    thread.join()
    task = asyncio.get_running_loop().create_task(fail())
    await asyncio.sleep(0)
    del task
    warnings.warn(f"a warning with {JWT}", UserWarning, stacklevel=1)
    print(f"printed {JWT}\nand more", file=sys.stderr)
    return Response(204, b"")


def crash_where_planted(place: str) -> None:
    """Raise at the place that a test has named."""
    path = Path(os.environ.get(PLANTED, ""))
    if path.is_file() and path.read_text() == place:
        crash()


def load_faulty_context(files: Any) -> Any:
    """Make the TLS context of a worker."""
    crash_where_planted("tls")
    return load_context(files)


def compose_faulty(*parts: Any) -> Any:
    """Make the application, and plant routes in it."""
    crash_where_planted("configuration")
    app = compose(*parts)
    app._public |= {"/faulty": fail, "/faulty/beside": fail_beside}
    return app


if __name__ == "__main__":
    server_app.compose = compose_faulty  # type: ignore[attr-defined, assignment]
    server_worker.load_context = load_faulty_context  # type: ignore[attr-defined]
    api_discovery.group_list = crash
    main()
