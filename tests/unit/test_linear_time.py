"""Every parser that meets untrusted bytes takes time in proportion to them: bad input 57."""

import contextlib
from collections.abc import Callable

import pytest

from tests.hard_input import BLOCKS, BODIES, FOUND, Make
from tests.linear_time import MAX_GROWTH, growth
from webhook.server import whole_request
from webhook.server.parser import LeewayParser


def parse_http(data: bytes) -> None:
    parser = LeewayParser(limit_request_line=1 << 17, limit_request_field_size=1 << 17)
    with contextlib.suppress(Exception):
        parser.feed(data)


def read_head(data: bytes) -> None:
    whole_request.read_head(data)


CASES = [
    *(pytest.param(parse_http, make, id=f"parser, {name}") for name, make in BLOCKS.items()),
    *(pytest.param(parse_http, make, id=f"parser, {name}") for name, make in BODIES.items()),
    *(pytest.param(read_head, make, id=f"whole request, {name}") for name, make in BLOCKS.items()),
]
SIZE = 32 * 1024


@pytest.mark.fault(43)
@pytest.mark.parametrize(("parse", "make"), CASES)
def test_bad_input_57_parsers_are_linear(parse: Callable[[bytes], object], make: Make) -> None:
    data, twice = make(SIZE), make(2 * SIZE)
    assert len(twice) > 1.9 * len(data) or len(data) < SIZE
    assert growth(lambda: parse(data), lambda: parse(twice)) <= MAX_GROWTH


@pytest.mark.fault(43)
@pytest.mark.parametrize("parse", [parse_http, read_head])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_bad_input_57_the_block_that_was_found(
    parse: Callable[[bytes], object], method: bytes
) -> None:
    assert len(FOUND) == 126
    data = FOUND.replace(b"GET", method)
    plain = data.replace(b" " * 10, b" " + b"a" * 9)
    assert growth(lambda: parse(plain), lambda: parse(data)) <= MAX_GROWTH
