"""The servers of ``profile.py``: gunicorn as ``leeway serve`` runs it, with another application.

``python -m benchmarks.profile_server bare DATA_DIR HOST:PORT FILE`` answers any TokenReview with
the bytes of the file: what it takes is what carries requests. ``traced`` is Leeway with the time of
its functions taken, and writes the times to the file when it ends.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from webhook.config.load import load_configuration
from webhook.config.paths import tls_files
from webhook.server.gunicorn_settings import gunicorn_settings
from webhook.server.request.http import Receive, Scope, Send

_Make = Callable[[Path, Path], Any]


class Application:
    """What a connection asks for answers, and a worker for its beginning and end."""

    def answer_at_once(self, scope: Scope, body: bytes) -> bytes | None:
        """Answer a request."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the lifespan; requests are answered at once here."""
        if scope["type"] != "lifespan":
            raise RuntimeError("a request did not take the short way")
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


class BareApplication(Application):
    """Answers every request alike."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def answer_at_once(self, scope: Scope, body: bytes) -> bytes:  # noqa: ARG002
        """Answer a request."""
        return self._answer


class TracedApplication(Application):
    """Leeway, with the times of its functions in a file when it ends."""

    def __init__(self, data_dir: Path, file: Path) -> None:
        from benchmarks.profile_trace import Tracer, install
        from webhook.server.reload.live_application import create_app

        self._file = file
        self._tracer = Tracer()
        install(self._tracer)
        self._leeway = create_app(data_dir, lambda: load_configuration(data_dir, {}, {}))

    def answer_at_once(self, scope: Scope, body: bytes) -> bytes | None:
        """Answer a request."""
        return self._leeway.answer_at_once(scope, body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        await self._leeway(scope, receive, send)
        if scope["type"] == "lifespan":
            from benchmarks.profile_trace import write_requests

            write_requests(self._tracer, self._file)


def main(make: _Make, data_dir: Path, bind: str, file: Path) -> None:
    """Serve with one worker until SIGTERM."""
    from gunicorn.app.base import BaseApplication

    logging.disable(logging.INFO)
    flags = {"server.bind": bind, "server.workers": 1}
    settings = gunicorn_settings(load_configuration(data_dir, {}, flags), tls_files(data_dir))

    class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
        def load_config(self) -> None:
            for name, value in settings.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return make(data_dir, file)

    Server().run()


if __name__ == "__main__":
    _KINDS: dict[str, _Make] = {
        "bare": lambda _, file: BareApplication(file.read_bytes()),
        "traced": TracedApplication,
    }
    main(_KINDS[sys.argv[1]], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
