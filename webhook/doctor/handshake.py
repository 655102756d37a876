"""A TLS handshake in memory: what OpenSSL says about a certificate and its chain.

The server's side is configured as in a running Leeway. Certificates are judged at the present time.
"""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from cryptography import x509

from keys.pki import make_ca, make_server_certificate
from webhook.config.paths import TLSFiles
from webhook.doctor.certificates import SERVER_USAGE
from webhook.server.connection.tls import server_context

_ROUNDS: Final = 16
"""More than any handshake takes."""


def refusal(pem: bytes, private_key: bytes, ca: bytes, usage: x509.ObjectIdentifier) -> str:
    """Return why a handshake fails with a certificate, in OpenSSL's words; empty if it succeeds.

    ``pem`` is the certificate with its intermediate ones, ``usage`` the side that presents it.
    """
    now = datetime.now(UTC)
    other_ca = make_ca("doctor", now)
    other = make_server_certificate(other_ca, "doctor", ["localhost"], now)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    try:
        with ExitStack() as stack:
            certificate, key, authorities, other_certificate, other_key = (
                stack.enter_context(_path(data))
                for data in (pem, private_key, ca, other.certificate, other.private_key)
            )
            if usage == SERVER_USAGE:
                server = server_context(TLSFiles(certificate, key, authorities, None))
                client.load_verify_locations(authorities)
            else:
                files = TLSFiles(other_certificate, other_key, authorities, None)
                server = server_context(files)
                server.verify_mode = ssl.CERT_REQUIRED
                client.load_verify_locations(cadata=other_ca.certificate.decode("ascii"))
                client.load_cert_chain(certificate, key)
            _shake_hands(server, client)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except ssl.SSLError as error:
        return str(error.reason or error).replace("_", " ").lower()
    return ""


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Run a handshake between two contexts. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(_ROUNDS):
        for side in sides[:]:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)
    if sides:
        raise ssl.SSLError("the handshake does not end")


@contextmanager
def _path(data: bytes) -> Iterator[Path]:
    """Yield a path at which this process can read the data, of a file without a name."""
    with TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        yield Path(f"/dev/fd/{file.fileno()}")
