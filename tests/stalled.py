"""What happens to clients that stall."""

import selectors
import socket
import time


def closing_times(opened: dict[socket.socket, float], give_up: float) -> list[float]:
    """Read until the server closes each; return the seconds from opening to closing.

    ``opened`` says when each was opened; that, and when to give up, are by the steady clock.
    """
    seconds: list[float] = []
    with selectors.DefaultSelector() as selector:
        for sock in opened:
            sock.setblocking(False)
            selector.register(sock, selectors.EVENT_READ)
        while len(seconds) < len(opened) and time.monotonic() < give_up:
            for key, _ in selector.select(0.1):
                readable = key.fileobj
                assert isinstance(readable, socket.socket)
                try:
                    is_closed = not readable.recv(65536)
                except ConnectionError:
                    is_closed = True
                if is_closed:
                    seconds.append(time.monotonic() - opened[readable])
                    selector.unregister(readable)
    return seconds
