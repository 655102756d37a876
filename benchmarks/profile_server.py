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
from webhook.server.request.message import Request, Response

_Make = Callable[[Path, Path], Any]


class BareApplication:
    """Answers every request alike."""

    max_anonymous_connections = 1000

    def __init__(self, answer: bytes) -> None:
        self._response = Response(201, answer)

    def __call__(self, request: Request) -> Response:
        """Answer a request; gunicorn takes only what can be called."""
        return self.answer(request)

    def answer(self, _request: Request) -> Response:
        """Answer a request."""
        return self._response

    async def admit(self, _request: Request) -> None:
        """Wait for the body of every request."""

    async def start(self) -> None:
        """Do nothing, as there is nothing that runs in the background."""

    stop = start


def traced_application(data_dir: Path, file: Path) -> Any:
    """Return Leeway, with the times of its functions in a file when it ends."""
    from benchmarks.profile_trace import Tracer, install, write_requests
    from webhook.server.reload.live_application import LiveApplication

    tracer = Tracer()
    install(tracer)

    class TracedApplication(LiveApplication):
        async def stop(self) -> None:
            await super().stop()
            write_requests(tracer, file)

    return TracedApplication(data_dir, lambda: load_configuration(data_dir, {}, {}), None)


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
        "traced": traced_application,
    }
    main(_KINDS[sys.argv[1]], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
