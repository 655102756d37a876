from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from keys.errors import KeyFileError, UnusableKeyError
from keys.pki import (
    CertifiedKey,
    make_ca,
    make_client_certificate,
    make_server_certificate,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CA = make_ca("test CA", NOW)
HOSTS = ["leeway.example", "10.0.0.1", "::1", "leeway.example"]


def certificate_of(pair: CertifiedKey) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def test_key_and_certificate_belong_together() -> None:
    for pair in (CA, make_client_certificate(CA, "root", NOW)):
        private = load_pem_private_key(pair.private_key, None)
        assert private.public_key() == certificate_of(pair).public_key()


@pytest.mark.parametrize(
    ("after", "good"),
    [
        (timedelta(0), True),
        (timedelta(minutes=-4), True),
        (timedelta(minutes=-6), False),
        (timedelta(days=364), True),
        (timedelta(days=366), False),
    ],
)
def test_server_certificate_by_time(after: timedelta, good: bool) -> None:
    leaf = certificate_of(make_server_certificate(CA, "leeway", HOSTS, NOW))
    builder = PolicyBuilder().store(Store([certificate_of(CA)])).time(NOW + after)
    verifier = builder.build_server_verifier(x509.DNSName("leeway.example"))
    if good:
        assert verifier.verify(leaf, [])[0] == leaf
        return
    with pytest.raises(VerificationError):
        verifier.verify(leaf, [])


def test_certificates_say_what_they_are_for() -> None:
    server = certificate_of(make_server_certificate(CA, "leeway", HOSTS, NOW))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["leeway.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    client = certificate_of(make_client_certificate(CA, "kube-apiserver", NOW))
    assert client.subject.rfc4514_string() == "CN=kube-apiserver"
    for leaf, usage in (
        (server, ExtendedKeyUsageOID.SERVER_AUTH),
        (client, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(extended) == [usage]
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert leaf.issuer == certificate_of(CA).subject
    assert certificate_of(CA).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("host", ["münchen.example", "ho\u0130st"])
def test_a_host_that_is_not_a_name(host: str) -> None:
    with pytest.raises(UnusableKeyError, match="neither a DNS name nor an IP address"):
        make_server_certificate(CA, "leeway", [host], NOW)


def test_a_mismatched_pair() -> None:
    other = make_ca("another", NOW)
    with pytest.raises(UnusableKeyError, match=r"not the key of tls/ca\.crt"):
        make_client_certificate(CertifiedKey(CA.certificate, other.private_key), "root", NOW)
    with pytest.raises(KeyFileError, match=r"tls/ca"):
        make_client_certificate(CertifiedKey(CA.certificate[:200], CA.private_key), "root", NOW)
    with pytest.raises(KeyFileError, match=r"tls/ca"):
        make_client_certificate(CertifiedKey(CA.certificate, CA.private_key[:50]), "root", NOW)


def test_private_key_is_not_in_a_repr() -> None:
    assert repr(CA) == "CertifiedKey(...)"
