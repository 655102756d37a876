"""``leeway skew``: its output, and its errors without a server. See also tests/e2e."""

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.unit.webhook.cli.cli_support import Leeway
from webhook.cli.skew import render_report
from webhook.skew.report import ClockEntry, SkewReport, SkewStatus
from webhook.skew.tracker import ClockState
from webhook.skew.verdict import ClockVerdict, VerdictKind

ISSUER = "https://a-rather-long-name-of-an-issuer.clusters.example.com/of/a/team"


def entry(node: str, ahead: float, state: ClockState) -> ClockEntry:
    return ClockEntry(
        issuer=ISSUER,
        node=node,
        state=state,
        ahead_seconds=ahead,
        tokens=12,
        seen_at="2026-01-01T00:00:00Z",
    )


def status(*clocks: ClockEntry, kind: VerdictKind = VerdictKind.SIGNERS) -> SkewStatus:
    verdict = ClockVerdict(kind, 0.0, "what is wrong " * 10, "what to do " * 20)
    return SkewStatus("2026-01-01T00:00:00Z", 900, verdict, clocks)


CLOCKS = (
    entry("", 90, ClockState.AHEAD),
    entry("node-3", 90.0, ClockState.AHEAD),
    entry("node-4", -45.0, ClockState.BEHIND),
    entry("node-5", 0.0, ClockState.IN_STEP),
    entry("node-6", -500.0, ClockState.UNKNOWN),
    entry("bad\x1b[31m\nname", 0.0, ClockState.IN_STEP),
)


def test_table() -> None:
    lines = render_report(status(*CLOCKS), 100).splitlines()
    title, empty, head, *rows = lines[:9]
    assert (
        title == "Clocks against this server's at 2026-01-01T00:00:00Z, by the tokens of 15 minutes"
    )
    assert empty == ""
    assert head.split() == ["CLOCK", "AHEAD", "BY", "TOKENS"]
    assert [" ".join(row.replace("|", " ").replace("#", " ").split()) for row in rows] == [
        "https://a-rather-l...mple.com/of/a/team +90.0 s ahead 12",
        "node node-3 +90.0 s ahead 12",
        "node node-4 -45.0 s looks behind 12",
        "node node-5 +0.0 s in step 12",
        "node node-6 > -500.0 s not known 12",
        "node bad\\u001b[31m\\u000aname +0.0 s in step 12",
    ]
    bars = [re.search(r"(#*)\|(#*)$", row) for row in rows]
    drawn = [(len(bar[1]), len(bar[2])) for bar in bars if bar]
    assert drawn[0] == drawn[1] == (0, drawn[0][1])
    assert drawn[2][1] == 0
    assert abs(2 * drawn[2][0] - drawn[0][1]) <= 2
    assert drawn[3:] == [(0, 0)] * 3
    assert {row.index("|") for row in rows} == {rows[0].index("|")}


@pytest.mark.parametrize("clocks", [CLOCKS, CLOCKS[:2], CLOCKS[2:4], CLOCKS[4:5], ()])
@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_width(clocks: tuple[ClockEntry, ...], width: int) -> None:
    text = render_report(status(*clocks), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert text.isprintable() or set(text) - {"\n"} <= set(map(chr, range(32, 127)))


def test_no_bar_without_room() -> None:
    assert "#" not in render_report(status(*CLOCKS), 60)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (VerdictKind.IN_STEP, "FINE"),
        (VerdictKind.NO_TOKENS, "FINE"),
        (VerdictKind.UNKNOWN, "FINE"),
        (VerdictKind.SERVER, "SKEWED"),
        (VerdictKind.SIGNERS, "SKEWED"),
        (VerdictKind.UNDECIDED, "SKEWED"),
    ],
)
def test_verdict_in_a_word(kind: VerdictKind, word: str) -> None:
    assert f"\n{word}: what is wrong" in render_report(status(kind=kind), 100)


def test_many_clocks() -> None:
    clocks = [entry(f"node-{number}", 0.0, ClockState.IN_STEP) for number in range(1000)]
    text = render_report(status(*clocks), 100, 40)
    assert text.count("in step") == 40
    assert "... and 960 more that differ less; --all shows them" in text
    assert render_report(status(*clocks), 100).count("in step") == 1000


# Requests -----------------------------------------------------------------------------------


@contextmanager
def answering(data_dir: Path, answer: bytes, *, tls: bool = True) -> Iterator[int]:
    """Answer one connection with these bytes, with the certificate of the data directory."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(data_dir / "tls" / "server.crt", data_dir / "tls" / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with plain:
                if not tls:
                    plain.sendall(answer)
                    return
                try:
                    with context.wrap_socket(plain, server_side=True) as secure:
                        secure.recv(65536)
                        secure.sendall(answer)
                except OSError:
                    return  # the client refused the certificate

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def http(body: bytes, code: int = 200) -> bytes:
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%b" % (code, len(body), body)


def now_valid(data_dir: Path) -> None:
    """Make certificates that are good today: those of the fixture are for the tests' own time."""
    from time import time

    from webhook.setup.init import InitOptions, initialise

    for path in (data_dir / "tls").iterdir():
        path.unlink()
    initialise(data_dir, InitOptions(algorithm="ES256"), time())


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (http(b'{"message": "user \\u001b may not"}', 403), ["answered 403: user \\u001b may not"]),
        (http(b"\xff", 500), ["answered 500: it gave no reason"]),
        (http(b"[]", 404), ["answered 404: it gave no reason"]),
        (http(b"{}"), ["is not a Leeway server of this version"]),
        (http(b"<html>"), ["is not a Leeway server of this version"]),
        (b"nonsense\r\n", [" failed: "]),
        (b"", [" failed: "]),
    ],
)
def test_wrong_answers(leeway: Leeway, data_dir: Path, answer: bytes, parts: list[str]) -> None:
    now_valid(data_dir)
    with answering(data_dir, answer) as port:
        ran = leeway("skew", "--data-dir", data_dir, "--server", f"127.0.0.1:{port}")
    ran.assert_failed(3, f"127.0.0.1:{port}", *parts)


def test_not_tls(leeway: Leeway, data_dir: Path) -> None:
    with answering(data_dir, b"SSH-2.0-x\r\n", tls=False) as port:
        ran = leeway("skew", "--data-dir", data_dir, "--server", f"127.0.0.1:{port}")
    ran.assert_failed(3, " failed: ", "leeway serve")


def test_another_ca(leeway: Leeway, data_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    leeway("init", "--data-dir", other, "--algorithm", "ES256")
    with answering(other, http(b"{}")) as port:
        ran = leeway("skew", "--data-dir", data_dir, "--server", f"127.0.0.1:{port}")
    ran.assert_failed(3, " failed: ", "its certificate is not accepted")


def test_connection_refused(leeway: Leeway, data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ran = leeway("skew", "--data-dir", data_dir, "--server", f"127.0.0.1:{port}")
    ran.assert_failed(3, f"127.0.0.1:{port}", "Connection refused", "--server")


@pytest.mark.parametrize(
    ("bind", "shown"),
    [
        ("0.0.0.0:{port}", "127.0.0.1:{port}"),
        ("127.0.0.1:{port}", "127.0.0.1:{port}"),
        ("[::]:{port}", "[::1]:{port}"),
    ],
)
def test_the_address_is_the_one_of_the_configuration(
    leeway: Leeway, data_dir: Path, bind: str, shown: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    file = data_dir / "leeway.yaml"
    file.write_text(file.read_text().replace("127.0.0.1:8443", bind.format(port=port)))
    leeway("skew", "--data-dir", data_dir).assert_failed(3, shown.format(port=port))


NO_SERVER = ["x", "x:", "x:0", "x:65536", "x:1_0", "https://x:x", "http://x:1", "https://x/a"]


@pytest.mark.parametrize("server", NO_SERVER)
def test_no_server(leeway: Leeway, data_dir: Path, server: str) -> None:
    ran = leeway("skew", "--data-dir", data_dir, "--server", server)
    ran.assert_failed(2, "is not a server; write HOST:PORT, like 127.0.0.1:8443")


def test_no_data_directory(leeway: Leeway, tmp_path: Path) -> None:
    ran = leeway("skew", "--data-dir", tmp_path / "none", "--server", "127.0.0.1:1")
    ran.assert_failed(3, "ca.crt")


@pytest.mark.parametrize(
    ("kind", "code"),
    [(VerdictKind.IN_STEP, 0), (VerdictKind.SERVER, 1), (VerdictKind.UNKNOWN, 0)],
)
@pytest.mark.parametrize("output", ["text", "json", "yaml"])
def test_the_servers_error_is_shown(
    leeway: Leeway, data_dir: Path, kind: VerdictKind, code: int, output: str
) -> None:
    now_valid(data_dir)
    report = SkewReport(status=status(*CLOCKS, kind=kind))
    with answering(data_dir, http(msgspec.json.encode(report))) as port:
        ran = leeway("skew", "--data-dir", data_dir, "--server", f"127.0.0.1:{port}", "-o", output)
    assert (ran.code, ran.err) == (code, "")
    if output == "text":
        assert "node node-3" in ran.out
        assert "\x1b" not in ran.out
    else:
        decode = msgspec.json.decode if output == "json" else msgspec.yaml.decode
        assert decode(ran.out, type=SkewReport) == report
