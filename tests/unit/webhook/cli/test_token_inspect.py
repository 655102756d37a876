"""``leeway token inspect`` shows a token without checking it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support import (
    assert_token_not_in,
    b64,
    good_claims,
    header_of,
    raw_jws,
    signing_key,
    token_of,
)
from tests.unit.webhook.cli.cli_support import Leeway, run_process

KEY = signing_key("ES256")
UNVERIFIED = "UNVERIFIED: nothing below has been checked; anyone could have written it.\n"


def line_of(out: str, name: str) -> str:
    """Return the value beside a name."""
    lines = [line for line in out.splitlines() if line.startswith(f"  {name} ")]
    assert len(lines) == 1, out
    return lines[0][2 + len(name) :].strip()


def test_text(leeway: Leeway) -> None:
    token = token_of(good_claims(), KEY)
    out = leeway("token", "inspect", token).assert_done()
    assert out.startswith(UNVERIFIED)
    assert line_of(out, "alg") == '"ES256"'
    assert line_of(out, "aud") == '["https://kubernetes.default.svc"]'
    assert line_of(out, "kubernetes.io serviceaccount name") == '"loofah"'
    assert line_of(out, "exp").startswith("1800003600  2027-01-15T09:00:00Z, ")
    assert_token_not_in(token, out)
    assert out.index("\nHeader\n") < out.index('"ES256"') < out.index("\nClaims\n")


@pytest.mark.parametrize(("output", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_json_and_yaml(leeway: Leeway, output: str, load: Callable[[str], object]) -> None:
    token = token_of(good_claims(), KEY)
    out = leeway("token", "inspect", token, "-o", output).assert_done()
    assert load(out) == {"unverified": {"header": header_of(KEY), "claims": good_claims()}}
    assert_token_not_in(token, out)


def test_where_the_token_comes_from(leeway: Leeway, tmp_path: Path) -> None:
    token = token_of(good_claims(), KEY)
    (tmp_path / "token").write_text(token + "\n")
    expected = leeway("token", "inspect", token, "-o", "json").assert_done()
    for argument, stdin in ((f"@{tmp_path / 'token'}", ""), ("-", token), ("", "")):
        arguments = [argument] if argument else []
        ran = leeway("token", "inspect", *arguments, "-o", "json", stdin=stdin or token)
        assert ran.assert_done() == expected


IN_WORDS = [
    (0, "0  1970-01-01T00:00:00Z, ", " days ago"),
    (253402300799, "253402300799  9999-12-31T23:59:59Z, in ", " days"),
    (1.5, "1.5  1970-01-01T00:00:01Z, ", " days ago"),
]


@pytest.mark.parametrize(("value", "start", "end"), IN_WORDS)
@pytest.mark.parametrize("name", ["exp", "iat", "nbf", "warnafter"])
def test_times_in_words(leeway: Leeway, name: str, value: float, start: str, end: str) -> None:
    out = leeway("token", "inspect", token_of({name: value}, KEY)).assert_done()
    shown = line_of(out, name)
    assert shown.startswith(start)
    assert shown.endswith(end)


ABSURD = ["1" + "0" * 12, "-" + "9" * 18, "9" * 30, "9" * 300, "1e300", "-1e300", "253402300800"]
NO_NUMBER = ["null", "true", '"soon"', "[]", "[1800000000]"]


@pytest.mark.parametrize("value", ABSURD + NO_NUMBER, ids=lambda value: value[:14])
def test_absurd_times_do_not_crash(leeway: Leeway, value: str) -> None:
    payload = f'{{"exp":{value}}}'.encode()
    ran = leeway("token", "inspect", raw_jws(b'{"alg":"ES256"}', payload, KEY))
    shown = line_of(ran.assert_done(), "exp")
    end = "  before 0001-01-01T00:00:00Z" if value[0] == "-" else "  after 9999-12-31T23:59:59Z"
    assert shown.endswith(end) == (value in ABSURD)


def test_claims_cannot_move_the_cursor_or_add_a_line(leeway: Leeway) -> None:
    nasty = "\n\x1b[2J\x9b1A\u202e\u2028"
    claims = {nasty: 1, "sub": nasty, nasty * 2: {nasty: "x"}, "café": "ñ"}
    out = leeway("token", "inspect", token_of(claims, KEY, {"alg": nasty})).assert_done()
    assert all(line.isprintable() for line in out.splitlines())
    assert len(out.splitlines()) == 3 + 1 + 2 + 4
    assert r"\u000a\u001b[2J\u009b1A\u202e\u2028" in out
    assert "café" in out
    assert '"ñ"' in out


def test_deep_nesting(leeway: Leeway) -> None:
    payload = b'{"a":' * 400 + b"1" + b"}" * 400
    out = leeway("token", "inspect", raw_jws(b"{}", payload, KEY)).assert_done()
    assert "  " + "a " * 400 in out


def test_nesting_too_deep_to_show(leeway: Leeway) -> None:
    payload = b'{"a":' * 400 + b"1" + b"}" * 400
    ran = leeway("token", "inspect", "-o", "yaml", raw_jws(b"{}", payload, KEY))
    ran.assert_failed(2, "nested too deeply")


HEADER, PAYLOAD = b64(b'{"alg":"ES256"}'), b64(b'{"iss":"x"}')
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ"
PAYLOADS = [b"{", b"\xff", b'{"a":1,"a":2}', b"[" * 20000, b'{"a":"\\ud800"}', b'{"a":NaN}']
MALFORMED = ["hello", "a.b", "a.b.c.d", "..", f"{HEADER}.{PAYLOAD}", "x" * 40000]
MALFORMED += [f"{HEADER}.{b64(payload)}.{SECRET}" for payload in PAYLOADS]
MALFORMED += [
    f"{start}.{SECRET}" for start in (f"{HEADER}.{PAYLOAD}=", f"!.{PAYLOAD}", f"é.{PAYLOAD}")
]


@pytest.mark.parametrize("token", MALFORMED, ids=lambda token: token[:40])
def test_malformed(leeway: Leeway, token: str) -> None:
    error = leeway("token", "inspect", token).assert_failed(2, "this is not a JWT: ")
    assert SECRET not in error
    assert len(token) < 20 or token not in error


def test_no_token(leeway: Leeway, tmp_path: Path) -> None:
    leeway("token", "inspect", "").assert_failed(2, "the token is empty")
    leeway("token", "inspect", f"@{tmp_path / 'none'}").assert_failed(3, "none is missing")


def test_needs_no_data_directory(tmp_path: Path) -> None:
    token = token_of(good_claims(), KEY)
    environment = {"LEEWAY_DATA_DIR": str(tmp_path / "none")}
    ran = run_process("token", "inspect", stdin=token.encode(), environment=environment)
    assert ran.assert_done().startswith(UNVERIFIED)
