"""Chains and names that ``init`` does not make, but people may."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from keys.errors import KeyFileError
from keys.pem import private_key_pem
from keys.pki import CertifiedKey, make_ca, make_client_certificate, make_server_certificate
from tests.support import NOW, revocation_list
from webhook.doctor import certificates
from webhook.doctor.certificates import CLIENT_USAGE, SERVER_USAGE, check_leaf
from webhook.doctor.findings import Status, Verdict

DATE = datetime.fromtimestamp(NOW, UTC)


def intermediate(root: CertifiedKey) -> CertifiedKey:
    """Make a CA that another one has signed."""
    issuer = x509.load_pem_x509_certificate(root.certificate)
    signer = load_pem_private_key(root.private_key, None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "below")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer.subject)
    builder = builder.public_key(key.public_key()).serial_number(2)
    builder = builder.not_valid_before(DATE).not_valid_after(DATE + timedelta(days=900))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM)
    return CertifiedKey(certificate, private_key_pem(key))


def check_server(pem: bytes, pair: CertifiedKey, ca: bytes) -> Verdict:
    return check_leaf(pem, pair.private_key, ca, SERVER_USAGE, DATE, "s.crt", "fix it")


def test_an_intermediate_comes_with_the_certificate() -> None:
    root, other = make_ca("root", DATE), make_ca("other", DATE)
    below = intermediate(root)
    pair = make_server_certificate(below, "leeway", ["a.example"], DATE)
    chain = pair.certificate + below.certificate
    assert check_server(chain, pair, other.certificate + root.certificate).status is Status.OK
    for pem, ca in ((pair.certificate, root.certificate), (chain, other.certificate)):
        assert "is not signed by" in check_server(pem, pair, ca).finding


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_text_that_is_not_a_certificate(pem: bytes) -> None:
    pair = make_ca("root", DATE)
    with pytest.raises(KeyFileError, match=r"s\.crt is not a PEM file"):
        check_server(pem, pair, pair.certificate)
    with pytest.raises(KeyFileError, match="private key"):
        check_leaf(pair.certificate, pem, pair.certificate, SERVER_USAGE, DATE, "s.crt", "")


def test_a_leaf_is_not_a_ca() -> None:
    ca = make_ca("root", DATE)
    leaf = make_client_certificate(ca, "alice", DATE)
    verdict = certificates.check_ca(leaf.certificate, "ca.crt", DATE, "restore")
    assert verdict.status is Status.FAILURE
    assert "CN=alice" in verdict.finding


@pytest.mark.parametrize(
    ("names", "host", "good"),
    [
        (["a.example"], "A.example", True),
        (["*.example"], "a.example", True),
        (["*.example"], "b.a.example", False),
        (["*.example"], "example", False),
        (["192.0.2.1"], "192.0.2.1", True),
        (["2001:db8::1"], "2001:DB8:0::1", True),
        (["192.0.2.1"], "192.0.2.2", False),
        ([], "a.example", False),
    ],
)
def test_names(names: list[str], host: str, good: bool) -> None:
    pair = make_server_certificate(make_ca("root", DATE), "a.example", names, DATE)
    verdict = certificates.check_hosts(pair.certificate, "s.crt", [host], "fix it")
    assert verdict.status is (Status.OK if good else Status.FAILURE)


@pytest.mark.parametrize(
    ("days", "status"),
    [(0, Status.OK), (334, Status.OK), (336, Status.WARNING), (366, Status.FAILURE)],
)
def test_dates(days: int, status: Status) -> None:
    ca = make_ca("root", DATE)
    pair = make_client_certificate(ca, "alice", DATE)
    now = DATE + timedelta(days=days)
    verdict = check_leaf(
        pair.certificate, pair.private_key, ca.certificate, CLIENT_USAGE, now, "c.crt", "fix it"
    )
    assert verdict.status is status


@pytest.mark.parametrize(("hours", "status"), [(8 * 24, Status.OK), (6 * 24, Status.WARNING)])
def test_a_list_of_revoked_certificates(hours: int, status: Status) -> None:
    ca = make_ca("root", DATE)
    crl = revocation_list(ca, start=DATE, due=DATE + timedelta(hours=hours))
    verdict = certificates.check_crl(crl, ca.certificate, DATE, "ca.crl", "renew")
    assert verdict.status is status
