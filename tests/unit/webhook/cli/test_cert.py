"""``leeway cert``: its files in openssl, in the kubernetes client and in a second run."""

import base64
import json
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from keys import files
from keys.crl import check_revocation_lists, renewed_list
from keys.pki import make_ca, make_client_certificate
from tests.support import revocation_list
from tests.unit.webhook.cli.cli_support import Leeway
from webhook.config.paths import read_pair
from webhook.setup.init import InitOptions, initialise

pytestmark = pytest.mark.fault(42)
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return a data directory that was made today."""
    folder = tmp_path / "data"
    initialise(folder, InitOptions(hosts=("hook.example",), algorithm="ES256"), NOW.timestamp())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def openssl(*arguments: str | Path) -> str:
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def listed(leeway: Leeway, data_dir: Path) -> dict[str, dict[str, str]]:
    out = leeway("cert", "list", "-o", "json", "--data-dir", data_dir).assert_done()
    return {entry["serial"]: entry for entry in json.loads(out)["certificates"]}


def test_create_makes_a_pair_that_openssl_accepts_and_a_kubeconfig(
    leeway: Leeway, data_dir: Path
) -> None:
    out = leeway("cert", "create", "lead", "--days", "90", "--data-dir", data_dir).assert_done()
    made = [data_dir / name for name in ("tls/lead.crt", "tls/lead.key", "kubeconfig/lead.yaml")]
    assert out.splitlines()[:3] == [f"created {path}" for path in made]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    tls = data_dir / "tls"
    purpose = ("-purpose", "sslclient", "-x509_strict")
    assert openssl("verify", *purpose, "-CAfile", tls / "ca.crt", made[0]).endswith(": OK\n")
    certificate = load(made[0])
    assert certificate.subject.rfc4514_string() == "CN=lead"
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert abs(left - 90 * DAY) < timedelta(minutes=10)
    config = yaml.safe_load(made[2].read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://hook.example:8443"
    held = config["users"][0]["user"]
    assert base64.b64decode(held["client-certificate-data"]) == made[0].read_bytes()
    assert base64.b64decode(held["client-key-data"]) == made[1].read_bytes()


REFUSED = [
    ("ca", 2, "name of other files"),
    ("server", 2, "name of other files"),
    ("ca.crl", 2, "name of other files"),
    ("é" * 40, 2, "too long for the name of a file"),
    ("root", 2, "exists already"),
    ("", 2, "0 characters"),
    ("x" * 65, 2, "65 characters"),
    ("a\x1b[2Jb", 2, "printable"),
    ("\u202eadmin", 2, "printable"),
]


@pytest.mark.parametrize(
    ("name", "code", "words"), REFUSED, ids=[ascii(c[0])[:20] for c in REFUSED]
)
def test_names_that_are_refused_change_nothing(
    leeway: Leeway, data_dir: Path, name: str, code: int, words: str
) -> None:
    before = contents(data_dir)
    error = leeway("cert", "create", name, "--data-dir", data_dir).assert_failed(code, words)
    assert error.rstrip("\n").isprintable()
    assert contents(data_dir) == before


@pytest.mark.parametrize(
    "name", ["../../etc/x", ".hidden", "system:node:a", "a b", "größe", "a%2Fb"]
)
def test_any_other_name_has_its_own_files_below_tls(
    leeway: Leeway, data_dir: Path, name: str
) -> None:
    before = contents(data_dir)
    leeway("cert", "create", name, "--data-dir", data_dir).assert_done()
    new = contents(data_dir).keys() - before.keys() - {"audit.log"}
    assert len(new) == 4
    assert {Path(path).parent.as_posix() for path in new} == {"tls", "tls/issued", "kubeconfig"}
    (path,) = (p for p in new if p.endswith(".crt") and "issued" not in p)
    names = load(data_dir / path).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    assert [entry.value for entry in names] == [name]


def test_renew_keeps_names_hosts_and_lifetime_and_changes_the_kubeconfigs(
    leeway: Leeway, data_dir: Path
) -> None:
    leeway("cert", "create", "lead", "--days", "7", "--data-dir", data_dir).assert_done()
    review = data_dir / "kubeconfig" / "tokenreview.yaml"
    review.write_text("# ours\n" + review.read_text().replace("hook.example", "front.example"))
    old = {path: load(path) for path in (data_dir / "tls").glob("*.crt")}
    ran = leeway("cert", "renew", "--data-dir", data_dir)
    assert (ran.code, ran.err) == (0, "next: copy the kubeconfigs to where they are used\n")
    for path, before in old.items():
        after = load(path)
        assert (after.serial_number == before.serial_number) == (path.stem == "ca")
        assert after.subject == before.subject
        long_before = before.not_valid_after_utc - before.not_valid_before_utc
        assert after.not_valid_after_utc - after.not_valid_before_utc == long_before
        assert read_pair(path.parent, path.stem)
        if path.stem == "server":
            san = x509.SubjectAlternativeName
            assert after.extensions.get_extension_for_class(san) == (
                before.extensions.get_extension_for_class(san)
            )
    assert review.read_text().startswith("# ours\n")
    assert "https://front.example:8443/" in review.read_text()
    for name, user in (("tokenreview", "kube-apiserver"), ("root", "root"), ("lead", "lead")):
        held = yaml.safe_load((data_dir / f"kubeconfig/{name}.yaml").read_text())["users"][0][
            "user"
        ]
        pem = base64.b64decode(held["client-certificate-data"])
        assert pem == (data_dir / f"tls/{user}.crt").read_bytes()
        key = base64.b64decode(held["client-key-data"])
        assert key == (data_dir / f"tls/{user}.key").read_bytes()


def test_renew_only_due_certificates(leeway: Leeway, data_dir: Path) -> None:
    ca = read_pair(data_dir / "tls", "ca")
    leeway("cert", "create", "old", "--data-dir", data_dir).assert_done()
    pair = make_client_certificate(ca, "old", NOW - 300 * DAY)
    (data_dir / "tls/old.crt").write_bytes(pair.certificate)
    (data_dir / "tls/old.key").write_bytes(pair.private_key)
    start = NOW - 80 * DAY
    (data_dir / "tls/ca.crl").write_bytes(revocation_list(ca, (), start, start + 90 * DAY))
    in_use = [entry for entry in listed(leeway, data_dir).values() if entry["file"]]
    assert {entry["name"] for entry in in_use if entry["state"] == "due"} == {"old"}
    out = leeway("cert", "renew", "--due", "--data-dir", data_dir).out
    assert {line.partition(" is good")[0] for line in out.splitlines() if "is good" in line} == {
        "old",
        "ca.crl",
    }
    out = leeway("cert", "renew", "--due", "--data-dir", data_dir).assert_done()
    assert out == "nothing is due\n"


def test_renew_the_server_for_other_hosts(leeway: Leeway, data_dir: Path) -> None:
    hosts = ("--host", "other.example", "--host", "2001:db8::1")
    leeway("cert", "renew", "server", *hosts, "--data-dir", data_dir).assert_done()
    found = load(data_dir / "tls/server.crt").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert found.value.get_values_for_type(x509.DNSName) == ["other.example", "localhost"]
    leeway("cert", "renew", "root", *hosts, "--data-dir", data_dir).assert_failed(2, "--host")


NOT_RENEWED = [
    ("ca", 2, "every client trusts"),
    ("nobody", 2, "has no certificate of 'nobody'"),
    ("server", 2, "was not signed by"),
]


@pytest.mark.parametrize(("name", "code", "words"), NOT_RENEWED, ids=[c[0] for c in NOT_RENEWED])
def test_certificates_that_are_not_renewed(
    leeway: Leeway, data_dir: Path, name: str, code: int, words: str
) -> None:
    if name == "server":
        other = make_client_certificate(make_ca("other", NOW), "x", NOW)
        (data_dir / "tls/server.crt").write_bytes(other.certificate)
    before = contents(data_dir)
    leeway("cert", "renew", name, "--data-dir", data_dir).assert_failed(code, words)
    assert contents(data_dir) == before


def test_revoke_ends_every_certificate_of_a_user_also_replaced_ones(
    leeway: Leeway, data_dir: Path
) -> None:
    for command in ("create", "renew", "renew"):
        assert leeway("cert", command, "lead", "--data-dir", data_dir).code == 0
    serials = {s for s, entry in listed(leeway, data_dir).items() if entry["name"] == "lead"}
    assert len(serials) == 3
    out = leeway("cert", "revoke", "lead", "--data-dir", data_dir).assert_done()
    assert {line.split()[1] for line in out.splitlines()[:3]} == serials
    assert "or no client certificate is accepted" in out
    text = openssl("crl", "-in", data_dir / "tls/ca.crl", "-noout", "-text")
    assert "X509v3 CRL Number: \n                1\n" in text
    assert all(serial in text for serial in serials)
    states = {entry["name"]: entry["state"] for entry in listed(leeway, data_dir).values()}
    assert states["lead"] == "revoked"
    assert states["root"] == "valid"
    again = leeway("cert", "revoke", "lead", "--data-dir", data_dir).assert_done()
    assert again.startswith("already revoked")
    found = check_revocation_lists(
        (data_dir / "tls/ca.crl").read_bytes(),
        (data_dir / "tls/ca.crt").read_bytes(),
        datetime.now(UTC),
        "ca.crl",
    )
    assert found.revoked == 3
    assert found.next_update - NOW > 89 * DAY
    assert "3 revoked; renew it before" in leeway("cert", "list", "--data-dir", data_dir).out


def test_a_revoked_user_gets_another_certificate_only_by_name(
    leeway: Leeway, data_dir: Path
) -> None:
    leeway("cert", "create", "lead", "--data-dir", data_dir).assert_done()
    leeway("cert", "revoke", "lead", "--data-dir", data_dir).assert_done()
    before = (data_dir / "tls/lead.crt").read_bytes()
    for flags in ((), ("--due",)):
        assert "lead" not in leeway("cert", "renew", *flags, "--data-dir", data_dir).out
    assert (data_dir / "tls/lead.crt").read_bytes() == before
    assert leeway("cert", "renew", "lead", "--data-dir", data_dir).code == 0
    states = {entry["state"] for entry in listed(leeway, data_dir).values() if entry["file"]}
    assert states == {"valid"}


def test_revoke_by_number_keeps_the_entries_of_a_list_that_openssl_made(
    leeway: Leeway, data_dir: Path
) -> None:
    ca = read_pair(data_dir / "tls", "ca")
    lost = make_client_certificate(ca, "lost", NOW)
    expired = revocation_list(ca, [lost.certificate], NOW - 9 * DAY, NOW - DAY)
    (data_dir / "tls/ca.crl").write_bytes(expired)
    out = leeway("cert", "revoke", "--serial", "serial=0A:0B", "--data-dir", data_dir).assert_done()
    assert out.startswith("certificate 0A0B revoked\n")
    text = openssl("crl", "-in", data_dir / "tls/ca.crl", "-noout", "-text")
    serial = x509.load_pem_x509_certificate(lost.certificate).serial_number
    assert f"{serial:X}" in text.replace(":", "")
    assert "0A0B" in text.replace(":", "")


NOT_REVOKED = [
    (("server",), 2, "only client certificates"),
    (("ca",), 2, "only client certificates"),
    (("nobody",), 2, "--serial"),
    ((), 2, "nothing to revoke"),
    (("--serial", "xyz"), 2, "hexadecimal"),
    (("--serial", "1" * 41), 2, "hexadecimal"),
    (("--serial", "0"), 2, "is not 0"),
    (("--serial", "F" * 40), 2, "the first is 0 to 7"),
    (("--serial", "٣"), 2, "hexadecimal"),
]


@pytest.mark.parametrize(
    ("words", "code", "part"), NOT_REVOKED, ids=[" ".join(c[0])[:20] for c in NOT_REVOKED]
)
def test_certificates_that_are_not_revoked(
    leeway: Leeway, data_dir: Path, words: tuple[str, ...], code: int, part: str
) -> None:
    leeway("cert", "revoke", *words, "--data-dir", data_dir).assert_failed(code, part)
    assert not (data_dir / "tls/ca.crl").exists()


def test_a_foreign_or_broken_list_is_not_replaced(leeway: Leeway, data_dir: Path) -> None:
    path = data_dir / "tls/ca.crl"
    for text in (b"broken", b"", revocation_list(make_ca("leeway CA", NOW))):
        path.write_bytes(text)
        assert leeway("cert", "revoke", "root", "--data-dir", data_dir).code in (2, 3)
        assert path.read_bytes() == text


def test_lists_of_other_authorities_are_kept(data_dir: Path) -> None:
    ca = read_pair(data_dir / "tls", "ca")
    other = revocation_list(make_ca("other CA", NOW))
    made = renewed_list(ca, other, [5], NOW, "ca.crl")
    assert made.startswith(other)
    assert renewed_list(ca, made, [6], NOW, "ca.crl").count(b"-----BEGIN") == 2


def test_two_revocations_at_once_are_both_kept(leeway: Leeway, data_dir: Path) -> None:
    from webhook.setup.certificates import revoke

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: revoke(data_dir, "", [n], NOW, DAY), range(1, 41)))
    text = (data_dir / "tls/ca.crl").read_bytes()
    assert (
        check_revocation_lists(text, (data_dir / "tls/ca.crt").read_bytes(), NOW, "").revoked == 40
    )


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_full_disk_changes_nothing(
    leeway: Leeway, data_dir: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    leeway("cert", "renew", "root", "--data-dir", data_dir)
    before = contents(data_dir)
    real, calls = files._write_temporary, iter(range(1, 100))

    def full(path: Path, data: bytes, mode: int) -> Path:
        if next(calls) == nth:
            raise OSError(28, "No space left on device", str(path))
        return real(path, data, mode)

    monkeypatch.setattr(files, "_write_temporary", full)
    leeway("cert", "renew", "kube-apiserver", "--data-dir", data_dir).assert_failed(
        3, "No space left on device"
    )
    after = contents(data_dir)
    assert {n: d for n, d in after.items() if "issued" not in n} == {
        n: d for n, d in before.items() if "issued" not in n
    }


def test_without_the_key_of_the_ca(leeway: Leeway, data_dir: Path) -> None:
    (data_dir / "tls/ca.key").rename(data_dir.parent / "ca.key")
    for words in (("create", "lead"), ("renew",), ("revoke", "root")):
        leeway("cert", *words, "--data-dir", data_dir).assert_failed(3, "ca.key is missing")
    leeway("cert", "list", "--data-dir", data_dir).assert_done()


def test_no_data_directory(leeway: Leeway, tmp_path: Path) -> None:
    for words in (("list",), ("create", "a"), ("renew",), ("revoke", "a")):
        leeway("cert", *words, "--data-dir", tmp_path / "none").assert_failed(3, "leeway init")
    shutil.rmtree(tmp_path / "none", ignore_errors=True)


def test_changes_are_in_the_audit_log(leeway: Leeway, data_dir: Path) -> None:
    for words in (("create", "lead"), ("renew", "lead"), ("revoke", "lead")):
        assert leeway("cert", *words, "--data-dir", data_dir).code == 0
    lines = [json.loads(line) for line in (data_dir / "audit.log").read_text().splitlines()]
    actions = [line["action"] for line in lines]
    assert actions == ["cert.create", "cert.renew", "cert.revoke", "cert.revoke"]
    assert all(line["caller"].startswith("os:") for line in lines)
