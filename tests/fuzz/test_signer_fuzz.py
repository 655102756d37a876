"""Mutated claims for ``leeway signer``: never an exception, and nothing signed that is forbidden.

TEST_SIGNER_FUZZ_COUNT sets how many, TEST_FUZZ_SEED repeats a run; the seed is printed. Whether
claims may be signed is decided by ``tests.external_jwt.claims.forbidden``, without the code under
test. tests/e2e/test_signer.py sends a few of them through the socket.
"""

import json
import logging
import os
import random
from collections import Counter

import grpc
import pytest

from keys.keyring import Keyring
from tests.external_jwt.api_server import check_signature, decode
from tests.external_jwt.claims import ISSUER, Limits, Mutator, forbidden
from tests.external_jwt.messages import read_keys, read_signed, sign_request
from tests.secrets_made import token_made
from tests.support import LEEWAY, NOW, assert_accepted, authenticator_with, signing_key
from webhook.signer.key_set import key_set_of
from webhook.signer.policy import Refusal, SigningPolicy
from webhook.signer.service import RESULTS, CallRefusedError, ExternalJWTSigner, Terms
from webhook.telemetry.signer_metrics import SignerMetrics
from webhook.token.claims import Claims

COUNT = int(os.environ.get("TEST_SIGNER_FUZZ_COUNT", "10000"))
SEED = int(os.environ.get("TEST_FUZZ_SEED", "0")) or random.SystemRandom().getrandbits(32)
REFUSED = "the claims were refused"


class Call:
    """A call without a deadline."""

    def time_remaining(self) -> float | None:
        return None

    def is_active(self) -> bool:
        return True


class Skew:
    """Counts what is recorded of the clock."""

    def __init__(self) -> None:
        self.seen = 0

    def see(self, claims: Claims, now: float) -> None:
        assert claims.issuer == ISSUER
        self.seen += 1


def make_signer() -> ExternalJWTSigner:
    keys = key_set_of(Keyring().with_new_key(signing_key("ES256"), int(NOW)))
    policy = SigningPolicy(ISSUER, Limits().longest, LEEWAY)
    metrics = SignerMetrics(dict(RESULTS))
    return ExternalJWTSigner(Terms(policy, keys, 60), metrics, Skew(), lambda: NOW)


def sign(signer: ExternalJWTSigner, request: bytes) -> bytes | None:
    """Return the answer, or None for a refusal that does not say why."""
    try:
        return signer.sign(request, Call())
    except CallRefusedError as error:
        found = error
    assert (found.code, str(found)) == (grpc.StatusCode.INVALID_ARGUMENT, REFUSED)
    assert found.__cause__ is None
    return None


@pytest.mark.bad_input(71)
def test_mutated_claims(caplog: pytest.LogCaptureFixture) -> None:
    print(f"TEST_FUZZ_SEED={SEED}")
    caplog.set_level(logging.DEBUG)
    mutator, signer = Mutator(SEED, NOW), make_signer()
    authenticator = authenticator_with(signing_key("ES256"))
    (key,) = read_keys(signer.fetch_keys(b"", Call())).keys
    counts: Counter[str] = Counter()
    for _ in range(COUNT):
        text = mutator.request()
        caplog.clear()
        answer = sign(signer, sign_request(text))
        why = forbidden(text, NOW, Limits())
        if answer is None:
            counts["refused, as it must be" if why else "refused, by a stricter policy"] += 1
            assert_reason_is_logged(caplog.records, text)
            continue
        assert why == "", f"{why}: {text}"
        signed = read_signed(answer)
        message = f"{signed.header}.{text}"
        check_signature(key.der, "ES256", message.encode("ascii"), decode(signed.signature))
        token = f"{message}.{signed.signature}"
        token_made(token)
        # Leeway accepts what it signs.
        audiences = json.loads(decode(text))["aud"]
        audiences = [audiences] if isinstance(audiences, str) else audiences
        assert_accepted(authenticator.authenticate(token, audiences, NOW))
        counts["signed"] += 1
    print(dict(counts))
    assert counts["signed"] > COUNT // 20
    assert counts["refused, as it must be"] > COUNT // 2


def assert_reason_is_logged(records: list[logging.LogRecord], text: str) -> None:
    """Assert that one line gives the reason; in a second there are 100 of them at most."""
    for record in records:
        fields = record.__dict__["fields"]
        if fields["event"] == "left-out":
            continue
        assert record.levelno == logging.WARNING
        assert record.exc_info is None
        assert fields["reason"] in list(Refusal)
        line = f"{record.getMessage()} {fields}"
        assert line.isprintable()
        assert len(line) < 2000
        assert len(text) < 40 or text[-40:] not in line
    assert len(records) <= 2


@pytest.mark.bad_input(71)
def test_mutated_messages() -> None:
    print(f"TEST_FUZZ_SEED={SEED}")
    choices, signer = random.Random(SEED), make_signer()
    good = sign_request(Mutator(SEED, NOW).request())
    for _ in range(COUNT // 10):
        data = bytearray(good)
        for _ in range(choices.choice((1, 1, 2, 8))):
            at = choices.randrange(len(data))
            data[at] = choices.choice((0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1, data[at] ^ 0x80))
        answer = sign(signer, bytes(data[: choices.choice((len(data), choices.randrange(200)))]))
        assert answer is None or forbidden(text_of(bytes(data)), NOW, Limits()) == ""


def text_of(request: bytes) -> str:
    """Return the text of a request whose first field it is."""
    return read_signed(request).header
