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
from webhook.server.request.message import Answer, Request, Response

_Make = Callable[[Path, Path], Any]


class BareApplication:
    """Answers every request alike."""

    def __init__(self, answer: bytes) -> None:
        self._response = Response(201, answer)

    def __call__(self, request: Request) -> Response:  # noqa: ARG002
        """Answer a request."""
        return self._response

    answer = __call__

    async def start(self) -> None:
        """Start nothing."""

    async def stop(self) -> None:
        """Stop nothing."""


class TracedApplication:
    """Leeway, with the times of its functions in a file when it ends."""

    def __init__(self, data_dir: Path, file: Path) -> None:
        from benchmarks.profile_trace import Tracer, install
        from webhook.server.reload.live_application import create_app

        self._file = file
        self._tracer = Tracer()
        install(self._tracer)
        self._leeway = create_app(data_dir, lambda: load_configuration(data_dir, {}, {}))

    def __call__(self, request: Request) -> Answer:
        """Answer a request."""
        return self._leeway.answer(request)

    answer = __call__

    async def start(self) -> None:
        """Start Leeway."""
        await self._leeway.start()

    async def stop(self) -> None:
        """Stop Leeway, and write the times."""
        await self._leeway.stop()
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
