"""The secrets that the suite makes, the output that it sees, and the search at its end.

Tests tell ``token_made``, ``password_made`` and ``key_made`` of secrets, ``shown`` of answers and
output. Under xdist each worker keeps its own and hands it over when it is done. The last result of
a run, `bad_input(56)`, comes from here.
"""

import json
import re
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from tests.secret_search import (
    PASSWORD,
    Secret,
    files_below,
    holds_secrets_by_design,
    key_secrets,
    search,
    secrets_in,
    token_secret,
)

NAME = "tests/secrets_made.py::test_no_secret_is_in_what_the_suite_left"
# Answers that hold a requested token.
_GIVES_TOKEN = re.compile(
    r"/v3/auth/authenticate|/api/v1/namespaces/[^/]+/serviceaccounts/[^/]+/token"
)
_EACH_ITS_OWN = {"date", "x-request-id"}
_MARK = b"(the token that was asked for)"

_lock = Lock()
_folders: set[Path] = set()
_made: set[Secret] = set()
_shown: dict[bytes, tuple[str, bytes]] = {}


def token_made(token: str) -> None:
    _made.add(token_secret(token))


def password_made(password: str) -> None:
    # One repeated letter is found everywhere, and is not a secret.
    if len(set(password)) > 1:
        _made.add(Secret(PASSWORD, password.encode()))


def key_made(pem: bytes) -> None:
    _made.update(key_secrets(pem))


def folder_made(folder: Path) -> None:
    """Record the keys and tokens in a data directory before they may be deleted."""
    for path in files_below(folder):
        data = path.read_bytes()
        if holds_secrets_by_design(data):
            _made.update(secrets_in(data))


def shown(place: str, data: bytes | str) -> None:
    """Keep the output of a server or a command, to be searched at the end."""
    data = data.encode() if isinstance(data, str) else data
    with _lock:
        _shown.setdefault(sha256(data).digest(), (place, data))


def answered(method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
    """Keep an answer, without a token that was requested."""
    # These differ in each answer, so that every answer would be kept.
    kept = {name: value for name, value in headers.items() if name not in _EACH_ITS_OWN}
    shown(f"the headers of an answer to {method} {path}", str(kept))
    if _GIVES_TOKEN.fullmatch(path.partition("?")[0]) and (token := _token_in(body)):
        token_made(token)
        body = body.replace(token.encode(), _MARK, 1)
    shown(f"an answer to {method} {path}", body)


def printed(arguments: tuple[object, ...], out: str, err: str) -> None:
    """Keep the output of a command, without the token that ``token create`` prints."""
    words = [str(word) for word in arguments]
    if "token" in words and "create" in words and re.fullmatch(r"[\w.-]+\n?", out):
        token_made(out.strip())
        out = ""
    command = " ".join(words[:2])
    shown(f"what `{command}` printed", out)
    shown(f"what `{command}` printed as an error", err)


def _token_in(body: bytes) -> str:
    try:
        answer = json.loads(body)
        token = answer.get("token") or answer["status"]["token"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
    return token if isinstance(token, str) else ""


class SecretSearch:
    """The plugin: collects in every process of a run, and searches in the main one."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")
        self._said = ""

    @pytest.fixture(scope="session", autouse=True)
    @classmethod
    def _remember_the_folder(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        _folders.add(tmp_path_factory.getbasetemp())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what was printed and logged in the process of a test."""
        if not self._is_worker:
            for name, text in report.sections:
                shown(f"{report.nodeid}: {name}", text)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Collect what a worker has recorded."""
        output = getattr(node, "workeroutput", None) or {}
        _made.update(Secret(*pair) for pair in output.get("made", ()))
        for place, data in output.get("shown", ()):
            shown(place, data)
        _folders.update(map(Path, output.get("folders", ())))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._is_worker:
            output: dict[str, Any] = self._config.workeroutput  # type: ignore[attr-defined]
            output["made"] = [tuple(secret) for secret in _made]
            output["shown"] = list(_shown.values())
            output["folders"] = [str(folder) for folder in _folders]
        elif _folders:
            self._search(session)

    def _search(self, session: pytest.Session) -> None:
        started = time.time()
        parts: dict[str, list[bytes]] = {}
        for place, data in _shown.values():
            parts.setdefault(place, []).append(data)
        places = {place: b"\n".join(found) for place, found in parts.items()}
        count, findings = 0, list[object]()
        try:
            cores = self._config.rootpath.glob("core*")
            count, found = search(_folders, _made, places, cores)
            findings += found
        except Exception as error:
            # The results of the tests must not be lost with it.
            findings.append(f"the search came to no end: {error!r}")
        seconds = time.time() - started
        self._said = f"{len(_made):,} secrets and those in files, looked for in {count:,} bytes"
        report = pytest.TestReport(
            nodeid=NAME,
            location=(NAME.partition("::")[0], None, NAME.rpartition("::")[2]),
            keywords={},
            outcome="failed" if findings else "passed",
            longrepr="\n".join(map(str, findings)) if findings else None,
            when="call",
            duration=seconds,
            start=started,
            stop=started + seconds,
        )
        self._config.hook.pytest_runtest_logreport(report=report)
        if findings:
            session.testsfailed += 1
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._said:
            terminalreporter.write_line(f"bad_input(56): {self._said}")
