"""Checks the signing keys, their schedule, and what a server publishes of them."""

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from keys.jwk import VerificationKey
from keys.keyring import Keyring, KeyState, ScheduledKey
from keys.messages import utc
from keys.rotation import RotationPolicy, next_step
from webhook.doctor.findings import Verdict, failure, ok, warning
from webhook.duration import rounded_duration

SETTLE_SECONDS = 3600
"""How late a server may take a step that is due before it is a warning."""


def check_keyring(keyring: Keyring, fix: str) -> Verdict:
    """Check that a key signs; its strength was checked when it was loaded."""
    if keyring.refusal:
        return failure(keyring.refusal, fix)
    active = keyring.active
    if active is None:
        return failure(f"none of {len(keyring.keys)} keys is active, so nothing is signed", fix)
    others = len(keyring.published_keys()) - 1
    key = active.verification_key
    return ok(f"{_strength(key)} key {key.kid} signs, {others} more published")


def check_schedule(keyring: Keyring, policy: RotationPolicy, now: int, fix: str) -> Verdict:
    """Check that no key is still pending long after it could sign safely."""
    for key in keyring.keys:
        if key.state is KeyState.PENDING:
            safe_from = next_step(keyring, key, policy).safe_from
            if safe_from is not None and now > safe_from + SETTLE_SECONDS:
                since = f"{utc(key.since)} and may sign since {utc(safe_from)}"
                return warning(f"key {key.kid} is pending since {since}, but does not", fix)
    return ok(", ".join(_age_of(key, now) for key in keyring.keys))


def check_published(
    keyring: Keyring, load: Callable[[], tuple[VerificationKey, ...]], fix: str
) -> Verdict:
    """Compare the keys of the folder with those that a server publishes.

    ``load`` raises the errors of ``keys.jwk.parse_jwks``.
    """
    expected = {key.kid for key in keyring.published_keys()}
    published = {key.kid for key in load()}
    missing, older = sorted(expected - published), sorted(published - expected)
    if missing:
        return warning(f"the server does not publish {', '.join(missing)}, which is here", fix)
    if older:
        return warning(f"the server still publishes {', '.join(older)}, which is gone here", fix)
    return ok(f"every key of the folder is published ({len(published)})")


def _strength(key: VerificationKey) -> str:
    public = key.public_key
    bits = f" ({public.key_size} bits)" if isinstance(public, RSAPublicKey) else ""
    return f"{key.algorithm}{bits}"


def _age_of(key: ScheduledKey, now: int) -> str:
    return f"{key.kid} {key.state.value} for {rounded_duration(max(0, now - key.since))}"
