"""A connection: its requests in order, its limits, its clocks and its end."""

import asyncio
import gc
import json
import weakref

import pytest

from webhook.server.connection import connection as module
from webhook.server.connection.connection import (
    ANONYMOUS_BUFFER_BYTES,
    MAX_HEAD,
    Connection,
)

from .wire import (
    CERTIFICATE,
    MAX_BODY,
    Wire,
    Worker,
    answers,
    chunked,
    exchange,
    pass_time,
    request,
    run,
    settle,
)


def sent(*pieces: bytes) -> list[tuple[int, bool, bytes]]:
    data, is_closed = asyncio.run(exchange(pieces))
    found = answers(data)
    # The connection closes if and only if the answer says so.
    assert is_closed is bool(found and found[-1][1])
    return found


def bodies(found: list[tuple[int, bool, bytes]]) -> list[str]:
    assert {code for code, _, _ in found} <= {200}
    return [json.loads(body)[4] for _, _, body in found]


REQUESTS = {
    "get": request(first=b"GET /a?b=c HTTP/1.1"),
    "post": request(body=b"hello"),
    "chunked": chunked(b"hello", b"!"),
    "later": request(first=b"POST /later HTTP/1.1", body=b"hello"),
    "admitted later": request(first=b"POST /admit-later HTTP/1.1", body=b"hello"),
    "after a blank line": b"\r\n" + request(body=b"hello"),
    "upgrade": request(b"Connection: Upgrade", b"Upgrade: h2c", body=b"hello"),
}
REFUSED = {
    "LF": (400, b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    "two blank lines": (400, b"\r\n\r\n" + request()),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two authorizations": (400, request(b"Authorization: Bearer a", b"Authorization: Bearer b")),
    "gzip": (501, request(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"),
    "trailers": (400, request(b"Transfer-Encoding: chunked") + b"0\r\nX : a\r\n\r\n"),
    "chunk size of 17 digits": (
        400,
        request(b"Transfer-Encoding: chunked") + b"00000000000000001\r\na\r\n0\r\n\r\n",
    ),
    "chunks of one byte": (400, chunked(*[b"a"] * 1025)),
    "endless target": (414, b"GET /" + b"a" * MAX_HEAD),
    "endless field": (431, b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD),
    "endless line with LF": (400, b"GET / HTTP/1.1\n" + b"a" * MAX_HEAD),
    "long target": (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "length": (413, request(b"Content-Length: %d" % (MAX_BODY + 1)) + b"a"),
    "length of 5,000 digits": (413, request(b"Content-Length: " + b"9" * 5000)),
    "chunks": (413, request(b"Transfer-Encoding: chunked") + b"7d1\r\n" + b"a" * 100),
    "many chunks": (
        413,
        request(b"Transfer-Encoding: chunked") + b"1f4\r\n%b\r\n" % (b"a" * 500) * 4 + b"1f4\r\n",
    ),
    "endless chunk": (413, request(b"Transfer-Encoding: chunked") + b"ffffffffffffffff\r\n"),
    "forbidden": (403, request(b"Content-Length: 500", first=b"POST /forbidden HTTP/1.1")),
}
NEXT = request(first=b"GET /next HTTP/1.1")


@pytest.mark.parametrize("kind", REQUESTS)
def test_every_split_gives_the_same(kind: str) -> None:
    data = REQUESTS[kind]
    expected = ["" if kind == "get" else "hello!" if kind == "chunked" else "hello", ""]
    assert bodies(sent(data, NEXT)) == expected
    assert bodies(sent(data + NEXT)) == expected
    assert bodies(sent(*[bytes([byte]) for byte in data + NEXT])) == expected
    for cut in range(1, len(data) + 3):
        assert bodies(sent((data + NEXT)[:cut], (data + NEXT)[cut:])) == expected


@pytest.mark.bad_input(33)
@pytest.mark.parametrize("kind", REFUSED)
def test_nothing_is_read_after_a_request_that_is_refused(kind: str) -> None:
    code, data = REFUSED[kind]
    for pieces in (
        [data + NEXT],
        [NEXT + data + NEXT],
        [data[:20], data[20:], NEXT],
        [data[i : i + 100] for i in range(0, len(data), 100)],
    ):
        found = sent(*pieces)
        assert [answer[:2] for answer in found[pieces[0].startswith(NEXT) :]] == [(code, True)]


@pytest.mark.bad_input(59)
@pytest.mark.parametrize(
    ("certified", "data", "code"),
    [
        (True, b"GET /" + b"a" * 4094, None),
        (True, b"GET /" + b"a" * 4200, 414),
        (True, b"GET / HTTP/1.1\r\nX: " + b"a" * 8185 + b"\r", None),
        (True, b"GET / HTTP/1.1\r\nX: " + b"a" * 8186, 431),
        (False, b"GET / HTTP/1.1\r\nX: " + b"a" * 2043 + b"\r", None),
        (False, b"GET / HTTP/1.1\r\nX: " + b"a" * 2044, 431),
        (False, b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 32, None),
        (False, b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 33, 431),
        (False, b"GET / HTTP/1.1\r\n" + (b"X: %b\r\n" % (b"a" * 2000)) * 8, None),
        (False, b"GET / HTTP/1.1\r\n" + (b"X: %b\r\n" % (b"a" * 2000)) * 9, 431),
    ],
    ids=lambda value: repr(value)[:10] + str(len(repr(value))),
)
def test_what_is_too_long_is_refused_before_it_ends(
    certified: bool, data: bytes, code: int | None
) -> None:
    certificate = CERTIFICATE if certified else None
    written, is_closed = asyncio.run(exchange([data[:30], data[30:]], certificate))
    assert [answer[0] for answer in answers(written)] == ([] if code is None else [code])
    assert is_closed is (code is not None)


def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    data = [b"later", b"a", b"admit-later", b"b"] * 3
    pieces = [
        request(first=b"POST /%b HTTP/1.1" % name, body=b"%d" % number)
        for number, name in enumerate(data)
    ]
    found = sent(b"".join(pieces))
    assert bodies(found) == [str(number) for number in range(12)]


@pytest.mark.parametrize(
    ("lines", "first", "closes"),
    [
        ((), b"GET / HTTP/1.1", False),
        ((b"Connection: close",), b"GET / HTTP/1.1", True),
        ((b"Connection: close", b"Connection: keep-alive"), b"GET / HTTP/1.1", True),
        ((), b"GET / HTTP/1.0", True),
    ],
    ids=repr,
)
def test_whether_a_connection_stays(lines: tuple[bytes, ...], first: bytes, closes: bool) -> None:
    found = sent(request(*lines, first=first) + NEXT)
    assert [answer[1] for answer in found] == [True] if closes else [False, False]


def test_the_version_of_the_client_is_that_of_the_answer() -> None:
    data, _ = asyncio.run(exchange([b"GET / HTTP/1.0\r\n\r\n"]))
    assert data.startswith(b"HTTP/1.0 200 OK\r\n")


@pytest.mark.parametrize(
    ("first", "has_length"),
    [(b"HEAD / HTTP/1.1", True), (b"GET /empty HTTP/1.1", False)],
    ids=["HEAD", "204"],
)
def test_answers_without_a_body(first: bytes, has_length: bool) -> None:
    data, _ = asyncio.run(exchange([request(first=first)]))
    head, _, body = data.partition(b"\r\n\r\n")
    assert (b"content-length" in head, body) == (has_length, b"")
    assert b"\r\nDate: " in head


def test_continue_is_said_once_and_before_the_body() -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect()
        for path in (b"a", b"admit-later"):
            wire.data = b""
            head = request(
                b"Expect: 100-continue", b"Content-Length: 5", first=b"POST /%b HTTP/1.1" % path
            )
            connection.data_received(head)
            worker.application.may_go_on.set()
            await settle()
            assert wire.data == b"HTTP/1.1 100 Continue\r\n\r\n"
            for byte in b"hello":
                connection.data_received(bytes([byte]))
            assert wire.data.count(b"HTTP/1.1 ") == 2
            assert bodies(answers(wire.data)[1:]) == ["hello"]

    run(test)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (request(b"Expect: 100-continue", body=b"hello"), 200),
        (request(b"Expect: 100-continue", b"Content-Length: 5000"), 413),
        (
            request(
                b"Expect: 100-continue", b"Content-Length: 5", first=b"PUT /forbidden HTTP/1.1"
            ),
            403,
        ),
    ],
    ids=["here", "too large", "forbidden"],
)
def test_continue_is_not_said(data: bytes, code: int) -> None:
    assert [answer[0] for answer in sent(data)] == [code]


def test_others_get_their_turn_between_requests_that_come_together() -> None:
    async def test(worker: Worker) -> None:
        connection, _ = worker.connect()
        connection.data_received(NEXT * 100)
        for turn in range(1, 10):
            assert len(worker.application.requests) == turn
            await asyncio.sleep(0)

    run(test)


@pytest.mark.parametrize("certified", [True, False])
def test_reading_pauses_where_a_client_sends_far_ahead(certified: bool) -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect() if certified else worker.connect(None)
        bound = module._BUFFER_BYTES if certified else ANONYMOUS_BUFFER_BYTES
        connection.data_received(request(first=b"GET /later HTTP/1.1"))
        count = bound // len(NEXT)
        connection.data_received(NEXT * count)
        assert not wire.is_paused
        connection.data_received(NEXT)
        assert wire.is_paused
        worker.application.may_go_on.set()
        while len(worker.application.requests) < count + 2:
            await asyncio.sleep(0)
        assert not wire.is_paused
        assert len(bodies(answers(wire.data))) == count + 2
        assert connection.is_idle
        assert connection._data == b""

    run(test)


def test_reading_goes_on_where_a_body_is_larger_than_what_may_be_sent_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.unit.webhook.server.connection.wire.MAX_BODY", 100_000)

    async def test(worker: Worker) -> None:
        connection, wire = worker.connect(None)
        data = request(first=b"POST /admit-later HTTP/1.1", body=b"a" * 100_000)
        connection.data_received(data[:30_000])
        await settle()
        connection.data_received(data[30_000:60_000])
        assert wire.is_paused
        worker.application.may_go_on.set()
        await settle()
        assert not wire.is_paused
        connection.data_received(data[60_000:])
        assert bodies(answers(wire.data)) == ["a" * 100_000]

    run(test)


def test_nothing_is_answered_to_a_client_that_does_not_read() -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect()
        connection.pause_writing()
        connection.data_received(NEXT + NEXT)
        await settle()
        assert (worker.application.requests, connection.can_be_dropped) == ([], True)
        connection.resume_writing()
        await settle()
        assert len(worker.application.requests) == 2
        assert not wire.is_closed

    run(test)


@pytest.mark.bad_input(36)
@pytest.mark.parametrize(
    ("data", "written"),
    [
        (b"", b"HTTP/1.1 408 "),
        (NEXT[:-1], b"HTTP/1.1 408 "),
        (request(body=b"hello")[:-1], b""),
        (request(b"Transfer-Encoding: chunked") + b"5\r\n", b""),
        (request(first=b"POST /admit-later HTTP/1.1", body=b"hello")[:-1], b""),
    ],
    ids=["nothing", "head", "body", "chunk", "body while the head is judged"],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "second"])
def test_a_client_that_stalls_is_let_go(data: bytes, written: bytes, is_first: bool) -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect()
        if not is_first:
            connection.data_received(NEXT)
            wire.data = b""
        for byte in data:
            connection.data_received(bytes([byte]))
            await pass_time(0.05)
        await pass_time(8.9 - 0.05 * len(data))
        assert not wire.is_closed
        stays = not (is_first or data)
        await pass_time(0.2)
        assert (wire.is_closed, wire.is_aborted) == (not stays, False)
        await pass_time(1.1)
        assert wire.is_aborted is not stays
        assert wire.data.startswith(b"" if stays else written)
        connection.connection_lost(None)
        await settle()
        assert worker.application.cancelled == (b"admit-later" in data)

    run(test)


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def test(worker: Worker) -> None:
        (connection, wire), (other, other_wire) = worker.connect(), worker.connect()
        for one in (connection, other):
            one.data_received(NEXT)
            one.pause_writing()
        other.resume_writing()
        await pass_time(8.9)
        assert not wire.is_closed
        await pass_time(0.2)
        assert wire.is_aborted
        assert not other_wire.is_closed

    run(test)


def test_reading_goes_on_where_writing_was_paused_while_a_head_was_admitted() -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect()
        data = request(first=b"POST /admit-later HTTP/1.1", body=b"hello")
        connection.data_received(data[:-5])
        connection._is_read_paused = wire.is_paused = True
        connection.pause_writing()
        worker.application.may_go_on.set()
        await settle()
        connection.resume_writing()
        assert not wire.is_paused
        connection.data_received(data[-5:])
        assert bodies(answers(wire.data)) == ["hello"]

    run(test)


def test_no_clock_runs_while_a_request_is_answered() -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect()
        connection.data_received(request(first=b"GET /later HTTP/1.1"))
        await pass_time(1000)
        assert not wire.is_closed
        worker.application.may_go_on.set()
        await settle()
        assert len(bodies(answers(wire.data))) == 1

    run(test)


def test_a_connection_in_use_is_kept_and_an_idle_one_closed() -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect()
        for number in range(5):
            connection.data_received(NEXT)
            assert len(answers(wire.data)) == number + 1
            await pass_time(74)
        assert not wire.is_closed
        await pass_time(2)
        assert wire.is_closed

    run(test, keep_alive_seconds=75)


def test_without_keep_alive_every_answer_closes() -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect()
        connection.data_received(NEXT)
        assert wire.is_closed
        assert answers(wire.data)[0][1]

    run(test, keep_alive_seconds=0)


def test_what_is_answered_is_cancelled_when_the_client_leaves() -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect()
        connection.data_received(request(first=b"GET /later HTTP/1.1"))
        await settle()
        connection.connection_lost(None)
        await settle()
        assert worker.application.cancelled == 1
        assert (wire.data, worker.connections) == (b"", set())

    run(test)


def test_an_error_of_the_application_ends_the_connection() -> None:
    async def test(worker: Worker) -> None:
        told: list[str] = []
        worker.loop.set_exception_handler(lambda _loop, context: told.append(context["message"]))
        connection, wire = worker.connect()
        connection.data_received(request(first=b"GET /broken HTTP/1.1"))
        await settle()
        assert (wire.is_aborted, wire.data) == (True, b"")
        connection.connection_lost(None)
        await settle()
        assert len(told) == 1

    run(test)


def test_an_answer_that_is_cancelled_ends_the_connection() -> None:
    async def test(worker: Worker) -> None:
        told: list[object] = []
        worker.loop.set_exception_handler(lambda _loop, context: told.append(context))
        connection, wire = worker.connect()
        connection.data_received(request(first=b"GET /later HTTP/1.1"))
        assert isinstance(connection._pending, asyncio.Task)
        connection._pending.cancel()
        await settle()
        assert (wire.is_aborted, told) == (True, [])

    run(test)


@pytest.mark.parametrize("path", [b"a", b"later", b"admit-later", b"unanswered"])
@pytest.mark.parametrize("certified", [True, False])
def test_a_connection_that_ended_leaves_nothing_in_memory(path: bytes, certified: bool) -> None:
    async def ended(worker: Worker) -> list[weakref.ref[Connection] | weakref.ref[Wire]]:
        connection, wire = worker.connect() if certified else worker.connect(None)
        if path != b"unanswered":
            data = request(first=b"POST /%b HTTP/1.1" % path, body=b"hello")
            connection.data_received(data[:-1])
            await settle()
            connection.data_received(data[-1:])
            if path == b"admit-later":
                worker.application.may_go_on.set()
                await settle()
        connection.connection_lost(None)
        return [weakref.ref(connection), weakref.ref(wire)]

    async def test(worker: Worker) -> None:
        references = await ended(worker)
        await settle()
        assert [reference() for reference in references] == [None, None]

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


def test_a_worker_that_drains_says_that_it_closes() -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect()
        connection.data_received(NEXT[:-1])
        worker.draining = True
        connection.data_received(NEXT[-1:])
        assert [answer[:2] for answer in answers(wire.data)] == [(200, True)]
        assert wire.is_closed

    run(test)


@pytest.mark.parametrize(
    ("data", "is_closed"),
    [(b"", True), (NEXT[:-1], True), (request(body=b"hello")[:-1], True),
     (request(first=b"GET /later HTTP/1.1"), False)],
    ids=["idle", "head", "body", "answer"],
)  # fmt: skip
def test_the_end_of_a_connection_lets_an_answer_out(data: bytes, is_closed: bool) -> None:
    async def test(worker: Worker) -> None:
        connection, wire = worker.connect()
        connection.data_received(data)
        assert connection.can_be_dropped is is_closed
        assert connection.is_idle is not bool(data)
        connection.end()
        assert wire.is_closed is is_closed
        worker.application.may_go_on.set()
        await settle()
        assert wire.is_closed
        assert [answer[1] for answer in answers(wire.data)] == [True] * (not is_closed)
        connection.data_received(NEXT)
        assert (connection.is_ending, connection._data) == (True, b"")

    run(test)


def test_one_connection_too_many_without_a_certificate_is_refused() -> None:
    async def test(worker: Worker) -> None:
        busy, _ = worker.connect(None)
        busy.data_received(request(first=b"GET /later HTTP/1.1"))
        refused, wire = worker.connect(None)
        assert wire.is_aborted
        refused.data_received(NEXT)
        refused.connection_lost(None)
        assert worker.connections == {busy}
        assert not worker.connect()[1].is_closed

    run(test, max_anonymous=1)


def test_who_shows_no_certificate() -> None:
    async def test(worker: Worker) -> None:
        connection, _ = worker.connect(None)
        connection.data_received(NEXT)
        certified, wire = worker.connect()
        certified.data_received(NEXT)
        found = [(one.certificate, one.client) for one in worker.application.requests]
        assert found == [("", ("127.0.0.1", 1)), (certified.certificate, ("127.0.0.1", 1))]
        assert certified.trust is wire.trust

    run(test)


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    ("line", "certified", "is_remembered"),
    [
        (b"X: a", True, True),
        (b"X: a", False, False),
        (b"X: " + b"a" * 1100, True, False),
        (b"Authorization: Bearer a", True, False),
        (b"Cookie: a=b", True, False),
    ],
    ids=["short", "anonymous", "long", "token", "cookie"],
)
def test_which_heads_are_remembered(line: bytes, certified: bool, is_remembered: bool) -> None:
    async def test(worker: Worker) -> None:
        connection, _ = worker.connect() if certified else worker.connect(None)
        data = request(line)
        connection.data_received(data)
        connection.data_received(data)
        assert list(worker.heads) == [data] * is_remembered
        assert [one.header(b"host") for one in worker.application.requests] == [b"a", b"a"]
        for number in range(300):
            connection.data_received(request(b"X: %d" % number))
        assert len(worker.heads) <= 128

    run(test)
