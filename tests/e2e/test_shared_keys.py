"""Two servers whose signing keys are in the store: they rotate together."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from keys.pem import private_key_pem
from tests.etcd_cluster import EtcdCluster
from tests.external_jwt.api_server import ApiServer
from tests.external_jwt.claims import account_claims, as_go
from tests.secret_search import KEY, Search, Secret, files_below, key_secrets, windows_of
from tests.secrets_made import token_made
from tests.support import wait_until
from tests.unit.webhook.cli.cli_support import run_process
from webhook.config.load import load_configuration
from webhook.signing_keys import opened_key_store

from .etcd_replicas import (
    copy_directory,
    leeway,
    running,
    section_of,
    write_configuration,
)
from .harness import RunningServer, free_port
from .signer_process import signer

pytestmark = pytest.mark.bad_input(70)
KEYS = "keys: {store: etcd, encryptionKeyFiles: [store.key]}\n"
NOBODY = "its keys cannot be used|nothing is signed|signing keys"


def use_keys(data_dir: Path, text: str = KEYS) -> None:
    """Put the section ``keys`` into a leeway.yaml."""
    path = data_dir / "leeway.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("keys:")]
    path.write_text("\n".join(lines) + f"\n{text}")


@pytest.fixture
def directories(etcd: EtcdCluster, etcd_prefix: str, tmp_path: Path) -> list[Path]:
    """Make the data directories of two replicas, by ``leeway init`` with keys in the store."""
    section = section_of(etcd.endpoints, etcd_prefix)
    first = tmp_path / "a" / "data"
    first.mkdir(parents=True, mode=0o700)
    run_process("keys", "encryption-key", first / "store.key").assert_done()
    write_configuration(first, free_port(), section)
    use_keys(first)
    run_process("init", "--data-dir", first).assert_done()
    second = copy_directory(first, tmp_path / "b", section)
    use_keys(second)
    return [first, second]


@pytest.fixture
def replicas(directories: list[Path]) -> Iterator[list[RunningServer]]:
    with running(*directories, expected_trouble=NOBODY) as servers:
        for server in servers:
            # Each worker is ready by itself.
            wait_until(lambda at=server: all(has_keys(at) for _ in range(6)))  # type: ignore[misc]
        yield servers


def has_keys(server: RunningServer) -> bool:
    return server.request("GET", "/openid/v1/jwks").status == 200


def published(server: RunningServer) -> list[str]:
    answer = server.request("GET", "/openid/v1/jwks")
    assert answer.status == 200, answer
    return [key["kid"] for key in answer.json["keys"]]


def is_accepted(server: RunningServer, token: str) -> bool:
    return bool(server.post_review(token).json["status"].get("authenticated"))


def token_of(data_dir: Path) -> str:
    ran = leeway(data_dir, "token", "create", "loofah", "-n", "argo-run")
    ran.assert_done()
    return ran.out.strip()


def test_no_key_is_in_clear_anywhere(
    directories: list[Path], etcd: EtcdCluster, etcd_prefix: str, tmp_path: Path
) -> None:
    """Not in etcd, in a document of the store, in a log, or in a file but the encryption key's."""
    first, _ = directories
    assert list((first / "keys").glob("*.pem")) == []
    with running(*directories, expected_trouble=NOBODY) as servers:
        for server in servers:
            assert is_accepted(server, token_of(server.data_dir))
        leeway(first, "keys", "rotate").assert_done()
        leeway(first, "store", "export", str(tmp_path / "document.yaml")).assert_done()
        shown_by_doctor = leeway(first, "doctor")
    with opened_key_store(first, load_configuration(first, {}, {})) as keys:
        made = [key.signing_key for key in keys.present().keyring.keys if key.signing_key]
    assert len(made) == 2
    encryption_key = (first / "store.key").read_bytes().strip()
    secrets = [secret for key in made for secret in key_secrets(private_key_pem(key.private_key))]
    search = Search(windows_of([*secrets, Secret(KEY, base64.b64decode(encryption_key))]))
    assert search.kinds_in(encryption_key) == {KEY}
    values = etcd.keys(etcd_prefix)
    assert sum(b"/key/" in name for name in values) == 2
    places = [*values.values(), (shown_by_doctor.out + shown_by_doctor.err).encode()]
    files = [path for path in files_below(tmp_path) if path.name != "store.key"]
    assert {path.name for path in files} >= {"server.log", "document.yaml", "audit.log"}
    for data in [*places, *(path.read_bytes() for path in files)]:
        assert search.kinds_in(data) == set()


def test_a_token_of_one_is_accepted_by_the_other(replicas: list[RunningServer]) -> None:
    first, second = replicas
    token = token_of(first.data_dir)
    assert is_accepted(second, token)
    assert published(first) == published(second)
    path = "/api/v1/namespaces/argo-run/serviceaccounts/loofah/token"
    answer = second.post(path, {"kind": "TokenRequest"}, second.context("root"))
    assert answer.status == 201, answer
    assert is_accepted(first, answer.json["status"]["token"])


def test_both_see_each_step(replicas: list[RunningServer]) -> None:
    first, second = replicas
    (old,) = published(first)
    leeway(first.data_dir, "keys", "rotate").assert_done()
    wait_until(lambda: len(published(second)) == 2)
    ran = leeway(second.data_dir, "keys", "rotate", "--force")
    assert (ran.code, "is active" in ran.out, "older JWKS" in ran.err) == (0, True, True)
    token = token_of(second.data_dir)
    assert is_accepted(first, token)
    assert is_accepted(second, token)
    wait_until(lambda: published(first)[0] != old)
    audited = (first.data_dir / "audit.log").read_text()
    assert json.loads(audited.splitlines()[-1])["action"] == "keys.rotate"


def test_a_replica_with_another_encryption_key_says_so(directories: list[Path]) -> None:
    first, second = directories
    (second / "store.key").unlink()
    run_process("keys", "encryption-key", second / "store.key").assert_done()
    token = token_of(first)
    with running(second, readyz=503, expected_trouble=NOBODY) as (server,):

        def ready() -> str:
            return server.request("GET", "/readyz?verbose").body.decode()

        wait_until(lambda: all("needs the encryption key" in ready() for _ in range(6)))
        assert "store ok" in ready()
        # Its keys are not known here, so the token is not called bad.
        assert server.post_review(token).status == 503
        assert server.request("GET", "/openid/v1/jwks").status == 503
        assert server.request("GET", "/livez").status == 200
    ran = leeway(second, "token", "create", "loofah", "-n", "argo-run")
    assert ran.code == 2
    assert "needs the encryption key" in ran.err


def test_a_server_whose_active_key_is_refused_verifies_and_signs_nothing(
    directories: list[Path],
) -> None:
    first, second = directories
    old = json.loads(leeway(first, "keys", "list", "-o", "json").assert_done())[0]["kid"]
    token = token_of(first)
    use_keys(second, KEYS.replace("}", f", refused: [{old}]}}"))
    with running(second, readyz=503, expected_trouble=NOBODY) as (server,):
        wait_until(lambda: all(has_keys(server) for _ in range(6)))
        assert published(server) == []
        assert not is_accepted(server, token)
        path = "/api/v1/namespaces/argo-run/serviceaccounts/loofah/token"
        answer = server.post(path, {"kind": "TokenRequest"}, server.context("root"))
        assert answer.status == 503, answer
        assert f"{old} is active, and keys.refused" in answer.json["message"]
        leeway(second, "keys", "rotate").assert_done()
        assert leeway(second, "keys", "rotate", "--force").code == 0
        wait_until(lambda: all(is_accepted(server, token_of(second)) for _ in range(4)))


def test_the_keys_move_to_the_folder_and_back(directories: list[Path]) -> None:
    first, second = directories
    token = token_of(first)
    leeway(first, "keys", "move", "--to", "folder").assert_done()
    ran = leeway(second, "token", "create", "loofah", "-n", "argo-run")
    assert ran.code == 2
    assert "have moved from the store to the folder" in ran.err
    use_keys(first, "keys: {encryptionKeyFiles: [store.key]}\n")
    with running(first) as (server,):
        assert is_accepted(server, token)
    leeway(first, "keys", "move", "--to", "etcd").assert_done()
    ran = leeway(first, "token", "create", "loofah", "-n", "argo-run")
    assert ran.code == 2
    assert "have moved to the etcd store" in ran.err
    with running(second, expected_trouble=NOBODY) as (server,):
        assert is_accepted(server, token)
        assert is_accepted(server, token_of(second))


def test_a_signer_signs_with_the_keys_of_the_store(directories: list[Path]) -> None:
    first, second = directories
    with signer(first, expected_trouble=NOBODY) as found, closing(found.client()) as client:
        api_server = ApiServer(client)
        api_server.start()
        token = api_server.create_token(as_go(account_claims(time.time())))
        token_made(token)
        with running(second, expected_trouble=NOBODY) as (server,):
            assert is_accepted(server, token)
        leeway(second, "keys", "rotate").assert_done()
        pending = json.loads(leeway(second, "keys", "list", "-o", "json").assert_done())[1]["kid"]

        def is_fetched() -> bool:
            api_server.refresh()
            return pending in {key.kid for key in api_server.keys.keys}

        wait_until(is_fetched)
    with (second / "leeway.yaml").open("a") as file:
        file.write("signer: {}\n")
    (second / "store.key").unlink()
    run_process("keys", "encryption-key", second / "store.key").assert_done()
    ran = leeway(second, "signer", "--socket", str(second.parent / "s.sock"))
    assert ran.code == 2
    assert "needs the encryption key" in ran.err
