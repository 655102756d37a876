"""``leeway init``."""

import ipaddress
import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from keys.pem import ALGORITHMS
from tests.unit.webhook.cli.cli_support import Leeway, run_process
from webhook.assembly import keyring_of
from webhook.config.load import load_configuration


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, time of the last change and content of every file below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_prints_each_file_it_made_and_changes_nothing_the_second_time(
    leeway: Leeway, tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "data"
    lines = leeway("init", "--data-dir", folder).assert_done().splitlines()
    before = contents(folder)
    assert sorted(lines) == sorted(f"created {folder / name}" for name in before)
    again = leeway("init", "--data-dir", folder)
    assert again.assert_done() == f"{folder} is complete; nothing was changed\n"
    assert contents(folder) == before


def test_only_the_public_files_are_readable_by_others(made: Path) -> None:
    folders = [made, *(path for path in made.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}
    files = {name: stat.S_IMODE(mode) for name, (mode, _, _) in contents(made).items()}
    public = {name for name, mode in files.items() if mode != 0o600}
    assert public == {f"tls/{name}.crt" for name in ("ca", "server", "kube-apiserver", "root")}


def test_makes_missing_files_and_says_so(leeway: Leeway, data_dir: Path) -> None:
    missing = data_dir / "kubeconfig" / "root.yaml"
    missing.unlink()
    before = contents(data_dir)
    out = leeway("init", "--data-dir", data_dir).assert_done()
    assert out == f"created {missing}\n"
    assert {name: before[name] for name in before} == {
        name: value for name, value in contents(data_dir).items() if name in before
    }


def test_issuer_audiences_and_hosts(leeway: Leeway, tmp_path: Path) -> None:
    flags = ["--issuer", "https://i.example", "--audience", "a b", "--audience", "it's {c}: #"]
    hosts = ["--host", "hook.example", "--host", "192.0.2.10", "--host", "2001:db8::1"]
    leeway("init", "--data-dir", tmp_path, *flags, *hosts).assert_done()
    configuration = load_configuration(tmp_path, {}, {})
    assert configuration.issuer == "https://i.example"
    assert configuration.audiences == ("a b", "it's {c}: #")
    certificate = x509.load_pem_x509_certificate((tmp_path / "tls/server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"hook.example", "localhost"}
    assert set(names.get_values_for_type(x509.IPAddress)) == {
        ipaddress.ip_address(text) for text in ("192.0.2.10", "2001:db8::1", "127.0.0.1", "::1")
    }
    for name, path in (
        ("tokenreview", "/apis/authentication.k8s.io/v1/tokenreviews"),
        ("subjectaccessreview", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
        ("root", ""),
    ):
        document = yaml.safe_load((tmp_path / "kubeconfig" / f"{name}.yaml").read_text())
        assert document["clusters"][0]["cluster"]["server"] == f"https://hook.example:8443{path}"


def test_an_ipv6_host_is_in_brackets(leeway: Leeway, tmp_path: Path) -> None:
    leeway("init", "--data-dir", tmp_path, "--host", "2001:db8::1").assert_done()
    document = yaml.safe_load((tmp_path / "kubeconfig/root.yaml").read_text())
    assert document["clusters"][0]["cluster"]["server"] == "https://[2001:db8::1]:8443"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "ES512"])
def test_algorithm(leeway: Leeway, tmp_path: Path, algorithm: str) -> None:
    leeway("init", "--data-dir", tmp_path, "--algorithm", algorithm).assert_done()
    assert keyring_of(tmp_path).signing_key().verification_key.algorithm == algorithm
    assert algorithm in ALGORITHMS


WRONG = [
    (("--issuer", "http://i.example"), ("issuer", "http://i.example", "https URL")),
    (("--issuer", "https://i.example/?q"), ("issuer", "query")),
    (("--issuer", "i.example"), ("issuer",)),
    (("--audience", ""), ("audiences",)),
    (("--audience", "naïve"), ("audiences", "ASCII")),
    (("--host", ""), ("host",)),
    (("--host", "höst.example"), ("host", "ASCII")),
    (("--host", "x" * 300), ("host",)),
    (("--host", "bad host"), ("host", "bad host")),
    (("--host", "https://b.example"), ("host", "DNS name")),
    (("--algorithm", "HS256"), ("RS256", "ES512")),
    (("--algorithm", "none"), ("RS256",)),
    (("--algorithm", "rs256"), ("RS256",)),
]


@pytest.mark.parametrize(("flags", "parts"), WRONG, ids=[" ".join(c[0])[:40] for c in WRONG])
def test_wrong_flags_create_nothing(
    leeway: Leeway, tmp_path: Path, flags: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    folder = tmp_path / "data"
    leeway("init", "--data-dir", folder, *flags).assert_failed(2, *parts)
    assert not folder.exists()


def test_a_file_in_place_of_the_directory(leeway: Leeway, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    leeway("init", "--data-dir", tmp_path / "file").assert_failed(2, "is a file")
    leeway("init", "--data-dir", tmp_path / "file" / "data").assert_failed(3, "cannot be created")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["ca", "server", "kube-apiserver", "root"])
def test_half_a_pair_is_not_completed(leeway: Leeway, data_dir: Path, name: str) -> None:
    (data_dir / "tls" / f"{name}.key").unlink()
    before = contents(data_dir)
    ran = leeway("init", "--data-dir", data_dir)
    ran.assert_failed(3, f"{name}.key is missing", "restore")
    assert contents(data_dir) == before


def test_a_separate_process_in_the_working_directory(tmp_path: Path) -> None:
    environment = {"LEEWAY_DATA_DIR": ""}
    out = run_process("init", folder=tmp_path, environment=environment).assert_done()
    assert out.startswith("created leeway-data/leeway.yaml\n")
    assert (tmp_path / "leeway-data" / "tls" / "ca.key").is_file()


def test_the_environment_of_the_server_is_used(
    leeway: Leeway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEEWAY_STORE_SQLITE_PATH", "users.db")
    monkeypatch.setenv("LEEWAY_SERVER_BIND", "0.0.0.0:9443")
    lines = leeway("init", "--data-dir", tmp_path, "--algorithm", "ES256").assert_done()
    assert f"created {tmp_path / 'users.db'}\n" in lines
    assert not (tmp_path / "auth.db").exists()
    for name in ("tokenreview", "root"):
        found = yaml.safe_load((tmp_path / "kubeconfig" / f"{name}.yaml").read_text())
        assert ":9443" in found["clusters"][0]["cluster"]["server"]
    assert leeway("user", "list", "--data-dir", tmp_path).assert_done() == "kube-apiserver\nroot\n"


def test_a_wrong_environment_creates_nothing(
    leeway: Leeway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEEWAY_SERVER_WORKERS", "none")
    ran = leeway("init", "--data-dir", tmp_path / "data")
    ran.assert_failed(2, "environment variable LEEWAY_SERVER_WORKERS")
    assert not (tmp_path / "data").exists()


OPTIONS = (
    "--issuer",
    "https://i.example",
    "--audience",
    "a",
    "--host",
    "h.example",
    "--host",
    "::1",
)
DIFFERENT = [
    (("--issuer", "https://j.example"), ("issuer is https://i.example, not https://j.example",)),
    (("--audience", "b"), ("audiences is a, not b",)),
    (("--audience", "a", "--audience", "b"), ("audiences is a, not a, b",)),
    (
        ("--host", "k.example"),
        ("server.crt is for h.example, ::1, ", "not for k.example", "cert renew server --host k"),
    ),
    (("--host", "h.example", "--host", "192.0.2.1"), ("not for 192.0.2.1",)),
    (("--host", "127.0.0.1"), ("lead to h.example, not to 127.0.0.1",)),
    (("--algorithm", "ES384"), ("the signing key is for ES256, not ES384",)),
    (("--issuer", "https://j.example", "--algorithm", "ES384"), ("j.example", "; the signing key")),
]


@pytest.mark.fault(38)
@pytest.mark.parametrize(("flags", "parts"), DIFFERENT, ids=[" ".join(c[0]) for c in DIFFERENT])
def test_different_flags_are_reported_and_change_nothing(
    leeway: Leeway, tmp_path: Path, flags: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    folder = tmp_path / "data"
    leeway("init", "--data-dir", folder, *OPTIONS, "--algorithm", "ES256").assert_done()
    (folder / "kubeconfig" / "tokenreview.yaml").unlink()
    before = contents(folder)
    leeway("init", "--data-dir", folder, *flags).assert_failed(1, *parts)
    assert contents(folder) == before


def test_other_hosts_lose_no_kubeconfig(leeway: Leeway, tmp_path: Path) -> None:
    """Only ``leeway cert create`` could make that of ``lead`` again, and not with the same key."""
    folder = tmp_path / "data"
    leeway("init", "--data-dir", folder).assert_done()
    leeway("cert", "create", "lead", "--data-dir", folder).assert_done()
    done = leeway("init", "--data-dir", folder, "--host", "h.example")
    error = done.assert_failed(1, "kubeconfig/lead.yaml, ", "change the host in the line `server:`")
    assert "remove" not in error


SAME = [
    OPTIONS,
    (),
    ("--host", "H.example"),
    ("--host", "h.example", "--host", "0:0::1"),
    ("--algorithm", "ES256"),
]


@pytest.mark.fault(38)
@pytest.mark.parametrize("flags", SAME, ids=" ".join)
def test_the_same_flags_again_change_nothing(
    leeway: Leeway, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    leeway("init", "--data-dir", tmp_path / "d", *OPTIONS, "--algorithm", "ES256").assert_done()
    out = leeway("init", "--data-dir", tmp_path / "d", *flags).assert_done()
    assert out == f"{tmp_path / 'd'} is complete; nothing was changed\n"


@pytest.mark.fault(38)
@pytest.mark.parametrize("host", ["h.example", "192.0.2.1", "2001:db8::1"])
def test_removed_kubeconfigs_are_made_again_for_the_previous_host(
    leeway: Leeway, tmp_path: Path, host: str
) -> None:
    flags = ("--algorithm", "ES256", "--host", host, "--host", "other.example")
    leeway("init", "--data-dir", tmp_path / "d", *flags).assert_done()
    paths = sorted((tmp_path / "d" / "kubeconfig").iterdir())
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    leeway("init", "--data-dir", tmp_path / "d").assert_done()
    assert [path.read_bytes() for path in paths] == before
