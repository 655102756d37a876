"""Lists of revoked certificates, as OpenSSL and ``cryptography`` write them."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from keys.crl import RevocationLists, check_revocation_lists
from keys.errors import KeyFileError, UnusableKeyError
from keys.pki import CertifiedKey, make_ca, make_client_certificate

NOW = datetime(2027, 1, 15, tzinfo=UTC)
DAY = timedelta(days=1)
CA = make_ca("leeway CA", NOW)
SAME_NAME = make_ca("leeway CA", NOW)
OTHER = make_ca("other CA", NOW)


def revocation_list(
    ca: CertifiedKey = CA,
    serials: tuple[int, ...] = (1, 2),
    start: datetime = NOW,
    due: datetime = NOW + DAY,
    extension: x509.ExtensionType | None = None,
) -> bytes:
    key = load_pem_private_key(ca.private_key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(ca.certificate).subject
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer)
    builder = builder.last_update(start).next_update(due)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
        builder = builder.add_revoked_certificate(entry.build())
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


GOOD = [
    (revocation_list(), CA.certificate, RevocationLists(2, NOW + DAY)),
    (revocation_list(serials=()), CA.certificate, RevocationLists(0, NOW + DAY)),
    (b"of the CA:\n" + revocation_list(), CA.certificate, RevocationLists(2, NOW + DAY)),
    (
        revocation_list() + revocation_list(OTHER, (3,), due=NOW + DAY / 2),
        CA.certificate + OTHER.certificate,
        RevocationLists(3, NOW + DAY / 2),
    ),
]


@pytest.mark.parametrize(("lists", "authorities", "found"), GOOD)
def test_good_lists(lists: bytes, authorities: bytes, found: RevocationLists) -> None:
    assert check_revocation_lists(lists, authorities, NOW, "ca.crl") == found


ISSUING = x509.IssuingDistributionPoint(
    full_name=None,
    relative_name=None,
    only_contains_user_certs=True,
    only_contains_ca_certs=False,
    only_some_reasons=None,
    indirect_crl=False,
    only_contains_attribute_certs=False,
)
CUT = revocation_list()[:120] + b"\n-----END X509 CRL-----\n"
BAD = [
    pytest.param(b"", KeyFileError, "not a PEM file", id="empty"),
    pytest.param(b"\x30\x82", KeyFileError, "not a PEM file", id="DER"),
    pytest.param(CA.certificate, KeyFileError, "not a PEM file", id="certificate"),
    pytest.param(revocation_list() + CA.certificate, KeyFileError, "not a PEM file", id="both"),
    pytest.param(
        revocation_list() + revocation_list()[:200], KeyFileError, "not a PEM file", id="second-cut"
    ),
    pytest.param(CUT, KeyFileError, "not an intact list", id="cut"),
    pytest.param(revocation_list(OTHER), UnusableKeyError, "not signed", id="foreign"),
    pytest.param(revocation_list(SAME_NAME), UnusableKeyError, "not signed", id="same-name"),
    pytest.param(
        revocation_list() + revocation_list(OTHER), UnusableKeyError, "not signed", id="one-foreign"
    ),
    pytest.param(
        revocation_list(start=NOW - 2 * DAY, due=NOW - timedelta(seconds=1)),
        UnusableKeyError,
        "valid from 2027-01-13T00:00:00Z to 2027-01-14T23:59:59Z",
        id="expired",
    ),
    pytest.param(
        revocation_list(start=NOW + timedelta(seconds=1)),
        UnusableKeyError,
        "it is 2027-01-15T00:00:00Z",
        id="not-yet",
    ),
    pytest.param(
        revocation_list(extension=x509.DeltaCRLIndicator(1)), UnusableKeyError, "29.27", id="delta"
    ),
    pytest.param(revocation_list(extension=ISSUING), UnusableKeyError, "2.5.29.28", id="partial"),
]


@pytest.mark.bad_input(34)
@pytest.mark.parametrize(("lists", "error", "words"), BAD)
def test_revocation_lists_that_cannot_be_used(
    lists: bytes, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised:
        check_revocation_lists(lists, CA.certificate, NOW, "ca.crl")
    text = str(raised.value)
    assert text.startswith("ca.crl ")
    assert words in text
    assert "\n" not in text


@pytest.mark.bad_input(34)
def test_a_ca_that_must_not_sign_lists() -> None:
    key = load_pem_private_key(CA.private_key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.load_pem_x509_certificate(CA.certificate).subject
    usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    with pytest.raises(UnusableKeyError, match="not signed"):
        check_revocation_lists(revocation_list(), pem, NOW, "ca.crl")


def test_a_list_made_with_openssl(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    now = datetime.now(UTC)
    ca = make_ca("leeway CA", now)
    leaf = make_client_certificate(ca, "alice", now)
    files = {"ca.crt": ca.certificate, "ca.key": ca.private_key, "a.crt": leaf.certificate}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "index.txt").touch()
    (tmp_path / "openssl.cnf").write_text(
        "[ca]\ndefault_ca = leeway\n[leeway]\ndatabase = index.txt\ndefault_md = sha256\n"
    )
    command = [openssl, "ca", "-config", "openssl.cnf", "-cert", "ca.crt", "-keyfile", "ca.key"]
    for arguments in (["-revoke", "a.crt"], ["-gencrl", "-crldays", "30", "-out", "ca.crl"]):
        subprocess.run(
            [*command, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=20
        )
    lists = (tmp_path / "ca.crl").read_bytes()
    found = check_revocation_lists(lists, ca.certificate, datetime.now(UTC), "ca.crl")
    assert found.revoked == 1
    assert found.next_update - now > 29 * DAY
