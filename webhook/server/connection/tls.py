"""TLS of the server: the context, and the certificates of clients.

Invariants:

1. Nothing below TLS 1.2. No session is resumed (``handshake.py``), so the certificate of every
   connection is checked.
2. A client need not send a certificate; one that it sends must chain to our CA and be meant for
   clients, or the handshake fails.
3. Where there is a list of revoked certificates, it must be a good one for the CA of each client
   certificate at the time of the handshake, or the handshake fails.
4. A change of the CA or the list ends the connections whose certificate it no longer accepts
   (``client_trust.py``).
"""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from keys.crl import RevocationLists, check_revocation_lists
from keys.files import read_public_file
from webhook.config.paths import TLSFiles, check_tls_files
from webhook.errors import DataDirectoryError
from webhook.server.connection.client_trust import ClientTrust
from webhook.server.connection.handshake import ServerContext

_VERSIONS: Final = ("TLSv1.2", "TLSv1.3")


def load_context(files: TLSFiles) -> ServerContext:
    """Make the context of the listening port.

    Raises DataDirectoryError for files that do not fit each other, and the errors of ``keys`` for
    those that cannot be used.
    """
    check_tls_files(files)
    if files.client_crl is not None:
        revocations_of(files, files.client_crl)
    try:
        context = server_context(files)
    except ssl.SSLError as error:
        raise DataDirectoryError(
            f"{files.certificate}, {files.private_key.name} and {files.client_ca.name} beside it "
            f"cannot be served with: {error.strerror or error}; restore them, or remove the broken "
            "pair and run `leeway init`"
        ) from error
    lists = b"" if files.client_crl is None else read_public_file(files.client_crl)
    # Invariant 4.
    context.trust = ClientTrust(read_public_file(files.client_ca), lists)
    return context


def revocations_of(files: TLSFiles, lists: Path) -> RevocationLists:
    """Check the lists of revoked client certificates. Raises the errors of ``keys.crl``."""
    authorities = read_public_file(files.client_ca)
    return check_revocation_lists(
        read_public_file(lists), authorities, datetime.now(UTC), str(lists)
    )


def server_context(files: TLSFiles) -> ServerContext:
    """Make a context of files that have been checked. Raises OSError (ssl.SSLError)."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # Invariant 1.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0

    def no_password() -> str:
        # Without this OpenSSL would prompt on the terminal.
        raise DataDirectoryError(
            f"{files.private_key} is encrypted, and a server knows no password; write it without "
            f"one with `openssl pkey -in {files.private_key.name} -out NEW.key`"
        )

    context.load_cert_chain(files.certificate, files.private_key, no_password)
    context.load_verify_locations(files.client_ca)
    context.verify_mode = ssl.CERT_OPTIONAL  # Invariant 2.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if files.client_crl is not None:
        context.load_verify_locations(files.client_crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF  # Invariant 3.
    context.set_alpn_protocols(["http/1.1"])
    return context


def certificate_of(connection: ssl.SSLObject) -> str:
    """Return the client's certificate in PEM, empty where it has shown none."""
    der = connection.getpeercert(binary_form=True) if connection.version() in _VERSIONS else None
    return ssl.DER_cert_to_PEM_cert(der) if der else ""
