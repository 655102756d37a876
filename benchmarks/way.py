"""Lists the files that a TokenReview of a known token passes through, in the order of their calls.

It goes from ``Connection.data_received`` to the bytes of the answer, in one process, with the TLS
of a real handshake. Run it with ``make way``.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any, Final

from benchmarks.profile_tls import MemoryConnection, request_bytes
from benchmarks.servers import make_data_dir
from benchmarks.tokens import make_tokens_here, token_review
from webhook.config.load import load_configuration
from webhook.server.connection.anonymous import AnonymousConnections
from webhook.server.connection.connection import Application, Connection
from webhook.server.connection.read_head import Head
from webhook.server.reload.live_application import LiveApplication

MOST_FILES: Final = 12
_ROOT: Final = Path(__file__).parent.parent
_ROOMS: Final = tuple(f"{_ROOT / room}/" for room in ("keys", "webhook"))
# As old as a change of the database has to be to be told by its time.
_SETTLED_SECONDS: Final = 0.1


class _Worker:
    alive, draining, nr, keep_alive_seconds = True, False, 0, 75.0

    def __init__(self, application: Application) -> None:
        self.loop = asyncio.get_running_loop()
        self.application = application
        self.heads: dict[bytes, Head] = {}
        self.connections: set[Connection] = set()
        self.anonymous = AnonymousConnections(lambda: 1, lambda: None)


class _Transport(asyncio.Transport):
    def __init__(self, tls: object) -> None:
        super().__init__({"ssl_object": tls, "socket": self, "peername": ("127.0.0.1", 1)})
        self.written: list[bytes] = []

    def setsockopt(self, *_: int) -> None:
        """Set nothing: there is no socket."""

    def write(self, data: Any) -> None:
        """Keep an answer."""
        self.written.append(bytes(data))


def way_of_a_review() -> dict[str, list[str]]:
    """Return the files, each with the functions that are called in it.

    The first two requests make the token, the head and the database known.
    """
    found: dict[str, list[str]] = {}

    def trace(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(_ROOMS):
            names = found.setdefault(str(Path(code.co_filename).relative_to(_ROOT)), [])
            if code.co_name not in names and code.co_name[0] != "<":
                names.append(code.co_name)

    async def run(data_dir: Path) -> None:
        application = LiveApplication(data_dir, lambda: load_configuration(data_dir, {}, {}))
        transport = _Transport(MemoryConnection(data_dir).server)
        connection = Connection(_Worker(application))
        connection.connection_made(transport)
        (token,) = make_tokens_here(data_dir, 1)
        audience = load_configuration(data_dir, {}, {}).audiences[0]
        request = request_bytes(token_review(token, audience).encode("ascii"))
        time.sleep(_SETTLED_SECONDS)
        for _ in range(2):
            connection.data_received(request)
        sys.setprofile(trace)
        connection.data_received(request)
        sys.setprofile(None)
        if not all(b'"authenticated":true' in answer for answer in transport.written):
            raise SystemExit("the token was not accepted")
        connection.connection_lost(None)
        application.store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(make_data_dir(Path(folder))))
    return found


def main() -> None:
    """Print the list. Exits with 1 where it is longer than it may be."""
    way = way_of_a_review()
    for number, (file, functions) in enumerate(way.items(), 1):
        sys.stdout.write(f"{number:2} {file:40} {', '.join(functions)}\n")
    raise SystemExit(len(way) > MOST_FILES)


if __name__ == "__main__":
    main()
