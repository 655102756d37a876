"""What the signer does when its configuration, its keys or its socket change."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from keys.folder import SCHEDULE_FILE, load_keyring
from tests.external_jwt.api_server import ApiServer
from tests.external_jwt.claims import account_claims, as_go
from tests.other_user import NOBODY, folder_in_reach, run_as_nobody
from tests.secrets_made import token_made
from tests.support import wait_until

from .harness import LEEWAY, free_port
from .signer_process import (
    RunningSigner,
    leeway,
    make_data_dir,
    signer,
    spawn_signer,
    start_signer,
)

BAD = "not loaded again|before stay in use|not read again|active key cannot be used"


def run(data_dir: Path, *arguments: str) -> tuple[int, str]:
    """Run a signer that cannot start; return its exit code and its output."""
    log = data_dir.parent / "log"
    process = spawn_signer(data_dir, data_dir.parent / "run" / "signer.sock", log, *arguments)
    return process.wait(60), log.read_text()


def get(port: int, path: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=15)) as client:
        client.request("GET", path)
        response = client.getresponse()
        return response.status, response.read().decode()


def sign(running: RunningSigner) -> str:
    """Sign a token as kube-apiserver does, and return its kid."""
    with running.client() as client:
        api_server = ApiServer(client)
        api_server.start()
        token_made(api_server.create_token(as_go(account_claims(time.time()))))
    kid: str = running.signed()[-1]["kid"]
    return kid


def test_an_eddsa_key_is_refused_at_the_start(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path, algorithm="EdDSA")
    code, output = run(data_dir)
    assert code == 2
    assert "is for EdDSA, which kube-apiserver does not accept; set keys.algorithm" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--refresh-hint", "0s"], 2, "refreshHint is 0s; 1s to 1h is allowed"),
        (["--refresh-hint", "61s"], 2, "1m1s is longer than signer.refreshHint, 1m, by which"),
        (["--metrics-bind", "nowhere"], 2, "'nowhere' is not HOST:PORT"),
        (["--socket", "@leeway"], 2, "no abstract socket"),
    ],
)
def test_options_that_are_not_allowed(
    tmp_path: Path, arguments: list[str], code: int, why: str
) -> None:
    found, output = run(make_data_dir(tmp_path), *arguments)
    assert (found, output.count("\n")) == (code, 1)
    assert why in output


def test_an_address_for_metrics_that_is_in_use(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path)
    bind = f"127.0.0.1:{free_port()}"
    with signer(data_dir, ["--metrics-bind", bind]):
        code, output = run(data_dir, "--metrics-bind", bind)
    assert code == 3
    assert f"cannot listen on {bind}: Address already in use" in output


def test_an_unknown_group(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path)
    file = data_dir / "leeway.yaml"
    file.write_text(file.read_text().replace("signer: {}", "signer: {group: nobodys}"))
    code, output = run(data_dir)
    assert code == 2
    assert "signer.group is 'nobodys', which is not a group of this system" in output


def test_a_group_that_the_user_is_not_in() -> None:
    folder = folder_in_reach()
    try:
        data_dir = make_data_dir(folder)
        file = data_dir / "leeway.yaml"
        file.write_text(file.read_text().replace("signer: {}", "signer: {group: '12345'}"))
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        socket = folder / "run" / "signer.sock"
        done = run_as_nobody("signer", "--data-dir", data_dir, "--socket", socket)
        assert (done.returncode, done.stderr) == (
            3,
            f"leeway: {socket} cannot be given to group 12345; let the user that this runs as be a "
            "member of it, or set signer.group\n",
        )
        # The next start would take a folder as it is.
        assert not socket.parent.exists()
    finally:
        shutil.rmtree(folder)


def test_without_a_section_there_is_a_warning(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path)
    file = data_dir / "leeway.yaml"
    file.write_text(file.read_text().replace("signer: {}\n", ""))
    log = tmp_path / "log"
    process = spawn_signer(data_dir, tmp_path / "run" / "signer.sock", log)
    wait_until(lambda: '"serving"' in log.read_text())
    process.terminate()
    assert process.wait(30) == 0
    assert "leeway.yaml has no section signer" in log.read_text()


def test_metrics_and_health(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path)
    port = free_port()
    trouble = "no new connection"
    with signer(data_dir, ["--metrics-bind", f"127.0.0.1:{port}"], trouble) as running:
        sign(running)
        status, text = get(port, "/metrics")
        assert status == 200
        assert 'leeway_signer_requests_total{method="Sign",result="ok"} 1.0\n' in text
        assert 'leeway_signer_requests_total{method="FetchKeys",result="ok"} 1.0\n' in text
        assert 'leeway_reload_failing{what="socket"} 0.0\n' in text
        assert get(port, "/livez") == (200, "ok")
        running.socket.unlink()
        status, text = get(port, "/livez")
        assert status == 503
        assert "No such file or directory; restart the signer" in text
        wait_until(lambda: 'what="socket"} 1.0\n' in get(port, "/metrics")[1])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningSigner]:
    """Run a signer with an RSA key."""
    with signer(make_data_dir(tmp_path), expected_trouble=BAD) as found:
        yield found


def test_new_keys_are_fetched_and_sign(running: RunningSigner) -> None:
    first = sign(running)
    with running.client() as client:
        before = client.fetch_keys()
        assert [key.kid for key in before.keys] == [first]
        leeway(running.data_dir, "keys", "rotate")
        wait_until(lambda: len(client.fetch_keys().keys) == 2)
        published = client.fetch_keys()
        assert published.timestamp != before.timestamp
        leeway(running.data_dir, "keys", "rotate", "--force")
        wait_until(lambda: sign(running) != first)
        (changed,) = [entry for entry in running.records() if entry.get("event") == "signing-key"]
        assert changed["kid"] == sign(running)
        # The set is the same.
        assert client.fetch_keys() == published
        running.kill()
        again = start_signer(running.data_dir)
        try:
            with again.client() as other:
                assert other.fetch_keys() == published
        finally:
            again.kill()
        running.process = start_signer(running.data_dir).process


def test_the_key_from_before_signs_while_it_verifies(running: RunningSigner) -> None:
    """An EdDSA key becomes active by hand, since no command does that."""
    first = sign(running)
    leeway(running.data_dir, "keys", "rotate")
    folder = running.data_dir / "keys"
    (pending,) = [key for key in load_keyring(folder).keys if key.kid != first]
    schedule = json.loads((folder / SCHEDULE_FILE).read_text())
    (running.data_dir.parent / "other").mkdir()
    other = make_data_dir(running.data_dir.parent / "other", algorithm="EdDSA") / "keys"
    (file,) = other.glob("*.pem")
    (folder / f"{pending.kid}.pem").unlink()
    (folder / file.name).touch(mode=0o600)
    (folder / file.name).write_bytes(file.read_bytes())
    for entry in schedule["keys"]:
        if entry["kid"] == first:
            entry["state"] = "verify-only"
        else:
            entry |= {"kid": file.stem, "file": file.name, "state": "active"}
    (folder / SCHEDULE_FILE).write_text(json.dumps(schedule))
    wait_until(lambda: "the keys from before stay in use, for tokens that" in running.log())
    assert sign(running) == first
    leeway(running.data_dir, "keys", "retire", first, "--force")
    wait_until(lambda: "the keys from before stay in use, but sign nothing" in running.log())
    with pytest.raises(grpc.RpcError) as caught:
        sign(running)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "no key can sign"
    assert [entry["reason"] for entry in running.refusals()] == ["NoKey"]


def test_sigterm_does_not_wait_for_reloads(running: RunningSigner) -> None:
    """With each signal read on its own this takes seconds, and the test fails with a timeout."""
    for _ in range(2000):
        running.process.send_signal(signal.SIGHUP)
        time.sleep(0.0002)
    assert running.terminate() == 0
    running.process = start_signer(running.data_dir).process


def test_a_folder_that_cannot_be_read_changes_nothing(running: RunningSigner) -> None:
    first = sign(running)
    path = running.data_dir / "keys" / SCHEDULE_FILE
    good = path.read_text()
    path.write_text("{")
    wait_until(lambda: "the signing keys were not read again" in running.log())
    assert sign(running) == first
    path.write_text(good)
    wait_until(lambda: "can be read again" in running.log())


def test_a_changed_configuration_is_noticed_without_a_signal(running: RunningSigner) -> None:
    file = running.data_dir / "leeway.yaml"
    good = file.read_text()
    with running.client() as client:
        file.write_text(good + "tokens: {maxExpiration: 2h}\n")
        wait_until(lambda: client.max_expiration() == 7200)
        file.write_text(good.replace("signer: {}", "signer: {socket: /run/other.sock}"))
        wait_until(lambda: client.max_expiration() == 86400)
        file.write_text(good.replace("signer: {}", "signer: {refreshHint: 90s}"))
        wait_until(lambda: client.fetch_keys().refresh_hint == 90)
        file.write_text(good + "issuer: [\n")
        wait_until(lambda: "the configuration from before stays in use" in running.log())
        assert client.fetch_keys().refresh_hint == 90
        # The same problem is logged again on request.
        before = running.log().count("not loaded again")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: running.log().count("not loaded again") > before)


def test_a_socket_that_is_changed_in_the_configuration_needs_a_restart(tmp_path: Path) -> None:
    data_dir = make_data_dir(tmp_path)
    file = data_dir / "leeway.yaml"
    good = file.read_text()
    folder = tmp_path / "run"
    file.write_text(good.replace("signer: {}", f"signer: {{socket: {folder}/a.sock}}"))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([LEEWAY, "signer", "--data-dir", data_dir], stderr=log)
    try:
        wait_until(lambda: '"serving"' in (tmp_path / "log").read_text())
        file.write_text(good.replace("signer: {}", f"signer: {{socket: {folder}/b.sock}}"))
        wait_until(lambda: "will change with a restart" in (tmp_path / "log").read_text())
        assert (folder / "a.sock").is_socket()
        assert not (folder / "b.sock").exists()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_every_line_of_the_log_is_json(running: RunningSigner) -> None:
    sign(running)
    running.terminate()
    lines = running.log().splitlines()
    assert [json.loads(line)["message"] for line in lines][-1] == "the signer has stopped"
    assert not any(re.search(r"eyJ[\w-]+\.eyJ", line) for line in lines)
    running.process = start_signer(running.data_dir).process
