"""Which client certificates are accepted by the CAs and lists of now."""

from datetime import UTC, datetime, timedelta

import pytest

from keys.pki import make_ca, make_client_certificate
from tests.support import revocation_list
from webhook.server.connection.client_trust import ClientTrust

NOW = datetime.now(UTC)
OWN, OTHER, TWIN = (make_ca(name, NOW) for name in ("own", "other", "own"))
ALICE, BOB = (make_client_certificate(OWN, name, NOW).certificate for name in ("alice", "bob"))
STRANGER = make_client_certificate(OTHER, "alice", NOW).certificate
NOBODY_REVOKED = revocation_list(OWN)
ALICE_REVOKED = revocation_list(OWN, [ALICE])
BOTH_CAS = OWN.certificate + OTHER.certificate

CASES = {
    "no list": (OWN.certificate, b"", ALICE, True),
    "not on the list": (OWN.certificate, ALICE_REVOKED, BOB, True),
    "on the list": (OWN.certificate, ALICE_REVOKED, ALICE, False),
    "on one of two lists": (OWN.certificate, NOBODY_REVOKED + ALICE_REVOKED, ALICE, False),
    "on the list of another CA": (
        BOTH_CAS,
        NOBODY_REVOKED + revocation_list(OTHER, [ALICE]),
        ALICE,
        True,
    ),
    "one of two CAs": (BOTH_CAS, b"", STRANGER, True),
    "a CA without a list": (BOTH_CAS, NOBODY_REVOKED, STRANGER, False),
    "another CA": (OTHER.certificate, b"", ALICE, False),
    "another CA of the same name": (TWIN.certificate, b"", ALICE, False),
    "not a certificate": (OWN.certificate, b"", b"-----BEGIN CERTIFICATE-----", False),
    "not a list": (OWN.certificate, b"{", ALICE, False),
    "not a CA": (b"{", b"", ALICE, False),
    "a list that has run out": (
        OWN.certificate,
        revocation_list(OWN, start=NOW - timedelta(2), due=NOW - timedelta(1)),
        ALICE,
        True,
    ),
}


@pytest.mark.fault(57)
@pytest.mark.parametrize("case", CASES)
def test_which_certificates_are_accepted(case: str) -> None:
    authorities, lists, certificate, accepted = CASES[case]
    trust = ClientTrust(authorities, lists)
    assert trust.accepts(certificate.decode("ascii")) is accepted
