"""Commands on a store in etcd: what they show, and the code and the sentence of each failure."""

import json
import secrets
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from time import time

import pytest

from tests.fake_etcd import FakeClient, FakeEtcd, lost_after, lost_before
from tests.unit.webhook.cli.cli_support import Leeway
from webhook.backends.etcd import EtcdBackend
from webhook.backends.etcd_layout import Layout
from webhook.config.store import SQLiteSection

LAYOUT = Layout("/leeway")


class Etcd:
    """A fake etcd, of which each command gets a client; ``prepare`` changes that first."""

    def __init__(self) -> None:
        self.data = FakeEtcd()
        self.prepare: Callable[[FakeClient], None] = lambda _client: None

    def client(self, *_: object) -> FakeClient:
        client = self.data.client()
        self.prepare(client)
        return client


@pytest.fixture
def etcd(data_dir: Path, leeway: Leeway, monkeypatch: pytest.MonkeyPatch) -> Etcd:
    """Return the etcd of the data directory, which is filled by ``leeway init``."""
    found = Etcd()
    monkeypatch.setattr("webhook.assembly.etcd_client_of", found.client)
    (data_dir / SQLiteSection().path).unlink()
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write("store: {etcd: {endpoints: ['http://localhost:1']}}\n")
    out = leeway("init", "--data-dir", data_dir).assert_done()
    assert "filled the store /leeway/ in etcd at http://one" in out
    return found


def test_a_second_init_leaves_it_alone(etcd: Etcd, leeway: Leeway, data_dir: Path) -> None:
    before = etcd.data.keys()
    leeway("init", "--data-dir", data_dir).assert_done()
    assert etcd.data.keys() == before


def test_what_was_in_sqlite_is_not_in_it(
    leeway: Leeway, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that were revoked there would be valid, and nobody would be told."""
    leeway("revoke", "serviceaccount", "default/build", "--data-dir", data_dir).assert_done()
    monkeypatch.setattr("webhook.assembly.etcd_client_of", Etcd().client)
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write("store: {etcd: {endpoints: ['http://localhost:1']}}\n")
    done = leeway("init", "--data-dir", data_dir)
    assert done.code == 0
    assert "no revocation either; `leeway store export`" in done.err
    assert not leeway("init", "--data-dir", data_dir).err


def test_a_change_and_a_question(etcd: Etcd, leeway: Leeway, data_dir: Path) -> None:
    out = leeway("user", "add", "ann", "--no-password", "--data-dir", data_dir).assert_done()
    assert out == "User ann created\n"
    assert leeway("user", "list", "--data-dir", data_dir).assert_done().split() == [
        "ann",
        "kube-apiserver",
        "root",
    ]
    leeway("user", "add", "ann", "--no-password", "--data-dir", data_dir).assert_failed(
        2, "user name already exists"
    )


def test_status(etcd: Etcd, leeway: Leeway, data_dir: Path) -> None:
    out = leeway("store", "status", "--data-dir", data_dir).assert_done()
    assert out.startswith("Kind: etcd\nPrefix: /leeway\nStore: ")
    assert "\nUsers: 2\n" in out
    head, *rows = out.partition("\n\n")[2].splitlines()
    assert head.split() == ["ENDPOINT", "VERSION", "HEALTH", "ROLE", "DATABASE", "TIME"]
    assert [row.split()[:3] for row in rows] == [
        [f"http://{name}", "3.6.13", "ok"] for name in ("one", "two", "three")
    ]
    found = json.loads(leeway("store", "status", "-o", "json", "--data-dir", data_dir).out)
    assert found["kind"] == "etcd"
    assert found["revision"] == etcd.data.revision
    assert found["authEnabled"] is True
    assert len(found["storeID"]) == 32
    assert found["endpoints"][0]["version"] == "3.6.13"
    assert found["alarms"] == []


@pytest.mark.parametrize("output", ["text", "json"])
def test_status_of_what_cannot_be_reached(
    etcd: Etcd, leeway: Leeway, data_dir: Path, output: str
) -> None:
    etcd.prepare = lambda client: setattr(client, "is_away", True)
    done = leeway("store", "status", "-o", output, "--data-dir", data_dir)
    assert done.code == 3
    assert "http://one" in done.err
    assert "Traceback" not in done.err
    assert (
        ("no answer" in done.out)
        if output == "text"
        else not json.loads(done.out)["endpoints"][0]["healthy"]
    )


def test_what_cannot_be_reached(etcd: Etcd, leeway: Leeway, data_dir: Path) -> None:
    etcd.prepare = lambda client: setattr(client, "is_away", True)
    message = leeway("role", "add", "r", "--data-dir", data_dir).assert_failed(3, "/leeway/")
    for name in ("one", "two", "three"):
        assert f"http://{name}" in message


@pytest.mark.parametrize("is_made", [True, False])
def test_an_outcome_that_is_not_known(
    etcd: Etcd, leeway: Leeway, data_dir: Path, is_made: bool
) -> None:
    first = lost_after if is_made else lost_before
    etcd.prepare = lambda client: setattr(client, "faults", deque([first, *[lost_before] * 10_000]))
    message = leeway("role", "add", "r", "--data-dir", data_dir).assert_failed(3, "not known")
    assert "look" in message
    etcd.prepare = lambda _client: None
    assert ("r" in leeway("role", "list", "--data-dir", data_dir).out.split()) is is_made


def test_a_lost_answer_is_found_out(etcd: Etcd, leeway: Leeway, data_dir: Path) -> None:
    etcd.prepare = lambda client: setattr(client, "faults", deque([lost_after]))
    assert leeway("role", "add", "r", "--data-dir", data_dir).assert_done() == "Role r created\n"


def change_with_a_clock_ahead(etcd: Etcd, seconds: float) -> None:
    other = EtcdBackend(
        etcd.data.client(), "/leeway", follow=False, writer="b:1", wall=lambda: time() + seconds
    )
    other.commit(other.load()[0], [])


def test_a_revocation_by_a_clock_that_is_behind(etcd: Etcd, leeway: Leeway, data_dir: Path) -> None:
    change_with_a_clock_ahead(etcd, 3600)
    done = leeway("revoke", "serviceaccount", "default/build", "--data-dir", data_dir)
    assert "this clock is 3600s behind" in done.err or "this clock is 3599s behind" in done.err
    found = json.loads(leeway("revoke", "list", "-o", "json", "--data-dir", data_dir).out)
    before = datetime.fromisoformat(found[0]["before"]).timestamp()
    assert before >= time() + 3590


def test_no_revocation_by_clocks_that_are_days_apart(
    etcd: Etcd, leeway: Leeway, data_dir: Path
) -> None:
    change_with_a_clock_ahead(etcd, 3 * 24 * 3600)
    leeway("revoke", "serviceaccount", "default/build", "--data-dir", data_dir).assert_failed(
        3, "nothing was revoked", "correct the clock"
    )
    # The time is of no importance to the tokens of a user.
    leeway("revoke", "user", "root", "--data-dir", data_dir).assert_done()


def test_no_store(etcd: Etcd, leeway: Leeway, data_dir: Path) -> None:
    etcd.data.delete(LAYOUT.all, b"/leeway0")
    for words in (("user", "list"), ("role", "add", "r"), ("store", "export")):
        leeway(*words, "--data-dir", data_dir).assert_failed(3, "no store under", "leeway init")
    done = leeway("store", "status", "--data-dir", data_dir)
    assert (done.code, "Kind: etcd" in done.out) == (3, True)


def test_repair(etcd: Etcd, leeway: Leeway, data_dir: Path) -> None:
    intact = leeway("store", "repair", "--data-dir", data_dir).assert_done()
    assert "is intact" in intact
    etcd.data.delete(LAYOUT.key_of("user", b"kube-apiserver"))
    leeway("user", "list", "--data-dir", data_dir).assert_failed(3, "leeway store repair")
    asked = leeway("store", "repair", "--data-dir", data_dir, stdin="n\n")
    assert asked.code == 1
    assert "Accept the" in asked.out
    assert "Nothing was changed" in asked.out
    done = leeway("store", "repair", "--yes", "--data-dir", data_dir).assert_done()
    assert f"the store is at revision {etcd.data.revision}" in done
    assert leeway("user", "list", "--data-dir", data_dir).assert_done() == "root\n"


def test_only_etcd_is_repaired(leeway: Leeway, data_dir: Path) -> None:
    leeway("store", "repair", "--data-dir", data_dir).assert_failed(2, "from a backup")


def test_files_for_etcd(leeway: Leeway, data_dir: Path) -> None:
    (data_dir / "ca.crt").write_text("no certificate")
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write("store: {etcd: {endpoints: ['https://localhost:1'], caFile: ca.crt}}\n")
    leeway("serve", "--data-dir", data_dir).assert_failed(3, "ca.crt")
    word = secrets.token_hex(8)
    (data_dir / "password").write_text(word)
    (data_dir / "leeway.yaml").write_text(
        "store: {etcd: {endpoints: ['http://localhost:1'], username: u, passwordFile: password}}\n"
    )
    (data_dir / "password").chmod(0o644)
    message = leeway("serve", "--data-dir", data_dir).assert_failed(3, "password", "chmod 600")
    assert word not in message
