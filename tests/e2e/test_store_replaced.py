"""A server of two workers while its store's file is replaced, removed or damaged."""

import http.client
import json
import os
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import jti_of, wait_until
from webhook.backends.sqlite_schema import store_checksum

from .auth import as_root, call, connections_to_every_worker
from .harness import (
    LEEWAY,
    REVIEWS,
    Answer,
    RunningServer,
    records_of,
    request_on,
    review_of,
    start_server,
)

ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
JSON = {"Content-Type": "application/json"}
ACCESS_REVIEW = json.dumps(
    {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": "jane", "nonResourceAttributes": {"path": "/x", "verb": "get"}},
    }
).encode()
TROUBLE = r"requests that need the store|the store was replaced|auth\.db|database|disk image"


@dataclass(frozen=True)
class Site:
    """A server, its store, the revoked token, and a copy of the store of before that."""

    server: RunningServer
    database: Path
    backup: Path
    current: Path
    revoked: str

    @property
    def journal(self) -> Path:
        return self.database.with_name("auth.db-journal")

    def put_back(self) -> None:
        """Put the store back as it was, as another file."""
        if self.database.is_dir():
            self.database.rmdir()
        else:
            self.database.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)
        spare = self.database.with_name("spare.db")
        shutil.copyfile(self.current, spare)
        spare.rename(self.database)


def leeway(server: RunningServer, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [LEEWAY, *arguments, "--data-dir", str(server.data_dir)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("replaced")
    server = start_server(folder)
    try:
        server.both_workers()
        database = server.data_dir / "auth.db"
        backup, current = folder / "backup.db", folder / "current.db"
        shutil.copyfile(database, backup)
        token = server.sign()
        as_root(server, ("user/add", {"name": "later", "options": {"no_password": True}}))
        assert leeway(server, "revoke", "jti", jti_of(token)).returncode == 0
        shutil.copyfile(database, current)
        yield Site(server, database, backup, current, token)
    finally:
        server.stop(expected_trouble=TROUBLE)


@pytest.fixture
def connections(site: Site) -> Iterator[Sequence[http.client.HTTPSConnection]]:
    site.put_back()
    with connections_to_every_worker(site.server, "kube-apiserver") as opened:
        assert verdicts(site, opened) == {"Revoked"}
        yield opened
        site.put_back()
        assert verdicts(site, opened) == {"Revoked"}
    assert site.server.request("GET", "/readyz").status == 200


def review(site: Site, connection: http.client.HTTPSConnection) -> Answer:
    body = json.dumps(review_of(site.revoked)).encode()
    return request_on(connection, "POST", REVIEWS, body, JSON)


def verdicts(site: Site, connections: Sequence[http.client.HTTPSConnection]) -> set[str]:
    """Review the revoked token once on each connection; together they reach both workers."""
    found = set()
    for connection in connections:
        answer = review(site, connection)
        assert answer.status == 201, answer
        annotations = answer.json["metadata"].get("annotations", {})
        found.add(annotations.get("leeway.dev/reason", "accepted"))
    return found


def _moved_over(content: bytes) -> Callable[[Site], None]:
    def replace(site: Site) -> None:
        other = site.database.with_name("other.db")
        other.write_bytes(content)
        other.rename(site.database)

    return replace


def _never_initialised(site: Site) -> None:
    other = site.database.with_name("other.db")
    shutil.copyfile(site.backup, other)
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("DELETE FROM records")
        checksum = store_checksum(0, 0)
        connection.execute(
            "UPDATE store SET revision = 0, compacted = 0, checksum = ?", (checksum,)
        )
    other.rename(site.database)


def _folder(site: Site) -> None:
    site.database.unlink()
    site.database.mkdir()


def _fifo(site: Site) -> None:
    site.database.unlink()
    os.mkfifo(site.database)


def _dangling_link(site: Site) -> None:
    site.database.unlink()
    site.database.symlink_to("nowhere.db")


def _truncate(part: float) -> Callable[[Site], None]:
    return lambda site: os.truncate(site.database, int(site.database.stat().st_size * part))


def _backup_beside_the_old_journal(site: Site) -> None:
    journal = _journal_of_a_killed_writer(site.database)
    shutil.copyfile(site.backup, site.database.with_name("other.db"))
    site.database.with_name("other.db").rename(site.database)
    site.journal.write_bytes(journal)


def _journal_of_a_killed_writer(database: Path) -> bytes:
    copy = database.with_name("copy.db")
    shutil.copyfile(database, copy)
    script = f"""
import os, sqlite3
connection = sqlite3.connect({str(copy)!r}, isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE records SET value = zeroblob(3000)")
connection.execute("CREATE TABLE filler AS SELECT * FROM records")
connection.execute("UPDATE filler SET value = zeroblob(9000)")
os._exit(0)
"""
    subprocess.run([shutil.which("python3") or "python3", "-c", script], check=True)
    journal = database.with_name("copy.db-journal")
    data = journal.read_bytes()
    assert data.startswith(bytes.fromhex("d9d505f920a163d7"))
    journal.unlink()
    copy.unlink()
    return data


BROKEN: dict[str, tuple[Callable[[Site], object], str]] = {
    "removed": (lambda site: site.database.unlink(), "auth.db is missing; restore it"),
    "moved away": (lambda site: site.database.rename(site.backup.with_name("away.db")), "missing"),
    "emptied": (_truncate(0), "auth.db is damaged: it is empty"),
    "cut to half": (_truncate(0.5), "auth.db is damaged: "),
    "a text over it": (_moved_over(b"not a database\n" * 999), "auth.db is damaged: "),
    "an empty file over it": (_moved_over(b""), "is damaged: it is empty"),
    "another database over it": (
        _moved_over(b"SQLite format 3\0" + bytes(4080)),
        "damaged|not a d",
    ),
    "a store never initialised": (_never_initialised, "nothing was ever written"),
    "a folder": (_folder, "auth.db is not a plain file"),
    "a FIFO": (_fifo, "auth.db is not a plain file"),
    "a link to nothing": (_dangling_link, "auth.db is missing"),
    "a backup beside the journal of before": (
        _backup_beside_the_old_journal,
        "auth.db-journal is still that of the file before; remove the journal",
    ),
}


@pytest.mark.bad_input(60)
@pytest.mark.fault(17, 18)
@pytest.mark.parametrize("case", BROKEN)
def test_an_unreadable_store_answers_nothing(
    site: Site, connections: Sequence[http.client.HTTPSConnection], case: str
) -> None:
    spoil, reason = BROKEN[case]
    spoil(site)
    for connection in connections:
        answer = review(site, connection)
        assert (answer.status, answer.headers.get("retry-after")) == (503, "1"), answer
        assert answer.json["kind"] == "Status"
        answer = request_on(connection, "POST", ACCESS_REVIEWS, ACCESS_REVIEW, JSON)
        assert (answer.status, answer.headers.get("retry-after")) == (503, "1"), answer
        # A store is loaded beside the event loop, and for a second that is no problem.
        wait_until(lambda at=connection: request_on(at, "GET", "/readyz").status == 503)  # type: ignore[misc]
        answer = request_on(connection, "GET", "/readyz")
        failed = [line for line in answer.body.decode().splitlines() if line.startswith("[-]")]
        assert len(failed) == 1
        assert failed[0].startswith("[-]store failed: ")
        assert re.search(reason, failed[0]), failed
        assert request_on(connection, "GET", "/livez").status == 200
        assert request_on(connection, "GET", "/openid/v1/jwks").status == 200
    answer = call(site.server, "user/add", {"name": "void"}, "root")
    assert (answer.status, answer.json["code"]) == (503, 14)
    assert answer.headers["retry-after"] == "1"
    answer = call(site.server, "authenticate", {"name": "later", "password": "x"})
    assert (answer.status, answer.json["code"]) == (503, 14)
    done = leeway(site.server, "revoke", "jti", "another")
    assert (done.returncode, done.stdout) == (3, ""), done


def _move(site: Site) -> None:
    _moved_over(site.backup.read_bytes())(site)


def _copy_in_place(site: Site) -> None:
    inode = site.database.stat().st_ino
    shutil.copyfile(site.backup, site.database)
    assert site.database.stat().st_ino == inode


def _copy_with_times(site: Site) -> None:
    shutil.copystat(site.database, site.backup)
    shutil.copy2(site.backup, site.database)


def _link(site: Site) -> None:
    site.database.unlink()
    site.database.symlink_to(site.backup)


def _remove_and_copy(site: Site) -> None:
    site.database.unlink()
    shutil.copyfile(site.backup, site.database)


TAKEN_OVER = {
    "moved over it": _move,
    "copied over it in place": _copy_in_place,
    "copied with its times": _copy_with_times,
    "a link to it": _link,
    "removed and made again": _remove_and_copy,
}


@pytest.mark.bad_input(60)
@pytest.mark.fault(17)
@pytest.mark.parametrize("way", TAKEN_OVER)
def test_a_restored_backup_is_used_with_the_next_request(
    site: Site, connections: Sequence[http.client.HTTPSConnection], way: str
) -> None:
    kept = site.backup.read_bytes()
    said = len(site.server.log())
    TAKEN_OVER[way](site)
    # The revocation is not in it, and the log says so.
    assert verdicts(site, connections) == {"accepted"}
    lines = records_of(site.server.log()[said:])
    warned = [line for line in lines if "the store was replaced" in line["message"]]
    assert len({line["pid"] for line in warned}) == 2
    for line in warned:
        assert f"revoked jti {jti_of(site.revoked)}" in line["message"]
        assert "user later" in line["message"]
    audited = [line for line in lines if line.get("action") == "store.replace"]
    assert len({line["pid"] for line in audited}) == 2
    # Commands and both workers use the same file.
    assert leeway(site.server, "revoke", "jti", jti_of(site.revoked)).returncode == 0
    assert verdicts(site, connections) == {"Revoked"}
    as_root(site.server, ("user/add", {"name": "new", "options": {"no_password": True}}))
    assert "new" in leeway(site.server, "user", "list").stdout.split()
    if site.database.is_symlink():
        site.database.unlink()
    site.backup.write_bytes(kept)


@pytest.mark.bad_input(60)
@pytest.mark.fault(17)
def test_a_restored_store_is_used_without_a_restart(
    site: Site, connections: Sequence[http.client.HTTPSConnection]
) -> None:
    away = site.database.with_name("away.db")
    said = len(site.server.log())
    site.database.rename(away)
    assert {review(site, connection).status for connection in connections} == {503}
    away.rename(site.database)
    assert verdicts(site, connections) == {"Revoked"}
    messages = [line["message"] for line in records_of(site.server.log()[said:])]
    assert not [message for message in messages if "was replaced" in message]


@pytest.mark.fault(18)
def test_an_unreadable_store_is_logged_without_any_request(
    site: Site, connections: Sequence[http.client.HTTPSConnection]
) -> None:
    del connections
    time.sleep(1.1)  # At most one line a second, and one may just have been written.
    said = len(site.server.log())
    site.database.unlink()

    def lines() -> list[str]:
        text = site.server.log()[said:]
        return [line for line in text.splitlines() if "requests that need the store" in line]

    wait_until(lambda: len(lines()) >= 2)
    time.sleep(0.5)
    assert len(lines()) == 2  # one a worker
