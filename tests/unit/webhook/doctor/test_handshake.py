"""Certificates with good signatures that a handshake refuses, made by openssl."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.x509 import ObjectIdentifier

from webhook.doctor.certificates import CLIENT_USAGE, SERVER_USAGE, is_signed_by, load_certificates
from webhook.doctor.handshake import refusal

pytestmark = [
    pytest.mark.fault(29),
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed"),
]

CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
CLIENT = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth\n"
SERVER = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth\n"
IDS = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"


class Pair(NamedTuple):
    certificate: bytes
    private_key: bytes


class Authority:
    """Signs certificates with any extensions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.sign("root", "root", "subjectKeyIdentifier=hash\n" + CA)

    def sign(
        self, name: str, issuer: str, extensions: str, *, days: int = 9, key: str = ""
    ) -> Pair:
        (self.folder / f"{name}.ext").write_text(extensions)
        new = ["-newkey", key or "ec"] + ([] if key else ["-pkeyopt", "ec_paramgen_curve:P-256"])
        self._openssl(
            "req", *new, "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={name}",
        )  # fmt: skip
        signer = ["-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-CAcreateserial"]
        if name == issuer:
            signer = ["-signkey", f"{name}.key"]
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}.crt",
            "-extfile", f"{name}.ext", "-days", str(days),
        )  # fmt: skip
        return self.pair(name)

    def pair(self, name: str) -> Pair:
        return Pair(
            (self.folder / f"{name}.crt").read_bytes(), (self.folder / f"{name}.key").read_bytes()
        )

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


USAGES = [
    pytest.param(CLIENT_USAGE, CLIENT, SERVER, id="client"),
    pytest.param(SERVER_USAGE, SERVER, CLIENT, id="server"),
]


@pytest.mark.parametrize(("usage", "right", "wrong"), USAGES)
def test_the_usage(authority: Authority, usage: ObjectIdentifier, right: str, wrong: str) -> None:
    root = authority.pair("root")
    good = authority.sign("good", "root", IDS + right)
    assert refusal(*good, root.certificate, usage) == ""
    bad = authority.sign("bad", "root", IDS + wrong)
    assert "purpose" in refusal(*bad, root.certificate, usage)


NO_CA = "invalid CA certificate"
INTERMEDIATES = [
    pytest.param(CA, "", id="a CA"),
    pytest.param(CLIENT, NO_CA, id="an ordinary client"),
    pytest.param("keyUsage=digitalSignature\n", NO_CA, id="no constraints"),
    pytest.param(CA.replace("keyCertSign,", ""), NO_CA, id="no keyCertSign"),
    pytest.param(
        CA.replace("TRUE", "TRUE,pathlen:0"), "path length constraint exceeded", id="path length"
    ),
]


@pytest.mark.parametrize(("extensions", "words"), INTERMEDIATES)
@pytest.mark.parametrize(("usage", "right", "wrong"), USAGES)
def test_the_intermediate_certificates(
    authority: Authority,
    usage: ObjectIdentifier,
    right: str,
    wrong: str,
    extensions: str,
    words: str,
) -> None:
    root = authority.pair("root")
    upper = authority.sign("upper", "root", IDS + extensions)
    lower = authority.sign("lower", "upper", IDS + CA)
    leaf = authority.sign("leaf", "lower", IDS + right)
    chain = leaf.certificate + lower.certificate + upper.certificate
    # The signatures are good.
    first, *others = load_certificates(chain, "")
    assert is_signed_by(first, others, load_certificates(root.certificate, ""))
    assert refusal(chain, leaf.private_key, root.certificate, usage) == words


@pytest.mark.parametrize(("usage", "right", "wrong"), USAGES)
def test_what_else_openssl_refuses(
    authority: Authority, usage: ObjectIdentifier, right: str, wrong: str
) -> None:
    root = authority.pair("root")
    weak = authority.sign("weak", "root", IDS + right, key="rsa:1024")
    assert "too small" in refusal(*weak, root.certificate, usage)
    good = authority.sign("alone", "root", IDS + right)
    other = Authority(authority.folder / "other").pair("root")
    assert "issuer certificate" in refusal(*good, other.certificate, usage)
