"""``minRevision`` and ``storeRevision`` of a RangeAccessReview, by HTTP, with SQLite."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from webhook.assembly import store_of
from webhook.config.load import load_configuration
from webhook.rbac import revocations
from webhook.rbac.revocations import Lifetimes

from .auth import RANGE_REVIEWS, b64
from .harness import Answer, RunningServer, start_server

KEY = b64(b"k")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("revision"))
    yield running
    running.stop("has not seen spec.minRevision|the store was replaced")


def ask(server: RunningServer, position: str = "") -> Answer:
    spec = {"user": "alice", "permission": "READ", "key": KEY}
    if position:
        spec["minRevision"] = position
    body = json.dumps({"spec": spec}).encode()
    return server.request("POST", RANGE_REVIEWS, body)


def position_of(answer: Answer) -> str:
    assert answer.status == 201, answer
    position: str = answer.json["status"]["storeRevision"]
    return position


def revoke(folder: Path) -> None:
    """Write what the auth revision does not count."""
    store = store_of(folder, load_configuration(folder, {}, {}))
    store.change(revocations.revoke_jti, "j", Lifetimes(3600), 1000.0)
    store.close()


def test_an_answer_has_a_position_that_revocations_move(server: RunningServer) -> None:
    first = position_of(ask(server))
    assert position_of(ask(server, first)) == first
    revoke(server.data_dir)
    second = position_of(ask(server))
    assert second != first
    # It is at least as fresh, not exactly as fresh.
    assert position_of(ask(server, first)) == second
    assert ask(server, second).json["spec"]["minRevision"] == second


@pytest.mark.parametrize(
    "position",
    ["x", "7", "sqlite-", "sqlite-00000000000000ff-zz", "memory-1-2", "s" * 100_000],
    ids=["letter", "number", "half", "not-hexadecimal", "another-kind", "long"],
)
def test_a_position_of_another_store_is_refused_at_once(
    server: RunningServer, position: str
) -> None:
    answer = ask(server, position)
    assert answer.status == 400
    assert answer.json["reason"] == "BadRequest"
    assert len(answer.body) < 1000


def test_a_position_of_before_a_backup_was_restored_is_refused(server: RunningServer) -> None:
    path = server.data_dir / "auth.db"
    backup = path.with_name("backup.db")
    shutil.copy(path, backup)
    revoke(server.data_dir)
    lost = position_of(ask(server))
    backup.replace(path)
    revoke(server.data_dir)
    answer = ask(server, lost)
    assert answer.status == 400
    assert "restored from a backup" in answer.json["message"]


def later(position: str, by: int) -> str:
    kind, revision, head = position.split("-")
    return f"{kind}-{int(revision, 16) + by:016x}-{head}"


def test_a_position_that_does_not_come_is_unavailable(server: RunningServer) -> None:
    answer = ask(server, later(position_of(ask(server)), 3))
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert "has not seen spec.minRevision within 1 s" in answer.json["message"]


def test_a_position_that_comes_in_half_a_second_is_waited_for(server: RunningServer) -> None:
    """The commit of another process, whose position the client has heard of from elsewhere."""
    before = position_of(ask(server))
    # Its head is not known before; where there is none, any position of the revision is reached.
    folder = server.data_dir.parent / "copy"
    shutil.copytree(server.data_dir, folder)
    revoke(folder)
    store = store_of(folder, load_configuration(folder, {}, {}))
    wanted = store.position
    store.close()
    assert wanted != before
    path = server.data_dir / "auth.db"

    def publish() -> None:
        shutil.copy(folder / "auth.db", path.with_name("new.db"))
        path.with_name("new.db").replace(path)

    timer = threading.Timer(0.5, publish)
    timer.start()
    try:
        assert position_of(ask(server, wanted)) == wanted
    finally:
        timer.join()
