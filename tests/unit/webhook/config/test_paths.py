"""The private files that a configuration names."""

from pathlib import Path

import pytest

from keys.errors import KeyFileError
from tests.unit.webhook.config.test_model import parse
from webhook.config.paths import check_private_files, credential_files, sqlite_file

ETCD = """\
store:
  etcd:
    endpoints: ["https://a:1"]
    caFile: ca.crt
    certFile: client.crt
    keyFile: client.key
    username: leeway
    passwordFile: password
keys: {encryptionKeyFiles: [new.b64, /old.b64]}
"""


def test_private_files_of_the_store(tmp_path: Path) -> None:
    found = credential_files(tmp_path, parse(ETCD))
    names = ["client.key", "password", "new.b64"]
    assert found == [*(tmp_path / name for name in names), Path("/old.b64")]
    without = parse("store: {etcd: {endpoints: ['http://localhost:1']}}")
    assert credential_files(tmp_path, without) == credential_files(tmp_path, parse("{}")) == []


@pytest.mark.bad_input(39)
@pytest.mark.parametrize("name", ["client.key", "password", "new.b64"])
def test_private_files_of_the_store_that_others_can_read(tmp_path: Path, name: str) -> None:
    for file in ("ca.crt", "client.crt", "client.key", "password", "new.b64"):
        (tmp_path / file).write_text("x")
        (tmp_path / file).chmod(0o600 if file != "ca.crt" else 0o644)
    check_private_files(tmp_path, parse(ETCD))
    (tmp_path / name).chmod(0o640)
    with pytest.raises(KeyFileError, match=f"{name} can be read by group or others"):
        check_private_files(tmp_path, parse(ETCD))


def test_file_of_the_store(tmp_path: Path) -> None:
    assert sqlite_file(tmp_path, parse("{}")) == tmp_path / "auth.db"
    assert sqlite_file(tmp_path, parse("store: {sqlite: {path: /a.db}}")) == Path("/a.db")
    assert sqlite_file(tmp_path, parse(ETCD)) is None
