"""Names with arbitrary characters, sent by clients, in the log."""

from pathlib import Path

import pytest

from tests.e2e.harness import start_server

NAMES = ["\x1b[2J", "alice\nroot", "a\rb", "\x9b31m", "\u202egnp", "a\u2028b", "n" * 65536]


@pytest.mark.bad_input(62)
@pytest.mark.fault(51)
def test_no_name_reaches_the_log_raw(tmp_path: Path) -> None:
    server = start_server(
        tmp_path, algorithm="ES256", environment={"LEEWAY_SERVER_LOG_FORMAT": "text"}
    )
    try:
        root = server.context("root")
        for name in NAMES:
            for path, body in (
                ("user/add", {"name": name, "options": {"noPassword": True}}),
                ("role/add", {"name": name}),
                ("user/grant", {"user": name, "role": name}),
                ("authenticate", {"name": name, "password": name[:60]}),
            ):
                answer = server.post(f"/v3/auth/{path}", body, root)
                assert answer.status in (200, 400), answer
                assert answer.body.isascii() or b"\x1b" not in answer.body
        listed = server.post("/v3/auth/user/list", {}, root).json["users"]
        assert set(NAMES) <= set(listed)
    finally:
        server.process.terminate()
        server.process.wait(30)
    log = server.log_file.read_text("utf-8")
    assert "user.add" in log
    for line in log.split("\n"):
        assert line.isprintable(), ascii(line)
        assert len(line.encode()) < 4096
