"""Keys in files that change while they are in use."""

import json
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.jwk import jwks_document
from keys.jws import SigningKey
from tests.support import (
    AUDIENCE,
    ISSUER,
    LEEWAY,
    NOW,
    assert_accepted,
    assert_refused,
    good_claims,
    signing_key,
    token_of,
    wait_until,
)
from webhook.assembly import issuer_keys_of
from webhook.config.load import parse_configuration
from webhook.errors import Reason
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.trusted_issuers.files import FileKeys

OLD, NEW = signing_key("ES256", "old"), signing_key("ES256", "new")
POLL_SECONDS = 0.02


def jwks(*keys: SigningKey) -> bytes:
    return jwks_document([key.verification_key for key in keys])


def pem(*keys: SigningKey) -> bytes:
    publics = [key.verification_key.public_key for key in keys]
    return b"".join(
        k.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for k in publics
    )


def replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def through_a_link(path: Path, data: bytes) -> None:
    """Change a file as the kubelet updates a mounted ConfigMap."""
    folder = path.parent / f"..{time.monotonic_ns()}"
    folder.mkdir()
    (folder / "keys").write_bytes(data)
    link = path.parent / "link"
    link.symlink_to(folder / "keys")
    link.replace(path)


@pytest.mark.parametrize("change", [replace, write, through_a_link])
@pytest.mark.parametrize("render", [jwks, pem])
def test_files_are_read_again(
    tmp_path: Path, change: Callable[[Path, bytes], None], render: Callable[..., bytes]
) -> None:
    path = tmp_path / "keys"
    path.write_bytes(render(OLD))
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], ())
    reports: list[tuple[str, bool]] = []
    jwks_file, public_keys = (path, ()) if render is jwks else (None, (path,))
    keys = FileKeys(
        issuer, jwks_file, public_keys, lambda *report: reports.append(report), POLL_SECONDS
    )
    authenticator = Authenticator([issuer], LEEWAY)
    old, new = token_of(good_claims(), OLD), token_of(good_claims(), NEW)
    assert_accepted(authenticator.authenticate(old, [], NOW))
    assert_refused(authenticator.authenticate(new, [], NOW), new, Reason.UNKNOWN_KEY)
    keys.start()
    try:
        change(path, render(NEW, OLD))
        wait_until(lambda: len(issuer.keys) == 2)
        assert_accepted(authenticator.authenticate(new, [], NOW))
        change(path, render(NEW))
        wait_until(lambda: len(issuer.keys) == 1)
        assert_refused(authenticator.authenticate(old, [], NOW), old, Reason.UNKNOWN_KEY)
        wait_until(lambda: reports == [(ISSUER, False)] * 3)
    finally:
        keys.close()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"{", "not JSON"),
        (b'{"keys": [{"kty": "oct", "k": "YQ"}]}', "symmetric"),
        (jwks(NEW).replace(NEW.verification_key.kid.encode(), b"a\\n"), "kid"),
        (None, "is missing"),
    ],
)
def test_a_broken_file_keeps_the_old_one_in_use(
    tmp_path: Path, data: bytes | None, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(OLD))
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], ())
    reports: list[tuple[str, bool]] = []
    keys = FileKeys(issuer, path, (), lambda *report: reports.append(report), POLL_SECONDS)
    keys.start()
    try:
        replace(path, data) if data is not None else path.unlink()
        # A broken file is read repeatedly.
        wait_until(lambda: len(reports) > 3)
        text = keys.warning()
        assert why in text
        assert str(path) in text
        assert text.endswith("the 1 previous keys stay in use")
        assert caplog.text.count(text) == 1
        assert keys.problem() == ""
        token = token_of(good_claims(), OLD)
        assert_accepted(Authenticator([issuer], LEEWAY).authenticate(token, [], NOW))
        replace(path, jwks(NEW))
        wait_until(lambda: not keys.warning())
        wait_until(lambda: [failed for (_, failed), _ in groupby(reports)] == [False, True, False])
        assert list(issuer.keys) == [NEW.verification_key.kid]
    finally:
        keys.close()


@pytest.mark.fault(3)
def test_the_same_key_in_two_files_is_one_key(tmp_path: Path) -> None:
    paths = (tmp_path / "a.pub", tmp_path / "b.pub")
    for path in paths:
        path.write_bytes(pem(OLD))
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], ())
    FileKeys(issuer, None, paths, lambda *_: None)
    assert list(issuer.keys) == [OLD.verification_key.kid]


def renamed(key: SigningKey, kid: str) -> bytes:
    """Render a key set whose key has another ``kid``."""
    return jwks(key).replace(key.verification_key.kid.encode(), kid.encode())


@pytest.mark.fault(5)
def test_entries_of_one_issuer_must_not_name_two_keys_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kid = OLD.verification_key.kid
    first, second = (TrustedIssuer(ISSUER, [AUDIENCE], (), is_foreign=True) for _ in range(2))
    own = TrustedIssuer(ISSUER, [AUDIENCE], [NEW.verification_key])
    (tmp_path / "a.json").write_bytes(jwks(OLD))
    (tmp_path / "b.json").write_bytes(jwks(OLD))
    FileKeys(first, tmp_path / "a.json", (), lambda *_: None)
    keys = FileKeys(second, tmp_path / "b.json", (), lambda *_: None)
    Authenticator([own, first, second], LEEWAY)
    # The same key twice is accepted, here and when the file is read again.
    assert keys.reload()
    before = second.keys
    # Another key with that kid is refused, and changes nothing.
    other = signing_key("ES256", "third")
    for name, where in ((kid, "another entry of trustedIssuers"), ("own", "keys/")):
        own.keys = {"own": NEW.verification_key}
        (tmp_path / "b.json").write_bytes(renamed(other, name))
        assert not keys.reload()
        assert second.keys == before
        text = keys.warning()
        assert f"the kid {name!r} names a different key of issuer {ISSUER} in {where}" in text
        assert str(tmp_path / "b.json") in text
        assert caplog.text.count(text) == 1
    (tmp_path / "b.json").write_bytes(jwks(other))
    assert keys.reload()
    assert list(second.keys) == [other.verification_key.kid]


@pytest.mark.fault(5)
def test_an_issuer_fails_while_any_of_its_entries_does(tmp_path: Path) -> None:
    entries = []
    for name, key in (("a", OLD), ("b", NEW)):
        (tmp_path / f"{name}.json").write_bytes(jwks(key))
        entries.append({"url": ISSUER, "keys": {"jwksFile": f"{name}.json"}})
    text = json.dumps({"issuer": "https://own.example", "trustedIssuers": entries})
    configuration = parse_configuration(text, "test", {}, {})
    reports: list[tuple[str, bool]] = []
    sources = issuer_keys_of(tmp_path, configuration, lambda *report: reports.append(report))
    first, second = sources._sources
    assert isinstance(first, FileKeys)
    assert isinstance(second, FileKeys)
    (tmp_path / "a.json").write_bytes(b"{")
    assert not first.reload()
    assert second.reload()
    assert reports == [(ISSUER, True)] * 2
    assert sources.broken_files() == first.warning() != ""
    (tmp_path / "a.json").write_bytes(jwks(OLD))
    assert first.reload()
    assert reports[2:] == [(ISSUER, False)]


@pytest.mark.fault(4)
def test_skipped_keys_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def document(*kids: str) -> bytes:
        members = json.loads(jwks(OLD))
        akp = {"kty": "AKP", "alg": "ML-DSA-65", "pub": "AAAA"}
        members["keys"] += [akp | {"kid": kid} for kid in kids]
        return json.dumps(members).encode()

    path = tmp_path / "keys.json"
    path.write_bytes(document("pq"))
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], ())
    reports: list[bool] = []
    keys = FileKeys(issuer, path, (), lambda _, failed: reports.append(failed))
    assert "skipped" not in caplog.text
    keys.start()
    keys.close()
    text = f"keys of issuer {ISSUER} are skipped: key 1 ('pq'): its \"kty\" is 'AKP', not"
    assert caplog.text.count(text) == 1
    keys.reload()
    assert caplog.text.count("are skipped") == 1
    path.write_bytes(document("pq", "pq-2"))
    keys.reload()
    keys.reload()
    assert caplog.text.count("are skipped") == 2
    assert "'pq-2'" in caplog.text
    path.write_bytes(document())
    keys.reload()
    assert caplog.text.count("are skipped") == 2
    assert list(issuer.keys) == [OLD.verification_key.kid]
    assert not any(reports)
    assert keys.warning() == ""


def test_a_key_that_stays_keeps_what_it_has_verified(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(OLD))
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], ())
    keys = FileKeys(issuer, path, (), lambda *_: None)
    before = issuer.keys[OLD.verification_key.kid]
    path.write_bytes(jwks(NEW, OLD))
    keys.reload()
    assert issuer.keys[OLD.verification_key.kid] is before
    # Another key with that kid is a different key.
    members = jwks(NEW).decode().replace(NEW.verification_key.kid, OLD.verification_key.kid)
    path.write_text(members)
    keys.reload()
    assert issuer.keys[OLD.verification_key.kid] is not before


def test_a_file_that_only_changes_its_mode_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(OLD))
    time.sleep(0.02)  # Until Linux 6.13 file times advance with its ticks.
    reports: list[bool] = []
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], ())
    keys = FileKeys(issuer, path, (), lambda _, failed: reports.append(failed), POLL_SECONDS)
    keys.start()
    path.chmod(0o640)
    wait_until(lambda: reports == [False, False])
    keys.close()
    assert keys.request_refresh() is None
