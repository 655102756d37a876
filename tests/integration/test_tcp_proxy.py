"""The proxy that other tests use passes, holds and breaks what they say."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.tcp_proxy import DOWN, HOST, UP, TCPProxy

_SECONDS = 10.0
_SILENCE = 0.2


@pytest.fixture
def echo() -> Iterator[int]:
    """Return a port where everything sent comes back."""
    with socket.create_server((HOST, 0)) as listener:

        def serve(connection: socket.socket) -> None:
            with connection:
                try:
                    while data := connection.recv(1 << 16):
                        connection.sendall(data)
                except OSError:
                    pass

        def accept() -> None:
            try:
                while True:
                    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo: int) -> Iterator[TCPProxy]:
    with TCPProxy([echo]) as running:
        yield running


@pytest.fixture
def client(proxy: TCPProxy) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, proxy.ports[0]), _SECONDS) as connection:
        yield connection


def is_silent(client: socket.socket) -> bool:
    client.settimeout(_SILENCE)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(_SECONDS)
    return False


def test_it_passes_what_is_sent(client: socket.socket, proxy: TCPProxy) -> None:
    data = bytes(range(256)) * 4096
    threading.Thread(target=client.sendall, args=[data]).start()
    got = b""
    while len(got) < len(data):
        got += client.recv(1 << 16)
    assert got == data
    assert proxy.bytes == {UP: len(data), DOWN: len(data)}
    assert proxy.connections == 1


@pytest.mark.parametrize("directions", [(), (UP,), (DOWN,)], ids=["both", "up", "down"])
def test_what_is_cut_is_silent_and_arrives_after_it_is_healed(
    client: socket.socket, proxy: TCPProxy, directions: tuple[str, ...]
) -> None:
    client.sendall(b"a")
    assert client.recv(1) == b"a"
    proxy.cut(*directions)
    client.sendall(b"b")
    assert is_silent(client)
    assert proxy.bytes[UP] == (2 if directions == (DOWN,) else 1)
    proxy.heal()
    assert client.recv(1) == b"b"


def test_delay_keeps_the_order(client: socket.socket, proxy: TCPProxy) -> None:
    proxy.delay(0.05)
    started = time.monotonic()
    for byte in b"abc":
        client.sendall(bytes([byte]))
    assert b"".join(client.recv(1) for _ in range(3)) == b"abc"
    assert time.monotonic() - started >= 0.1


def test_reset_and_refuse(client: socket.socket, proxy: TCPProxy) -> None:
    client.sendall(b"a")
    assert client.recv(1) == b"a"
    proxy.reset()
    assert ended(client)
    proxy.refuse()
    with socket.create_connection((HOST, proxy.ports[0]), _SECONDS) as other:
        assert ended(other)
    proxy.heal()
    with socket.create_connection((HOST, proxy.ports[0]), _SECONDS) as other:
        other.sendall(b"b")
        assert other.recv(1) == b"b"


def ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_target_that_is_gone_or_moved(proxy: TCPProxy, echo: int) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    proxy.retarget([port])
    with socket.create_connection((HOST, proxy.ports[0]), _SECONDS) as client:
        assert ended(client)
    proxy.retarget([echo])
    with socket.create_connection((HOST, proxy.ports[0]), _SECONDS) as client:
        client.sendall(b"c")
        assert client.recv(1) == b"c"
