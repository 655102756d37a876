"""Hostile clients: ``python -m tests.chaos.flood KIND PORT CA CERTIFICATE KEY COUNT SEED``.

KIND is ``stall`` or ``log-in``. In a process of their own, so that it is not the driver that is
slow. Each prints a line when all are connected, goes on at a line of standard input, and prints
what became of them as JSON.
"""

import asyncio
import json
import random
import resource
import socket
import ssl
import sys
import time
from collections import Counter

from tests.stalled import closing_times

HOST = "127.0.0.1"
_GIVE_UP_SECONDS = 25.0
_LOG_IN = "POST /v3/auth/authenticate HTTP/1.1"
_REVIEW = (
    b"POST /apis/authentication.k8s.io/v1/tokenreviews HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/json\r\nContent-Length: 1000\r\n"
)
_HALF_A_LOG_IN = f'{_LOG_IN}\r\nHost: {HOST}\r\nContent-Length: 60\r\n\r\n{{"name":'.encode()


def stall(port: int, context: ssl.SSLContext, count: int, rng: random.Random) -> dict[str, object]:
    """Stall in the handshake, in the header or in the body, and wait for the server to close."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 200)), hard))
    parts = [None, b"\x16\x03\x01\x02\x00\x01", _REVIEW, _REVIEW + b"\r\n{", _HALF_A_LOG_IN]
    chosen = rng.choices(parts, (3, 3, 2, 1, 1), k=count)
    print("connected", flush=True)
    sys.stdin.readline()
    opened: dict[socket.socket, float] = {}
    for part in chosen:
        started = time.monotonic()
        plain = socket.create_connection((HOST, port), timeout=20)
        if part is not None and part.startswith(b"POST"):
            secure = context.wrap_socket(plain, server_hostname=HOST)
            secure.sendall(part)
            plain = socket.socket(fileno=secure.detach())
        elif part is not None:
            plain.sendall(part)
        opened[plain] = started
    seconds = closing_times(opened, time.monotonic() + _GIVE_UP_SECONDS)
    return {"count": len(opened), "closed": len(seconds), "slowest": max(seconds, default=0.0)}


async def log_in(port: int, context: ssl.SSLContext, count: int, body: bytes) -> dict[str, object]:
    """Log in on so many connections at once."""
    streams = [
        await asyncio.open_connection(HOST, port, ssl=context, server_hostname=HOST)
        for _ in range(count)
    ]
    print("connected", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    head = (
        f"{_LOG_IN}\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    started = time.monotonic()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(head + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        return int(answer.split()[1])

    answers = await asyncio.gather(*(one(*stream) for stream in streams), return_exceptions=True)
    seconds = time.monotonic() - started
    for _, writer in streams:
        writer.transport.abort()
    others = Counter(repr(answer) for answer in answers if answer not in (200, 503))
    return {
        "count": count,
        "put off": answers.count(503),
        "others": ", ".join(f"{number} times {what}" for what, number in others.items()),
        "slowest": seconds,
    }


def main() -> None:
    kind, port, ca, certificate, key, count, seed = sys.argv[1:]
    context = ssl.create_default_context(cafile=ca)
    if kind == "stall":
        context.load_cert_chain(certificate, key)
        found = stall(int(port), context, int(count), random.Random(seed))
    else:
        body = sys.stdin.readline().encode().strip()
        found = asyncio.run(log_in(int(port), context, int(count), body))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
