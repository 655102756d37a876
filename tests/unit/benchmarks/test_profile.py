"""The profile adds up, and counts for each function its own time only."""

import importlib
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest

from benchmarks.processes import ProcessorTime
from benchmarks.profile import CARRIER, KERNEL, TLS, parts_of, render
from benchmarks.profile_tls import MemoryConnection, answer_bytes, request_bytes
from benchmarks.profile_trace import TRACED, Times, Traced, Tracer, median_times
from benchmarks.servers import make_data_dir
from webhook.server.connection.tls import certificate_of
from webhook.server.request.caller import peer_certificate
from webhook.server.request.message import Caller


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@pytest.mark.parametrize("traced", TRACED, ids=lambda traced: f"{traced.module}:{traced.name}")
def test_every_traced_function_exists(traced: Traced) -> None:
    module = importlib.import_module(traced.module)
    assert callable(reduce(getattr, traced.name.split("."), module))


def work(clock: Clock, taken: int, *called: Callable[[], object]) -> Callable[[], None]:
    """Return a function that itself takes that long."""

    def function() -> None:
        for one in called:
            one()
        clock.now += taken

    return function


def serve(tracer: Tracer, clock: Clock, function: Callable[[], object]) -> Callable[[], None]:
    """Return what serves a request with a function."""

    def application() -> None:
        function()
        clock.now += 1

    return tracer.wrap_root("application", application)


def test_a_function_is_not_charged_for_those_that_it_calls() -> None:
    clock = Clock()
    tracer = Tracer(clock)
    inner = tracer.wrap("inner", work(clock, 30))
    unnamed = work(clock, 7, inner)
    outer = tracer.wrap("outer", work(clock, 100, inner, unnamed))
    serve(tracer, clock, outer)()
    assert tracer.requests == [{"inner": 60, "outer": 107, "application": 1}]


def test_a_function_that_raises_is_charged() -> None:
    clock = Clock()
    tracer = Tracer(clock)

    def fail() -> None:
        clock.now += 5
        raise ValueError

    def tolerate() -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            failing()
        clock.now += 2

    failing = tracer.wrap("failing", fail)
    serve(tracer, clock, tracer.wrap("tolerant", tolerate))()
    assert tracer.requests == [{"failing": 5, "tolerant": 2, "application": 1}]


def test_each_request_has_its_times() -> None:
    clock = Clock()
    tracer = Tracer(clock)
    request = serve(tracer, clock, tracer.wrap("function", work(clock, 3)))
    request()
    request()
    assert tracer.requests == [{"function": 3, "application": 1}] * 2


def test_a_function_that_was_not_called_took_nothing() -> None:
    requests: list[Times] = [{"a": 1.0}, {"a": 3.0, "b": 9.0}, {"a": 500.0}]
    assert median_times(requests) == {"a": 3.0, "b": 0.0}


def test_the_parts_add_up_to_the_total() -> None:
    whole, bare = ProcessorTime(80e-6, 20e-6), ProcessorTime(30e-6, 19e-6)
    warm = parts_of(whole, bare, 4_000.0, {"role_groups": 5_000.0, "Callers.require": 15_000.0})
    cold = parts_of(whole, bare, 4_000.0, {"role_groups": 60_000.0, "jws.parse": 20_000.0})
    assert list(warm) == [KERNEL, TLS, CARRIER, "Callers.require", "role_groups", ""]
    assert warm[KERNEL] + warm[TLS] + warm[CARRIER] == pytest.approx(50_000.0)
    lines = [line.split() for line in render({"warm": warm, "cold": cold}).splitlines()]
    rows = {line[0]: line[-4:] for line in lines}
    assert rows["role_groups"] == ["5.00", "5.0%", "60.00", "60.0%"]
    assert rows["rest,"] == ["30.00", "30.0%", "-30.00", "-30.0%"]
    assert rows["whole"] == ["100.00", "100.0%", "100.00", "100.0%"]
    assert rows["Callers.require"][-3:] == ["15.00", "15.0%", "-"]


def test_a_connection_in_memory_carries_complete_requests(tmp_path: Any) -> None:
    connection = MemoryConnection(make_data_dir(tmp_path))
    assert peer_certificate(certificate_of(connection.server)).caller == Caller("kube-apiserver")
    request, answer = request_bytes(b"{}"), answer_bytes(b"[]")
    assert request.endswith(b"\r\n\r\n{}")
    assert b"content-length: 2\r\n" in answer
    assert connection.nanoseconds([request] * 3, answer) > 0
