"""Files with certificates and keys: which are used, and that they are followed."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from keys import pki
from keys.pki import CertifiedKey
from tests.scripted_etcd import HEADER, HOST, ScriptedEtcd, until_cancelled
from tests.secrets_made import key_made
from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.client import EtcdClient
from webhook.etcd.credentials import EtcdLogin, EtcdTLS, TLSFiles, read_material
from webhook.etcd.errors import CredentialFileError, NotSentError

NOW = datetime.now(UTC)
LONG = 20.0


class Files(NamedTuple):
    """A CA, and the certificates that it issued, in a folder."""

    ca: CertifiedKey
    folder: Path

    @property
    def tls(self) -> EtcdTLS:
        return EtcdTLS(*(str(self.folder / name) for name in ("ca.crt", "c.crt", "c.key")))

    def issue(self, name: str) -> CertifiedKey:
        made = pki.make_client_certificate(self.ca, name, NOW)
        key_made(made.private_key)
        return made

    def write(self, name: str, data: bytes) -> None:
        new = self.folder / "new"
        new.unlink(missing_ok=True)
        new.touch(0o600)
        new.write_bytes(data)
        new.replace(self.folder / name)

    def write_pair(self, pair: CertifiedKey) -> None:
        self.write("c.crt", pair.certificate)
        self.write("c.key", pair.private_key)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(pki.make_ca("etcd", NOW), tmp_path)
    key_made(files.ca.private_key)
    files.write("ca.crt", files.ca.certificate)
    files.write_pair(files.issue("one"))
    return files


@pytest.fixture
def etcd(files: Files) -> Iterator[ScriptedEtcd]:
    """A member that needs a client certificate, and answers a Range with its CN."""
    pair = pki.make_server_certificate(files.ca, "etcd", [HOST], NOW)
    key_made(pair.private_key)
    credentials = grpc.ssl_server_credentials(
        [(pair.private_key, pair.certificate)], files.ca.certificate, require_client_auth=True
    )

    def name(_request: object, context: grpc.ServicerContext) -> rpc.RangeResponse:
        names: Sequence[Any] = context.auth_context()["x509_common_name"]
        return rpc.RangeResponse(header=HEADER, kvs=[rpc.KeyValue(key=names[0])])

    with ScriptedEtcd(credentials) as etcd:
        etcd.on["Range"] = name
        yield etcd


def common_name(client: EtcdClient) -> bytes:
    return client.range(b"k", timeout=LONG).kvs[0].key


def test_the_material(files: Files) -> None:
    material = read_material(files.tls)
    assert material.authorities == files.ca.certificate
    assert material.certificate == (files.folder / "c.crt").read_bytes()
    assert material.private_key == (files.folder / "c.key").read_bytes()
    assert "PRIVATE" not in repr(material)
    assert "PRIVATE" not in repr(files.tls)


def test_without_files() -> None:
    material = read_material(EtcdTLS())
    assert (material.authorities, material.certificate, material.private_key) == (None, None, None)


@pytest.mark.parametrize("names", [("", "a", ""), ("", "", "a")])
def test_a_certificate_and_its_key_belong_together(names: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match="needs both"):
        EtcdTLS(*names)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("ca.crt", None, "ca.crt is missing"),
        ("ca.crt", b"", "ca.crt is empty"),
        ("ca.crt", b"-----BEGIN CERTIFICATE-----\nMIIB", "ca.crt is not a certificate in PEM"),
        ("c.crt", b"text", "c.crt is not a certificate in PEM"),
        ("c.key", b"text", "c.key is not a private key in PEM without a password"),
        ("c.key", "another", r"c.key is not the key of the certificate in \S+c.crt"),
        ("c.key", "open", "c.key can be read by group or others"),
    ],
    ids=["no CA", "empty", "cut", "no certificate", "no key", "another key", "open key"],
)
def test_files_that_cannot_be_used(
    name: str, content: bytes | str | None, why: str, files: Files
) -> None:
    path = files.folder / name
    if content is None:
        path.unlink()
    elif content == "open":
        path.chmod(0o644)
    else:
        data = files.issue("two").private_key if isinstance(content, str) else content
        files.write(name, data)
    client = EtcdClient([f"https://{HOST}:1"], files.tls)
    with pytest.raises(CredentialFileError, match=why) as caught:
        client.txn([], [])
    assert caught.value.is_definite
    with pytest.raises(CredentialFileError):
        client.range(b"k", hedge=0.1)
    assert "PRIVATE" not in str(caught.value)


def test_an_encrypted_key(files: Files) -> None:
    files.write("c.key", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED")
    with pytest.raises(CredentialFileError, match="without a password"):
        read_material(files.tls)


def test_files_are_looked_at_once_a_second(files: Files) -> None:
    now = [100.0]
    followed = TLSFiles(files.tls, lambda: now[0])
    first = followed.material()
    files.write_pair(files.issue("two"))
    assert followed.material() is first
    now[0] += 0.9
    assert followed.material() is first
    now[0] += 0.2
    second = followed.material()
    assert second.certificate == (files.folder / "c.crt").read_bytes()
    now[0] += 2.0
    assert followed.material() is second
    # The same content in another file is no reason for another connection.
    files.write("c.crt", (files.folder / "c.crt").read_bytes())
    now[0] += 2.0
    assert followed.material() is second


def test_what_is_in_use_stays_until_the_files_fit_together(files: Files) -> None:
    now = [100.0]
    followed = TLSFiles(files.tls, lambda: now[0])
    first = followed.material()
    pair = files.issue("two")
    files.write("c.crt", pair.certificate)
    now[0] += 2.0
    assert followed.material() is first
    assert followed.problem.endswith("; what was read before stays in use")
    files.write("c.key", pair.private_key)
    followed.poll_soon()
    assert followed.material().private_key == pair.private_key
    assert not followed.problem
    (files.folder / "ca.crt").unlink()
    now[0] += 2.0
    assert followed.material().private_key == pair.private_key
    assert "is missing" in followed.problem


def test_a_new_certificate_gets_a_new_connection(etcd: ScriptedEtcd, files: Files) -> None:
    client = EtcdClient([etcd.url], files.tls)
    assert common_name(client) == b"one"
    files.write_pair(files.issue("two"))
    client._channels.poll_soon()
    assert common_name(client) == b"two"
    assert client.problem == ""
    client.close()


def test_the_old_connection_stays_as_long_as_it_is_used(etcd: ScriptedEtcd, files: Files) -> None:
    def watch(_request: object, context: grpc.ServicerContext) -> Iterator[rpc.WatchResponse]:
        yield rpc.WatchResponse(header=HEADER, created=True)
        yield rpc.WatchResponse(header=HEADER)
        until_cancelled(context)

    etcd.on["Watch"] = watch
    client = EtcdClient([etcd.url], files.tls)
    watching = client.watch(b"k", timeout=LONG)
    files.write_pair(files.issue("two"))
    client._channels.poll_soon()
    assert common_name(client) == b"two"
    assert len(client._channels._retired) == 1
    assert next(watching).events == ()
    watching.close()
    assert common_name(client) == b"two"
    assert client._channels._retired == []
    client.close()


def test_a_refused_connection_has_the_files_read_again(etcd: ScriptedEtcd, files: Files) -> None:
    """An expired or revoked certificate may have been replaced less than a second ago."""
    other = pki.make_ca("other", NOW)
    key_made(other.private_key)
    files.write("ca.crt", other.certificate)
    client = EtcdClient([etcd.url], files.tls)
    with pytest.raises(NotSentError, match="check the CA file"):
        client.range(b"k", timeout=LONG)
    files.write("ca.crt", files.ca.certificate)
    assert common_name(client) == b"one"
    client.close()


def test_a_member_that_does_not_accept_the_certificate(etcd: ScriptedEtcd, files: Files) -> None:
    client = EtcdClient([etcd.url], EtcdTLS(files.tls.ca_file))
    with pytest.raises(NotSentError) as caught:
        client.txn([], [], timeout=LONG)
    assert etcd.calls == []
    assert caught.value.is_definite
    client.close()


def test_without_encryption_no_file_is_read() -> None:
    with ScriptedEtcd() as etcd:
        etcd.on["Range"] = lambda *_: rpc.RangeResponse(header=HEADER)
        client = EtcdClient([etcd.url], EtcdTLS("/nowhere"))
        client.range(b"k", timeout=LONG)
        client.close()


def test_a_password_is_the_text_of_the_file_without_its_last_line_end(tmp_path: Path) -> None:
    path = tmp_path / "password"
    for content, password in ((b"a b\n", "a b"), (b"a\r\n", "a"), (b" a\n\n", " a\n"), (b"a", "a")):
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(content)
        assert EtcdLogin("u", str(path)).read_password() == password
