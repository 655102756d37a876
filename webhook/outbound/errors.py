"""Errors of requests to other servers.

A message contains neither the URL nor anything that was sent: the caller knows what it can name.
"""

import http.client
import ssl

from keys.messages import could_be_secret
from webhook.errors import LeewayError


class OutboundError(LeewayError):
    """Base of these errors; never raised itself."""


class CertificateRefusedError(OutboundError):
    """The server's certificate is not valid for its host, or its CA is not trusted."""

    def __init__(self, why: str) -> None:
        super().__init__(f"its certificate is not accepted: {why}")
        self.why = why


class NotListeningError(OutboundError):
    """No process listens at the address."""


class RequestFailedError(OutboundError):
    """No complete response: no connection, too late, cut off, too large, or not HTTP."""


def outbound_error(error: Exception, seconds: float) -> OutboundError:
    """Return the error for an exception of a socket, of TLS or of ``http.client``.

    ``seconds`` is the time limit of the request.
    """
    if isinstance(error, OutboundError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        # Its message may name the host of the request.
        why = error.verify_message
        why = "it is for another host" if could_be_secret(why) else why
        return CertificateRefusedError(why)
    if isinstance(error, TimeoutError):
        return RequestFailedError(f"it did not answer in full within {seconds:g}s")
    if isinstance(error, OSError):
        return _unreachable(error)
    return RequestFailedError(f"its answer is not HTTP: {type(error).__name__}")


def _unreachable(error: OSError) -> OutboundError:
    if isinstance(error, ConnectionRefusedError):
        return NotListeningError("it cannot be reached: Connection refused")
    if isinstance(error, ssl.SSLEOFError | http.client.RemoteDisconnected):
        return RequestFailedError("the connection was cut before the end of the answer")
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "unknown").replace("_", " ").lower()
        return RequestFailedError(f"TLS with it failed: {reason[:256]}")
    return RequestFailedError(f"it cannot be reached: {(error.strerror or 'unknown')[:256]}")
