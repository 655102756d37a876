"""``leeway serve``: what prevents its start. What it serves is tested in tests/e2e."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from tests.unit.webhook.cli.cli_support import Leeway, run_process

WRONG = [
    (("--workers", "0"), ("--workers", "1 to 64")),
    (("--workers", "65"), ("--workers", "1 to 64")),
    (("--workers", "-1"), ("--workers", "1 to 64")),
    (("--workers", "two"), ("--workers", "integer")),
    (("--bind", "8443"), ("--bind", "HOST:PORT")),
    (("--bind", ""), ("--bind", "HOST:PORT")),
    (("--bind", "127.0.0.1:65536"), ("--bind", "HOST:PORT")),
    (("--bind", "::1:8443"), ("--bind", "HOST:PORT")),
    (("--bind", "a b:8443"), ("--bind", "HOST:PORT")),
]


@pytest.mark.parametrize(("flags", "parts"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_wrong_flags(
    leeway: Leeway, made: Path, flags: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    leeway("serve", *flags, "--data-dir", made).assert_failed(2, *parts)


ENVIRONMENT = [
    ("LEEWAY_SERVER_WORKERS", "many"),
    ("LEEWAY_SERVER_BIND", "nowhere"),
    ("LEEWAY_LEEWAY_NOT_BEFORE", "10m"),
    ("LEEWAY_ISSUER", "http://plain.example"),
    ("LEEWAY_TOKENS_EXTEND", "yes"),
]


@pytest.mark.parametrize(("name", "value"), ENVIRONMENT)
def test_wrong_environment(
    leeway: Leeway, made: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    leeway("serve", "--data-dir", made).assert_failed(2, f"environment variable {name}: ")


@pytest.mark.parametrize("name", ["leeway.yaml", "tls/server.crt", "tls/server.key", "tls/ca.crt"])
def test_missing_files(leeway: Leeway, data_dir: Path, name: str) -> None:
    (data_dir / name).unlink()
    leeway("serve", "--data-dir", data_dir).assert_failed(3, str(data_dir / name))


def too_open_tls_key(data_dir: Path) -> Path:
    path = data_dir / "tls" / "server.key"
    path.chmod(0o604)
    return path


def too_open_ca_key(data_dir: Path) -> Path:
    path = data_dir / "tls" / "ca.key"
    path.chmod(0o644)
    return path


def too_open_kubeconfig(data_dir: Path) -> Path:
    path = data_dir / "kubeconfig" / "root.yaml"
    path.chmod(0o640)
    return path


def encrypted_tls_key(data_dir: Path) -> Path:
    path = data_dir / "tls" / "server.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"a password")
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    return path


def too_open_signing_key(data_dir: Path) -> Path:
    path = next((data_dir / "keys").glob("*.pem"))
    path.chmod(0o640)
    return path


def empty_tls_key(data_dir: Path) -> Path:
    path = data_dir / "tls" / "server.key"
    path.write_text("\n")
    return path


def broken_certificate(data_dir: Path) -> Path:
    path = data_dir / "tls" / "server.crt"
    path.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    return path


def key_of_another(data_dir: Path) -> Path:
    tls = data_dir / "tls"
    (tls / "server.key").write_bytes((tls / "root.key").read_bytes())
    return tls / "server.crt"


def broken_ca(data_dir: Path) -> Path:
    (data_dir / "tls" / "ca.crt").write_text("no certificate\n")
    return data_dir / "tls" / "server.crt"


WRECKS = [
    (too_open_tls_key, ("group or others", "chmod 600")),
    (too_open_signing_key, ("group or others", "chmod 600")),
    (too_open_ca_key, ("group or others", "chmod 600")),
    (too_open_kubeconfig, ("group or others", "chmod 600")),
    (encrypted_tls_key, ("is encrypted", "openssl pkey -in server.key")),
    (empty_tls_key, ("is empty",)),
    (broken_certificate, ("cannot be served with", "leeway init")),
    (key_of_another, ("cannot be served with", "leeway init")),
    (broken_ca, ("cannot be served with", "leeway init")),
]


@pytest.mark.parametrize(("wreck", "parts"), WRECKS, ids=[case[0].__name__ for case in WRECKS])
def test_files_that_cannot_be_used(
    data_dir: Path, wreck: Callable[[Path], Path], parts: tuple[str, ...]
) -> None:
    secrets = [path.read_text().splitlines()[1] for path in data_dir.rglob("*.key")]
    path = wreck(data_dir)
    # In its own process, as it would become a server.
    ran = run_process("serve", "--bind", "127.0.0.1:0", "--data-dir", data_dir)
    error = ran.assert_failed(3, str(path), *parts)
    assert not [secret for secret in secrets if secret in error]


def test_an_address_that_cannot_be_listened_on(made: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = f"127.0.0.1:{listener.getsockname()[1]}"
        for bind, part in ((taken, "in use"), ("192.0.2.1:8443", "assign")):
            ran = run_process("serve", "--bind", bind, "--data-dir", made)
            error = ran.assert_failed(3, f"cannot listen on {bind}: ", part, "--bind HOST:PORT")
            assert error.count(bind.partition(":")[0]) == 1


BROKEN_OBJECTS = [
    pytest.param("{source: file, file: {path: nope}}", "nope, the file of objects,", id="no-file"),
    pytest.param("{source: file, file: {path: leeway.yaml}}", "has no ServiceAccount", id="file"),
    pytest.param(
        "{source: kubernetes, kubernetes: {kubeconfig: nope}}", "/nope, which", id="no-kubeconfig"
    ),
    pytest.param(
        "{source: kubernetes, kubernetes: {kubeconfig: leeway.yaml}}",
        "cannot be used",
        id="kubeconfig",
    ),
    pytest.param(
        '{source: kubernetes, kubernetes: {kubeconfig: kubeconfig/root.yaml, context: "nope"}}',
        "with context 'nope'",
        id="context",
    ),
]


@pytest.mark.parametrize(("section", "part"), BROKEN_OBJECTS)
def test_broken_source_of_objects(data_dir: Path, section: str, part: str) -> None:
    with (data_dir / "leeway.yaml").open("a") as configuration:
        configuration.write(f"objects: {section}\n")
    code = 3 if "nope}" in section else 2
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bind = f"127.0.0.1:{listener.getsockname()[1]}"
    ran = run_process("serve", "--data-dir", data_dir, "--bind", bind)
    ran.assert_failed(code, str(data_dir), part)
