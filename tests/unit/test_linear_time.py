"""Every parser that meets untrusted bytes takes time in proportion to them: bad input 57."""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keys import jws, pem
from keys.crl import check_revocation_lists
from keys.encoding import decode_base64url, decode_json
from tests.hard_input import (
    BLOCKS,
    BODIES,
    FOUND,
    JSON,
    PROTOBUF,
    TOKENS,
    Make,
    times,
)
from tests.linear_time import MAX_GROWTH, growth
from webhook.backends import etcd_head as head
from webhook.backends.etcd_layout import Layout
from webhook.backends.etcd_position import parse_position
from webhook.config import load as config_file
from webhook.config.yaml_text import parse_yaml
from webhook.duration import parse_duration
from webhook.etcd.auth_json import RoleGrantPermissionRequest, parse_request
from webhook.https_url import parse_https_url
from webhook.kube import protobuf
from webhook.kube import token_review as reviews
from webhook.kube.bodies import decode_body
from webhook.objects.documents import parse_objects
from webhook.server.connection.chunked import ChunkedBody
from webhook.server.connection.read_head import Limits, read_head
from webhook.telemetry.log_lines import json_line, redact, text_line
from webhook.token.claims import parse_claims, parse_requested, read_unverified
from webhook.trusted_issuers.documents import refresh_seconds

Parse = Callable[[bytes], object]
LAYOUT = Layout("/leeway")
pytestmark = pytest.mark.fault(43)
SIZE = 32 * 1024


def read_http(data: bytes) -> None:
    read_head(data, Limits(1 << 17, 1 << 17))


def read_chunks(data: bytes) -> None:
    ChunkedBody().feed(data, data.find(b"\r\n\r\n") + 4)


def parse_token(data: bytes) -> None:
    parsed = jws.parse(data.decode())
    with contextlib.suppress(Exception):
        jws.header(parsed)
    if unverified := read_unverified(parsed.unverified_payload):
        parse_claims(unverified)


def parse_payload(data: bytes) -> None:
    if unverified := read_unverified(data):
        parse_claims(unverified, legacy=True)


def log(data: bytes) -> None:
    text = data.decode()
    redact(text)
    for render in (json_line, text_line):
        render(0, "info", text, {"traceback": text, "other": text})


def text_of(parse: Callable[[str], object]) -> Parse:
    return lambda data: parse(data.decode())


def read_lists(data: bytes) -> None:
    check_revocation_lists(data, data, datetime.now(UTC), "ca.crl")


BASE64: dict[str, Make] = {
    "letters": times(b"AAAA"),
    "bad end": times(b"AAAA", b"", b"!"),
    "padding": times(b"="),
    "blanks": times(b" "),
}
PEM: dict[str, Make] = {
    "begins": times(b"-----BEGIN PRIVATE KEY-----\n"),
    "begins of a list": times(b"-----BEGIN X509 CRL-----\n"),
    "parts of begins": times(b"-----BEGIN "),
    "long label": times(b"A", b"-----BEGIN "),
    "dashes": times(b"-", b"-----BEGIN PRIVATE KEY-----\n"),
    "four dashes": times(b"----a", b"-----BEGIN PRIVATE KEY-----\n"),
    "no end": times(b"AAAA\n", b"-----BEGIN PRIVATE KEY-----\n"),
    "another end": times(b"-----END A-----\n", b"-----BEGIN PRIVATE KEY-----\n"),
    "blocks": times(b"-----BEGIN A-----\n-----END A-----\n"),
}
YAML: dict[str, Make] = {
    "base 60": times(b":1", b"a: 1"),
    "base 60 with its tag": times(b":1", b"a: !!int '1", b"'"),
    "base 60 fraction": times(b":1", b"a: 1", b".5"),
    "digits": times(b"1", b"a: "),
    "underscores": times(b"_", b"a: 1", b"x"),
    "fraction": times(b"1", b"a: 1."),
    "blanks": times(b" ", b"a: 2001-01-01", b"x"),
    "quoted lines": times(b" \n", b"a: 'x", b"'"),
    "no end": times(b"x", b"a: '"),
    "open": times(b"["),
    "open maps": times(b"{a: "),
    "dashes": times(b"- "),
    "fields": lambda size: b"".join(b"a%06d: x\n" % n for n in range(size // 11)),
    "aliases": times(b"- *a\n", b"- &a x\n"),
    "anchors": lambda size: b"".join(b"- &a%05d x\n" % n for n in range(size // 12)),
    "block": times(b"\n", b"a: |\n", b" x"),
    "comments": times(b"#\n"),
}
TEXTS: dict[str, Make] = {
    "digits": times(b"1"),
    "digits and a unit": times(b"1", b"", b"s"),
    "digits and a wrong unit": times(b"1", b"", b"x"),
    "fractions": lambda size: b"1" * (size // 2) + b"." + b"1" * (size // 2),
    "points": times(b"1."),
    "durations": times(b"1s"),
    "directives": times(b"max-age=1,"),
    "a long directive": times(b"1", b"max-age="),
    "blanks": times(b" ", b"max-age="),
    "URL of a long host": times(b"a", b"https://"),
    "URL of labels": times(b"a.", b"https://", b"\x7f"),
    "URL of a long path": times(b"/a", b"https://a", b" "),
}
KEYS: dict[str, Make] = {
    "quoted": times(b"%FF", b"user/"),
    "half quoted": times(b"%", b"user/"),
    "quoted without need": times(b"%61", b"user/"),
    "slashes": times(b"/", b"user"),
    "a long kind": times(b"%C3%A9", b"", b"/ann"),
    "bytes": times(b"\xff", b"user/"),
    "letters": times(b"a", b"user/"),
}
POSITIONS: dict[str, Make] = {
    "digits": times(b"1"),
    "points": times(b"."),
    "a long revision": times(b"f", b"0" * 32 + b"."),
}
LOGGED: dict[str, Make] = {
    "begins": times(b"-----BEGIN "),
    "ends": times(b"-----END ", b"-----BEGIN A-----"),
    "bearers": times(b"bearer "),
    "blanks": times(b" ", b"bearer", b"!"),
    "tokens": times(b"eyJ."),
    "half tokens": times(b"eyJ "),
    "controls": times(b"\x01"),
    "lines": times(b"\n"),
}
PARSERS: list[tuple[str, Parse, dict[str, Make]]] = [
    ("HTTP", read_http, BLOCKS | BODIES),
    ("chunked body", read_chunks, BODIES),
    ("token", parse_token, TOKENS),
    ("claims", parse_payload, JSON),
    ("claims to be signed", parse_requested, JSON),
    ("JSON", decode_json, JSON),
    ("body", decode_body, JSON),
    ("review", lambda data: reviews.parse_token_review(data, "v1"), JSON),
    ("etcd", lambda data: parse_request(data, RoleGrantPermissionRequest), JSON),
    ("base64url", decode_base64url, BASE64),
    ("private key", lambda data: pem.parse_private_key(data, "key"), PEM),
    ("public keys", lambda data: pem.parse_public_keys(data, "keys"), PEM),
    ("revocation list", read_lists, PEM),
    ("kubeconfig", lambda data: parse_yaml(data, "kubeconfig"), YAML),
    ("objects", lambda data: parse_objects(data, "objects"), YAML),
    ("duration", text_of(parse_duration), TEXTS),
    ("Cache-Control", text_of(refresh_seconds), TEXTS),
    ("URL", text_of(parse_https_url), TEXTS),
    ("log", log, LOGGED),
    ("etcd record", lambda data: LAYOUT.record_of(LAYOUT.records + data, b"\1" + data), KEYS),
    ("etcd head", head.decode, KEYS),
    ("position", text_of(parse_position), POSITIONS),
    ("protocol buffer", lambda data: protobuf.json_of(data, reviews.MESSAGE), PROTOBUF),
]
CASES = [
    pytest.param(parse, make, id=f"{parser}, {name}")
    for parser, parse, inputs in PARSERS
    for name, make in inputs.items()
]


def growth_of(parse: Parse, data: bytes, twice: bytes) -> float:
    def call(text: bytes) -> None:
        try:
            parse(text)
        except (AttributeError, NameError, TypeError):
            raise  # the parser was called in a wrong way
        except Exception:
            pass

    return growth(lambda: call(data), lambda: call(twice))


def is_linear(parse: Parse, make: Make, size: int) -> bool:
    # One of the two sizes may be where the data no longer fits into a cache of the processor.
    sizes = (size, size // 2)
    return any(growth_of(parse, make(n), make(2 * n)) <= MAX_GROWTH for n in sizes)


@pytest.mark.bad_input(57)
@pytest.mark.parametrize(("parse", "make"), CASES)
def test_parsers_are_linear(parse: Parse, make: Make) -> None:
    # YAML is read by Python code, which takes a second for what the others read in a millisecond.
    size = SIZE // 8 if make in YAML.values() else SIZE
    assert is_linear(parse, make, size)


@pytest.mark.bad_input(57)
@pytest.mark.parametrize("make", YAML.values(), ids=YAML)
def test_the_configuration_is_read_in_linear_time(make: Make, tmp_path: Path) -> None:
    def load(data: bytes) -> None:
        (tmp_path / config_file.FILE_NAME).write_bytes(data)
        config_file.load_configuration(tmp_path, {}, {})

    assert is_linear(load, make, SIZE // 8)


@pytest.mark.bad_input(57)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_the_block_that_was_found(method: bytes) -> None:
    assert len(FOUND) == 126
    data = FOUND.replace(b"GET", method)
    plain = data.replace(b" " * 10, b" " + b"a" * 9)
    assert growth_of(read_http, plain, data) <= MAX_GROWTH
