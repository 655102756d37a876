"""Any record is one line, of bounded length, without a token or a key."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.messages import utc
from webhook.telemetry import log_lines
from webhook.telemetry.log_lines import (
    MAX_BYTES,
    REDACTED,
    TRACEBACK,
    json_line,
    redact,
    text_line,
)

AT = 1_700_000_000.1239
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl-_"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\n-----END PRIVATE KEY-----"
START = "[2023-11-14 22:13:20 +0000] [7] [INFO] "


def test_json_members() -> None:
    fields = {"pid": 7, "event": "x", "audiences": ("a", "b"), "ok": True, "ms": 1.5, "none": None}
    line = json_line(AT, "info", "hello", fields)
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123Z", "level": "info", "message": "hello", "pid": 7,
        "event": "x", "audiences": ["a", "b"], "ok": True, "ms": 1.5,
    }  # fmt: skip
    assert line.index('"time"') < line.index('"level"') < line.index('"message"')


@pytest.mark.parametrize(
    ("fields", "rest"),
    [
        ({}, ""),
        ({"a": "b", "n": 5, "f": 0.25}, " a=b n=5 f=0.25"),
        ({"a": "b c", "e": "", "q": 'x"\\y'}, ' a="b c" e="" q="x\\"\\\\y"'),
        ({"a": "x=y", "l": ["p", "q"], "t": True}, ' a="x=y" l=p,q t=true'),
        ({"none": None}, ""),
    ],
)
def test_text_is_like_gunicorns(fields: dict[str, object], rest: str) -> None:
    assert text_line(AT, "info", "hello", {"pid": 7, **fields}) == f"{START}hello{rest}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (0.0009, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.999, "2023-11-14T22:13:20.999Z"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert utc(seconds, "milliseconds") == text


INJECTIONS = [
    "a\nb", "a\r\nb", "a\x00b", "\x1b[31mred", "\x7f", "\x85", "\x9b31m", "\u2028x", "\u2029",
    "\u202e", '", "level": "critical', "\ud800", "\x0b\x0c\x1c\x1d\x1e", "\t", "é", "\U0001f600",
    '\\"\n{"a":1}',
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS, ids=ascii)
@pytest.mark.parametrize("place", ["message", "field", "list"])
def test_nothing_starts_a_new_line_or_moves_the_cursor(text: str, place: str) -> None:
    message = text if place == "message" else "m"
    fields: dict[str, object] = {"field": {"field": text, "list": [text]}.get(place, "f")}
    line = json_line(AT, "info", message, fields)
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert set(found) == {"time", "level", "message", "field"}
    whole = text.replace("\ud800", "\ufffd")
    assert whole in (found["message"], found["field"], *found["field"])
    plain = text_line(AT, "info", message, fields)
    assert plain.isprintable()
    assert len(plain.splitlines()) == 1


def test_a_traceback_is_one_member_in_json_and_indented_lines_in_text() -> None:
    trace = 'Traceback (most recent call last):\n  File "a.py"\nValueError: x\n[2023] fake\x1b'
    assert json.loads(json_line(AT, "error", "m", {TRACEBACK: trace}))[TRACEBACK] == trace
    first, *rest = text_line(AT, "error", "m", {"pid": 7, TRACEBACK: trace}).split("\n")
    assert first == START.replace("INFO", "ERROR") + "m"
    assert [line[:4] for line in rest] == ["    "] * 4
    assert rest[-1] == "    [2023] fake\\u001b"


SECRETS = [
    (JWT, REDACTED),
    (f"a {JWT} b {JWT}, c", f"a {REDACTED} b {REDACTED}, c"),
    (f"x%20{JWT}", f"x%20{REDACTED}"),
    (f"b'{JWT}'", f"b'{REDACTED}'"),
    (JWT[:30], REDACTED),
    (f"Bearer {JWT}", f"Bearer {REDACTED}"),
    ("authorization: bearer abcdefghijklmnop.17", f"authorization: bearer {REDACTED}"),
    (f"key {PEM} end", f"key {REDACTED} end"),
    (repr(PEM), f"'{REDACTED}'"),
    (PEM[:40], REDACTED),
    (PEM.replace("PRIVATE", "RSA PRIVATE"), REDACTED),
    # Other text stays as it is.
    ("eyJ", "eyJ"),
    ("they.eyes.wide", "they.eyes.wide"),
    ("eyJhbGciOiJub25lIn0", "eyJhbGciOiJub25lIn0"),
    ("a token with Authorization: Bearer", "a token with Authorization: Bearer"),
    ("-----BEGINNING", "-----BEGINNING"),
]


@pytest.mark.parametrize(("text", "left"), SECRETS, ids=range(len(SECRETS)))
def test_tokens_and_keys_are_replaced(text: str, left: str) -> None:
    assert redact(text) == left
    for line in (
        json_line(AT, "info", text, {"f": text, "l": [text], TRACEBACK: f"E: {text}"}),
        text_line(AT, "info", text, {"f": text, "l": [text], TRACEBACK: f"E: {text}"}),
    ):
        assert "c2lnbmF0" not in line
        assert "MIIEv" not in line
        assert "klmnop.17" not in line


@pytest.mark.parametrize("size", [100, 2047, 2049, 5000, 100_000])
@pytest.mark.parametrize(
    "character", ["a", "\x00", "é", "\U0001f600", "eyJ", '"', "=", "-----BEGIN "]
)
def test_a_line_fits_into_a_pipe(size: int, character: str) -> None:
    long = character * size
    fields = {"pid": 7, "a": long, "l": [long] * 20, "b": long, TRACEBACK: f"first\n{long}\nlast"}
    line = json_line(AT, "info", long, fields)
    assert len(line) + 1 <= MAX_BYTES
    found = json.loads(line)
    assert set(found) == {"time", "level", "message", *fields}
    assert found["time"] == "2023-11-14T22:13:20.123Z"
    if size > 100:
        assert found["message"].endswith(("...", REDACTED))
    assert len(text_line(AT, "info", long, fields).encode()) + 1 <= MAX_BYTES


def test_a_long_traceback_keeps_its_beginning_and_its_end() -> None:
    trace = "first\n" + "  File\n" * 5000 + "ValueError: why"
    kept = json.loads(json_line(AT, "error", "m", {TRACEBACK: trace}))[TRACEBACK]
    assert kept.startswith("first\n")
    assert "\n...\n" in kept
    assert kept.endswith("ValueError: why")


def test_a_long_list_is_shortened_with_its_length() -> None:
    found = json.loads(json_line(AT, "info", "m", {"l": [str(n) for n in range(10_000)]}))["l"]
    assert found == [*map(str, range(16)), "and 9984 more"]


def test_levels_in_text_are_gunicorns() -> None:
    assert re.search(r"\] \[WARNING\] m$", text_line(AT, "warning", "m", {"pid": 1}))


# Texts that look like secrets, texts that are escaped, and plain text around them.
PARTS = [
    "eyJ", ".", "-----BEGIN A-----", "bearer ", "BEARER ", "//", "@", " ", "a" * 16, '"', "\\",
    "\n", "null", "{", "}", "[", "é", "\ud800", "/", "?", "x" * 2100,
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PARTS), max_size=6).map("".join)
VALUES = st.one_of(
    TEXTS, st.integers(), st.booleans(), st.none(), st.lists(TEXTS, max_size=3),
    st.lists(st.just("a"), min_size=15, max_size=18), st.tuples(TEXTS),
    st.dictionaries(TEXTS, TEXTS, max_size=1), st.just(b"eyJ."),
)  # fmt: skip


@given(TEXTS, st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES))
def test_a_line_that_is_not_cleaned_needs_no_cleaning(
    message: str, fields: dict[str, object]
) -> None:
    line = log_lines._clean_line({"time": "t", "message": message, **fields})
    assert line in ("", json.dumps({"time": "t"} | log_lines._cleaned(message, fields)))


def test_most_lines_need_no_cleaning() -> None:
    fields = {"audiences": ("https://kubernetes.default.svc",), "n": 1, "none": None}
    assert log_lines._clean_line({"message": "token.sign done", **fields})
