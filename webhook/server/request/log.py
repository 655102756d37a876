"""The log of requests: refused tokens, denials, errors, audit lines.

Invariants:

1. A client cannot cause more than ``LINES_A_SECOND`` lines of a kind in a worker,
   ``HANDSHAKES_A_SECOND`` of failed handshakes, and ``CRASHES_A_SECOND`` with a traceback: see
   ``BoundedLog``. Changes are always logged, and a limit that was reached once a second.
2. A token is never logged, only its fingerprint; its issuer and subject only if its signature is
   valid.
"""

import logging
from typing import Any, Final

from webhook.errors import HandshakeFailure, Reason
from webhook.server.request.message import Request
from webhook.telemetry.audit import DONE, UNKNOWN, Audit, audit_fields, audit_message, fingerprint
from webhook.telemetry.bounded_log import BoundedLog
from webhook.telemetry.log_lines import Fields
from webhook.telemetry.logs import AUDIT_LOGGER, LOGGER
from webhook.telemetry.metrics import Limit
from webhook.token.outcome import Authenticated, Outcome

CRASHES_A_SECOND: Final = 10
HANDSHAKES_A_SECOND: Final = 10
_OVER_LIMIT: Final[dict[Limit, str]] = {
    "login": "log-ins were refused because too many were waiting",
    "connection": "connections without a client certificate were closed because there were too "
    "many; server.maxAnonymousConnections is the limit",
    "file": "connections have to wait because this process has no file descriptor left; raise its "
    "limit (ulimit -n, LimitNOFILE= in systemd)",
}
_MAX_PATH: Final = 256
_logger = logging.getLogger(LOGGER)
_audit_logger = logging.getLogger(AUDIT_LOGGER)


class RequestLog:
    """The log of one worker."""

    def __init__(self) -> None:
        self._reviews = BoundedLog("tokenreview")
        self._decisions = BoundedLog("accessreview")
        self._denials = BoundedLog("denied")
        self._requests = BoundedLog("request")
        self._crashes = BoundedLog("crash", CRASHES_A_SECOND)
        self._handshakes = BoundedLog("handshake", HANDSHAKES_A_SECOND)
        self._failed_audits = BoundedLog("audit")
        self._limits = {what: BoundedLog("over-limit", 1) for what in _OVER_LIMIT}

    def reviewed(self, request: Request, token: str, outcome: Outcome, seconds: float) -> None:
        """Log the outcome of a TokenReview; an accepted token only at level debug."""
        if isinstance(outcome, Authenticated):
            level, message, reason = logging.DEBUG, "token accepted", None
        else:
            reason = outcome.error.reason
            failed = reason is Reason.LOOKUP_FAILED
            level = logging.WARNING if failed else logging.INFO
            message = str(outcome.error)

        def fields() -> Fields:
            claims = outcome.claims
            return {
                "event": "tokenreview",
                "requestId": request.id,
                **_who(request),
                "fingerprint": fingerprint(token),  # Invariant 2.
                "reason": reason,
                "issuer": claims.issuer if claims else None,
                "subject": claims.subject if claims else None,
                "durationMs": round(seconds * 1000, 3),
            }

        self._reviews.log(_logger, level, message, fields)

    def decided(self, request: Request, user: str, reason: str, *, allowed: bool) -> None:
        """Log an answer about permissions at level debug."""
        if not _logger.isEnabledFor(logging.DEBUG):
            return

        def fields() -> Fields:
            return {
                "event": "accessreview",
                "requestId": request.id,
                **_who(request),
                "user": user,
                "allowed": allowed,
            }

        self._decisions.log(_logger, logging.DEBUG, reason, fields)

    def answered(self, request: Request, code: int, message: str) -> None:
        """Log an answer of 400 or more."""
        denied = code in (401, 403)
        log = self._denials if denied else self._requests
        level = logging.ERROR if code >= 500 else logging.INFO
        event = "denied" if denied else "request"
        log.log(_logger, level, message, lambda: _request_fields(event, request, code))

    def crashed(self, request: Request, error: BaseException) -> None:
        """Log an unexpected exception."""
        self._crashes.log(
            _logger,
            logging.ERROR,
            "a request failed",
            lambda: _request_fields("request", request, 500),
            error,
        )

    def over_limit(self, what: Limit) -> None:
        """Log that a limit was reached."""
        fields: Fields = {"event": "over-limit", "what": what}
        self._limits[what].log(_logger, logging.WARNING, _OVER_LIMIT[what], lambda: fields)

    def handshake_failed(self, failure: HandshakeFailure, why: str, address: str) -> None:
        """Log a TLS handshake that failed; at level debug if the client left."""
        fields: Fields = {"event": "handshake", "reason": failure, "address": address}
        is_quiet = failure is HandshakeFailure.UNFINISHED
        level = logging.DEBUG if is_quiet else logging.INFO
        self._handshakes.log(_logger, level, f"a TLS handshake failed: {why}", lambda: fields)

    def audit_of(self, request: Request) -> Audit:
        """Return a function that writes audit lines of a request."""

        def audit(action: str, outcome: str, fields: Fields) -> None:
            message = audit_message(action, outcome)

            def made() -> Fields:
                who = _who(request) | {"requestId": request.id}
                return audit_fields(action, outcome, "server", who, fields)

            if outcome in (DONE, UNKNOWN):
                _audit_logger.info("%s", message, extra={"fields": made()})
            else:
                self._failed_audits.log(_audit_logger, logging.INFO, message, made)

        return audit


def _who(request: Request) -> dict[str, Any]:
    caller = request.caller
    if caller is None or not caller.username:
        return {}
    if caller.impersonator:
        return {"caller": caller.impersonator, "actingAs": caller.username}
    return {"caller": caller.username}


def _request_fields(event: str, request: Request, code: int) -> Fields:
    return {
        "event": event,
        "requestId": request.id,
        **_who(request),
        "fingerprint": _shown_token(request),
        "code": code,
        "method": request.method[:16],
        "path": request.path[:_MAX_PATH],
    }


def _shown_token(request: Request) -> str | None:
    # Only if it can be a token of ours: the hash of a Basic password must not be logged.
    value = request.header(b"authorization")
    kind, _, token = (value or b"").decode("latin-1").strip().rpartition(" ")
    return fingerprint(token) if token and kind.lower() in ("", "bearer") else None
