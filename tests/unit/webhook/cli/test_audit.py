"""What commands write to ``audit.log``: a line for each change and token only."""

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from tests.unit.webhook.cli.cli_support import Leeway

CALLER = f"os:{pwd.getpwuid(os.getuid()).pw_name}"


def lines(data_dir: Path) -> list[dict[str, Any]]:
    path = data_dir / "audit.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


SCRIPT: list[tuple[str, str, dict[str, object]]] = [
    ("user add alice:pa55word", "user.add", {"user": "alice"}),
    ("user add carol --no-password", "user.add", {"user": "carol"}),
    ("role add r", "role.add", {"role": "r"}),
    (
        "role grant-permission r read /a/ --prefix",
        "role.grant-permission",
        {"role": "r", "permission": "READ", "keys": "[/a/, /a0)"},
    ),
    (
        "role revoke-permission r /a/ --prefix",
        "role.revoke-permission",
        {"role": "r", "keys": "[/a/, /a0)"},
    ),
    ("user grant-role alice r", "user.grant-role", {"user": "alice", "role": "r"}),
    ("user passwd alice", "user.passwd", {"user": "alice"}),
    ("user revoke-role alice r", "user.revoke-role", {"user": "alice", "role": "r"}),
    ("group grant-role devs r", "group.grant-role", {"group": "devs", "role": "r"}),
    ("group revoke-role devs r", "group.revoke-role", {"group": "devs", "role": "r"}),
    ("role delete r", "role.delete", {"role": "r"}),
    ("user delete carol", "user.delete", {"user": "carol"}),
    ("auth disable", "auth.disable", {}),
    ("auth enable", "auth.enable", {}),
]


def test_every_change_has_a_line(leeway: Leeway, data_dir: Path) -> None:
    revisions = []
    for number, (command, action, about) in enumerate(SCRIPT):
        leeway(*command.split(), "--data-dir", data_dir, stdin="pa55word\n").assert_done()
        found = lines(data_dir)
        assert len(found) == number + 1
        line = found[-1]
        assert (line.pop("level"), line.pop("message")) == ("info", f"{action} done")
        assert line.pop("time")
        revisions.append(line.pop("revision"))
        head = {"event": "audit", "action": action, "outcome": "done", "via": "command"}
        assert line == {**head, "caller": CALLER, **about}
    status = json.loads(leeway("auth", "status", "-o", "json", "--data-dir", data_dir).out)
    assert revisions == sorted(revisions)
    assert revisions[-1] == status["authRevision"]
    assert "pa55word" not in (data_dir / "audit.log").read_text()
    assert (data_dir / "audit.log").stat().st_mode & 0o777 == 0o600


def test_tokens_revocations_and_keys_have_a_line(leeway: Leeway, data_dir: Path) -> None:
    token = leeway("token", "create", "b", "-n", "demo", "--data-dir", data_dir).assert_done()
    leeway("revoke", "jti", "abc", "--data-dir", data_dir).assert_done()
    leeway("revoke", "serviceaccount", "demo/b", "--data-dir", data_dir).assert_done()
    leeway("revoke", "user", "root", "--data-dir", data_dir).assert_done()
    leeway("keys", "generate", "--data-dir", data_dir).assert_done()
    issued, jti, account, user, key = lines(data_dir)
    assert (issued["action"], issued["subject"]) == ("token.issue", "system:serviceaccount:demo:b")
    assert issued["audiences"] == ["https://kubernetes.default.svc"]
    assert {"jti", "expiresAt", "fingerprint"} <= set(issued)
    assert token.strip()[-20:] not in (data_dir / "audit.log").read_text()
    assert (jti["action"], jti["jti"]) == ("revoke.jti", "abc")
    assert account["action"] == "revoke.serviceaccount"
    assert account["subject"] == "system:serviceaccount:demo:b"
    assert (user["action"], user["subject"]) == ("revoke.user", "root")
    assert (key["action"], key["state"]) == ("keys.generate", "pending")
    assert key["kid"] in leeway("keys", "list", "--data-dir", data_dir).out


@pytest.mark.parametrize(
    "command",
    ["user list", "user get root", "role list", "role get root", "auth status", "keys list",
     "keys jwks", "group list", "revoke list", "can-i read /a --user root", "user delete nobody",
     "user add root --no-password", "role delete nope"],
)  # fmt: skip
def test_queries_and_failures_have_no_line(leeway: Leeway, data_dir: Path, command: str) -> None:
    leeway(*command.split(), "--data-dir", data_dir)
    assert lines(data_dir) == []


def test_a_change_is_kept_if_its_line_cannot_be_written(leeway: Leeway, data_dir: Path) -> None:
    (data_dir / "audit.log").mkdir()
    ran = leeway("role", "add", "r", "--data-dir", data_dir)
    assert (ran.code, ran.out) == (0, "Role r created\n")
    assert ran.err == (
        f"leeway: warning: this was done, but not written to {data_dir}/audit.log: Is a directory\n"
    )
    assert "r" in leeway("role", "list", "--data-dir", data_dir).out.split()
