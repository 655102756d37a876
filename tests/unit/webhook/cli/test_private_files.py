"""A server does not start with private files that others can read, or folders they can write."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keys.errors import KeyFileError
from keys.files import check_credential_file, read_credential_file
from tests.unit.webhook.cli.cli_support import Leeway

KUBECONFIG = "apiVersion: v1\nkind: Config\n"


def with_token_file(data_dir: Path) -> Path:
    keys = {"jwksURL": "https://127.0.0.1:1/", "tokenFile": "token"}
    issuers = json.dumps([{"url": "https://127.0.0.1:1", "keys": keys}])
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write(f"trustedIssuers: {issuers}\n")
    path = data_dir / "token"
    path.write_text("not-a-token")
    return path


def with_kubeconfig(data_dir: Path) -> Path:
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write("objects: {source: kubernetes, kubernetes: {kubeconfig: kube.yaml}}\n")
    path = data_dir / "kube.yaml"
    path.write_text(KUBECONFIG)
    return path


FILES = [
    pytest.param(with_token_file, id="tokenFile"),
    pytest.param(with_kubeconfig, id="kubeconfig-of-objects"),
    pytest.param(lambda data_dir: data_dir / "tls" / "ca.key", id="ca.key"),
    pytest.param(lambda data_dir: data_dir / "kubeconfig" / "root.yaml", id="root.yaml"),
]


def findings(leeway: Leeway, data_dir: Path) -> dict[str, dict[str, str]]:
    report = json.loads(leeway("doctor", "--data-dir", data_dir, "-o", "json").out)
    return {check["name"]: check for check in report["checks"]}


@pytest.fixture(scope="module")
def taken() -> Iterator[str]:
    """Return an address that no ``serve`` in this process gets as far as listening on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.fault(49)
@pytest.mark.parametrize("make", FILES)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_private_file_that_others_can_read(
    leeway: Leeway, data_dir: Path, taken: str, make: Callable[[Path], Path], mode: int
) -> None:
    path = make(data_dir)
    path.chmod(mode)
    ran = leeway("serve", "--bind", taken, "--data-dir", data_dir)
    ran.assert_failed(3, f"{path} can be read by group or others (mode {mode:04o}", "chmod 600")
    found = findings(leeway, data_dir)["private files"]
    assert found["status"] == "failure"
    assert found["fix"] == f"chmod 600 {path}"


@pytest.mark.fault(49)
@pytest.mark.parametrize("name", ["", "keys", "tls", "kubeconfig"])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777, 0o2775])
def test_a_folder_that_others_can_write_in(
    leeway: Leeway, data_dir: Path, taken: str, name: str, mode: int
) -> None:
    folder = data_dir / name
    folder.chmod(mode)
    ran = leeway("serve", "--bind", taken, "--data-dir", data_dir)
    ran.assert_failed(3, f"others can write in {folder} (mode {mode:04o}", f"chmod 700 {folder}")
    found = findings(leeway, data_dir)["data directory"]
    assert found["status"] == "failure"
    assert found["fix"] == f"chmod 700 {folder}"


def volume(folder: Path, data: str, mode: int) -> Path:
    """Lay out a file as the kubelet does in a Pod's volume."""
    inner = folder / "..2026_11_30_13_00_00.123456789"
    inner.mkdir(parents=True)
    (inner / "token").write_text(data)
    (inner / "token").chmod(mode)
    (folder / "..data").symlink_to(inner.name)
    (folder / "token").symlink_to("..data/token")
    return folder / "token"


@pytest.mark.fault(49)
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o444, 0o440, 0o600])
def test_a_file_of_a_volume_can_have_the_kubelets_mode(tmp_path: Path, mode: int) -> None:
    assert read_credential_file(volume(tmp_path, "of-the-pod", mode)) == b"of-the-pod"


@pytest.mark.fault(49)
@pytest.mark.parametrize("mode", [0o666, 0o660, 0o602])
def test_a_file_of_a_volume_that_others_can_write(tmp_path: Path, mode: int) -> None:
    path = volume(tmp_path, "x", mode)
    with pytest.raises(KeyFileError, match="can be written by group or others"):
        check_credential_file(path)


@pytest.mark.fault(49)
def test_any_other_link_is_judged_by_its_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(0o644)
    for target in ("file", str(tmp_path / "file")):
        link = tmp_path / f"link-{len(target)}"
        link.symlink_to(target)
        with pytest.raises(KeyFileError, match="can be read by group or others"):
            check_credential_file(link)
    with pytest.raises(KeyFileError, match="is missing"):
        check_credential_file(tmp_path / "none")


@pytest.mark.fault(49)
def test_doctor_accepts_a_token_of_a_volume(leeway: Leeway, data_dir: Path) -> None:
    path = with_token_file(data_dir)
    path.unlink()
    volume(data_dir / "volume", "of-the-pod", 0o644)
    with (data_dir / "leeway.yaml").open("r+") as file:
        text = file.read().replace('"tokenFile": "token"', '"tokenFile": "volume/token"')
        file.seek(0)
        file.write(text)
    assert findings(leeway, data_dir)["private files"]["status"] == "ok"
