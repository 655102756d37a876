"""Why nothing usable came from a server.

A message says so in a few words, without the URL and without anything that was sent: the caller
knows what it may name.
"""

import http.client
import ssl

from keys.messages import could_be_secret
from webhook.errors import LeewayError


class OutboundError(LeewayError):
    """Base of all. Never raised itself."""


class CertificateRefusedError(OutboundError):
    """The server's certificate is not good for its host, or its CA is not trusted."""

    def __init__(self, why: str) -> None:
        super().__init__(f"its certificate is not accepted: {why}")
        self.why = why


class DeadlineExceededError(OutboundError):
    """The answer was not complete at the deadline."""


class NotListeningError(OutboundError):
    """No process listens at the address."""


class UnreachableError(OutboundError):
    """No connection, no TLS session, or the connection ended before the answer did."""


class BadAnswerError(OutboundError):
    """What was answered is not HTTP, or too large."""


def outbound_error(error: Exception, seconds: float) -> OutboundError:
    """Return what an exception of a socket, of TLS or of ``http.client`` means.

    ``seconds`` is the time that there was for the request.
    """
    if isinstance(error, OutboundError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        # Which may name the host that was asked for.
        why = error.verify_message
        why = "it is for another host" if could_be_secret(why) else why
        return CertificateRefusedError(why)
    if isinstance(error, TimeoutError):
        return DeadlineExceededError(f"it did not answer in full within {seconds:g}s")
    if isinstance(error, OSError):
        return _unreachable(error)
    return BadAnswerError(f"its answer is not HTTP: {type(error).__name__}")


def _unreachable(error: OSError) -> OutboundError:
    if isinstance(error, ConnectionRefusedError):
        return NotListeningError("it cannot be reached: Connection refused")
    if isinstance(error, ssl.SSLEOFError | http.client.RemoteDisconnected):
        return UnreachableError("the connection was cut before the end of the answer")
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "unknown").replace("_", " ").lower()
        return UnreachableError(f"TLS with it failed: {reason[:256]}")
    return UnreachableError(f"it cannot be reached: {(error.strerror or 'unknown')[:256]}")
