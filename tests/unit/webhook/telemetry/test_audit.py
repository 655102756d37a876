"""Audit lines of commands: their content, and that they never prevent a command."""

import json
import resource
from pathlib import Path

import pytest

from webhook.telemetry.audit import append_line, fingerprint, token_fields
from webhook.token.claims import Claims, ObjectReference


def test_the_file_is_private_and_grows(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for number in range(3):
        append_line(path, number, "m", {"n": number, "user": "a\nb"})
    assert path.stat().st_mode & 0o777 == 0o600
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["n"], line["user"]) for line in found] == [(0, "a\nb"), (1, "a\nb"), (2, "a\nb")]


def test_a_line_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    append_line(path, 0, "first", {})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            append_line(path, 0, "second", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    append_line(path, 0, "third", {})
    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == [
        "first",
        "third",
    ]


def test_a_token_is_named_by_its_fingerprint() -> None:
    # printf %s a.b.c | sha256sum
    assert fingerprint("a.b.c") == "845e30448809"
    claims = Claims(
        issuer="i", subject="s", audiences=("a",), namespace="n",
        service_account=ObjectReference("x"), jti="j", expires_at=1_700_000_000,
        pod=ObjectReference("web-0", "u"), node=ObjectReference("node-1"),
    )  # fmt: skip
    assert token_fields(claims, "a.b.c") == {
        "subject": "s", "audiences": ("a",), "jti": "j", "fingerprint": "845e30448809",
        "expiresAt": "2023-11-14T22:13:20Z", "boundObjects": ["Pod web-0", "Node node-1"],
    }  # fmt: skip
