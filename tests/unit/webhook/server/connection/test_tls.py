import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from keys.pki import make_ca, make_client_certificate, make_server_certificate
from tests.memory_backend import MemoryBackend
from tests.support import AUDIENCE, ISSUER, authenticator_with, revocation_list
from webhook.config.paths import TLSFiles
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import NopTokens
from webhook.server.connection.tls import certificate_of, server_context
from webhook.server.request.caller import Callers, peer_certificate, require_identity
from webhook.server.request.message import Caller, Request, RequestError, settled
from webhook.server.request.verifier import TokenVerifier

NOW = datetime(2027, 1, 15, tzinfo=UTC)
NOT_AFTER = NOW + timedelta(days=365)


def certificate(*names: str, organisation: str = "system:masters") -> str:
    """Return the PEM of a client certificate with any number of common names."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)]
    subject += [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(x509.Name(subject))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOT_AFTER)
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(Encoding.PEM).decode("ascii")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), ""),
        (("root",), "root"),
        (("root", "kube-apiserver"), ""),
        (("root", "root"), ""),
        (("système",), "système"),
        (("a,CN=root",), "a,CN=root"),
    ],
)
def test_the_common_name(names: tuple[str, ...], expected: str) -> None:
    peer = peer_certificate(certificate(*names))
    assert peer.caller == (Caller(expected) if expected else None)
    assert peer.not_before == NOW.timestamp()
    assert peer.not_after == NOT_AFTER.timestamp()


def caller(pem: str, now: float) -> str:
    verifier = TokenVerifier(authenticator_with(), lambda: now)
    store = AuthStore.loaded(MemoryBackend())
    callers = Callers(store, NopTokens(), verifier, ISSUER, (AUDIENCE,), lambda: now)
    request = Request("POST", "/", certificate=pem)
    return require_identity(asyncio.run(settled(callers.find(request)))).username


@pytest.mark.parametrize(
    ("pem", "now", "words"),
    [
        ("", NOW, "no identity"),
        (certificate("root"), NOW - timedelta(seconds=1), "not valid at"),
        (certificate("root"), NOT_AFTER + timedelta(seconds=1), "not valid at"),
        (certificate(), NOW, "exactly one common name"),
        (certificate("root", "root"), NOW, "exactly one common name"),
    ],
)
def test_who_is_nobody(pem: str, now: datetime, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        caller(pem, now.timestamp())
    assert caught.value.code == 401
    assert [name for name, _ in caught.value.headers] == [b"www-authenticate"]


@pytest.mark.parametrize("now", [NOW, NOT_AFTER])
def test_the_caller_is_the_common_name(now: datetime) -> None:
    assert caller(certificate("root"), now.timestamp()) == "root"


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Shake hands in memory; return the server's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    waiting = [theirs, ours]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            return ours
    raise AssertionError("no handshake")


@pytest.mark.parametrize(
    ("version", "expected"),
    [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")],
)
@pytest.mark.parametrize("user", ["", "kube-apiserver"])
def test_the_certificate_of_a_handshake(
    tmp_path: Path, version: ssl.TLSVersion, expected: str, user: str
) -> None:
    now = datetime.now(UTC)
    ca = make_ca("leeway CA", now)
    pairs = {
        "server": make_server_certificate(ca, "leeway", ["localhost"], now),
        "client": make_client_certificate(ca, user or "-", now),
    }
    (tmp_path / "ca.crt").write_bytes(ca.certificate)
    for name, pair in pairs.items():
        (tmp_path / f"{name}.crt").write_bytes(pair.certificate)
        (tmp_path / f"{name}.key").write_bytes(pair.private_key)
    ca_file = tmp_path / "ca.crt"
    context = server_context(
        TLSFiles(tmp_path / "server.crt", tmp_path / "server.key", ca_file, None)
    )
    client = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["h2", "http/1.1"])
    if user:
        client.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
    ours = handshake(context, client)
    assert ours.version() == expected
    assert ours.selected_alpn_protocol() == "http/1.1"
    pem = certificate_of(ours)
    if user:
        assert peer_certificate(pem).caller == Caller(user)
        assert caller(pem, now.timestamp()) == user
    else:
        assert pem == ""


LISTS = ["none", "good", "expired", "not yet valid", "another CA's"]


@pytest.mark.bad_input(34)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", LISTS)
def test_revoked(tmp_path: Path, kind: str, version: ssl.TLSVersion) -> None:
    """Who is revoked is refused, and with a list that cannot be used everybody is."""
    now = datetime.now(UTC)
    ca = make_ca("leeway CA", now)
    pairs = {user: make_client_certificate(ca, user, now) for user in ("alice", "bob")}
    pairs["server"] = make_server_certificate(ca, "leeway", ["localhost"], now)
    for name, pair in pairs.items():
        (tmp_path / f"{name}.crt").write_bytes(pair.certificate)
        (tmp_path / f"{name}.key").write_bytes(pair.private_key)
    (tmp_path / "ca.crt").write_bytes(ca.certificate)
    revoked = [pairs["alice"].certificate]
    day = timedelta(days=1)
    lists = {
        "good": revocation_list(ca, revoked),
        "expired": revocation_list(ca, revoked, now - 2 * day, now - day),
        "not yet valid": revocation_list(ca, revoked, now + day),
        "another CA's": revocation_list(make_ca("other CA", now), revoked),
    }
    crl = None
    if kind in lists:
        crl = tmp_path / "ca.crl"
        crl.write_bytes(lists[kind])
    files = (tmp_path / "server.crt", tmp_path / "server.key", tmp_path / "ca.crt")
    context = server_context(TLSFiles(*files, crl))
    accepted = {"none": {"", "alice", "bob"}, "good": {"", "bob"}}.get(kind, {""})
    for user in ("", "alice", "bob"):
        client = ssl.create_default_context(cafile=tmp_path / "ca.crt")
        client.minimum_version = client.maximum_version = version
        if user:
            client.load_cert_chain(tmp_path / f"{user}.crt", tmp_path / f"{user}.key")
        if user in accepted:
            assert bool(handshake(context, client).getpeercert(binary_form=True)) == bool(user)
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                handshake(context, client)


def test_the_context_takes_nothing_old_and_resumes_nothing(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ca = make_ca("leeway CA", now)
    pair = make_server_certificate(ca, "leeway", ["localhost"], now)
    for name, data in (("ca.crt", ca.certificate), ("s.crt", pair.certificate)):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "s.key").write_bytes(pair.private_key)
    context = server_context(
        TLSFiles(tmp_path / "s.crt", tmp_path / "s.key", tmp_path / "ca.crt", None)
    )
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_OPTIONAL
    assert context.num_tickets == 0
    for option in (ssl.OP_NO_TICKET, ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION):
        assert context.options & option
    with pytest.raises(OSError, match="No such file"):
        server_context(
            TLSFiles(tmp_path / "none.crt", tmp_path / "s.key", tmp_path / "ca.crt", None)
        )
