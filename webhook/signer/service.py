"""The three calls of ExternalJWTSigner v1: bytes in, bytes out.

Invariants:

1. A signature covers exactly the segment that was received, and only after all checks.
2. A refusal has the same text for all reasons, because kube-apiserver passes it on to the client
   that requested the token. The reason is in the log and in the metrics.
3. Every token that is signed has an audit line.
4. A key that is no longer active signs no token that lives longer than the key verifies.
5. Nothing is signed or fetched while the keys may not be the newest ones.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Protocol

import grpc
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from keys.jws import sign_segment
from webhook.errors import LeewayError
from webhook.signer.external_jwt_pb2 import (
    FetchKeysResponse,
    Key,
    MetadataResponse,
    SignJWTRequest,
    SignJWTResponse,
)
from webhook.signer.key_set import KeySet
from webhook.signer.policy import ClaimsRefusedError, Refusal, SigningPolicy, check_claims
from webhook.telemetry.audit import DONE, audit_fields, audit_message, token_fields
from webhook.telemetry.bounded_log import BoundedLog
from webhook.telemetry.log_lines import Fields
from webhook.telemetry.logs import AUDIT_LOGGER, LOGGER, log_event
from webhook.telemetry.signer_metrics import OK, SignerMetrics
from webhook.token.claims import Claims

SIGN: Final = "Sign"
FETCH_KEYS: Final = "FetchKeys"
METADATA: Final = "Metadata"
DEADLINE: Final = "Deadline"
FAILED: Final = "Failed"
NO_KEY: Final = "NoKey"
OVERLOADED: Final = "Overloaded"
RESULTS: Final[Mapping[str, Sequence[str]]] = {
    SIGN: [*Refusal, DEADLINE, FAILED, NO_KEY, OVERLOADED],
    FETCH_KEYS: [NO_KEY, OVERLOADED],
    METADATA: [OVERLOADED],
}
"""The results of each method, besides ``ok``."""
_NOT_ACTIVE: Final = (
    "the active key cannot be used for kube-apiserver, and the one from before does not verify for "
    "as long as the token would live; see `leeway doctor`"
)
_ACTION: Final = "token.sign"
_MESSAGE: Final = audit_message(_ACTION, DONE)
_logger = logging.getLogger(LOGGER)
_audit_logger = logging.getLogger(AUDIT_LOGGER)


class CallRefusedError(LeewayError):
    """A call that is refused; its text tells a client nothing (invariant 2)."""

    def __init__(self, result: str, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.result = result
        self.code = code


class Call(Protocol):
    """The part of ``grpc.ServicerContext`` that a call needs."""

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline of the caller, None without one."""

    def is_active(self) -> bool:
        """Return whether the caller still waits for the answer."""


class Skew(Protocol):
    """Records how far the clock of kube-apiserver is ahead."""

    def see(self, claims: Claims, now: float) -> None:
        """Record claims of our issuer."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is signed, with which keys, and how often (seconds) kube-apiserver fetches them.

    No token expires after ``latest_expiry`` (Unix seconds), which is None while the key is active.
    """

    policy: SigningPolicy
    keys: KeySet
    refresh_seconds: int
    latest_expiry: int | None = None


class ExternalJWTSigner:
    """The service. ``clock`` returns Unix seconds. Safe for threads.

    ``keys_problem`` returns why the keys may not be the newest ones, empty if they are.
    """

    def __init__(
        self,
        terms: Terms,
        metrics: SignerMetrics,
        skew: Skew,
        clock: Callable[[], float],
        keys_problem: Callable[[], str] = lambda: "",
    ) -> None:
        self._metrics = metrics
        self._skew = skew
        self._clock = clock
        self._keys_problem = keys_problem
        self._refusals = BoundedLog("sign")
        self.use(terms)

    def use(self, terms: Terms) -> None:
        """Sign under other terms from the next call on."""
        # First, so that a key can be fetched before it signs.
        self._key_response = _key_response(terms)
        metadata = MetadataResponse(max_token_expiration_seconds=terms.policy.max_seconds)
        self._metadata_response = metadata.SerializeToString()
        self._terms = terms

    def sign(self, request: bytes, call: Call) -> bytes:
        """Sign claims, given a SignJWTRequest. Raises CallRefusedError."""
        began = perf_counter()
        result: str = FAILED
        try:
            signed = self._sign(request, call)
            result = OK
        except ClaimsRefusedError as error:
            result = error.reason
            self._log_refused(error)
            raise CallRefusedError(
                result, grpc.StatusCode.INVALID_ARGUMENT, "the claims were refused"
            ) from None
        except CallRefusedError as error:
            result = error.result
            raise
        finally:
            self._metrics.count(SIGN, result, perf_counter() - began)
        return signed

    def fetch_keys(self, _request: bytes, _call: Call) -> bytes:
        """Return a FetchKeysResponse. Raises CallRefusedError."""
        if self._keys_problem():  # Invariant 5.
            self._metrics.count(FETCH_KEYS, NO_KEY)
            raise _no_key()
        self._metrics.count(FETCH_KEYS, OK)
        return self._key_response

    def metadata(self, _request: bytes, _call: Call) -> bytes:
        """Return a MetadataResponse."""
        self._metrics.count(METADATA, OK)
        return self._metadata_response

    def _sign(self, request: bytes, call: Call) -> bytes:
        terms, now = self._terms, self._clock()
        try:
            segment = SignJWTRequest.FromString(request).claims
        except DecodeError as error:
            raise ClaimsRefusedError(
                Refusal.MALFORMED, "the request is not a SignJWTRequest"
            ) from error
        try:
            claims = check_claims(segment, now, terms.policy)
        except ClaimsRefusedError as error:
            if error.claims is not None:
                self._skew.see(error.claims, now)
            raise
        self._skew.see(claims, now)
        remaining = call.time_remaining()
        if (remaining is not None and remaining <= 0) or not call.is_active():
            # Nobody waits for the signature, which takes longer than all the rest.
            raise CallRefusedError(
                DEADLINE, grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed"
            )
        problem = self._keys_problem()
        if problem:  # Invariant 5.
            self._log_no_key(claims, problem)
            raise _no_key()
        latest = terms.latest_expiry
        if latest is not None and (claims.expires_at or 0) > latest:  # Invariant 4.
            self._log_no_key(claims, _NOT_ACTIVE)
            raise _no_key()
        key = terms.keys.signing_key
        header, signature = sign_segment(segment.encode("ascii"), key)  # Invariant 1.
        self._audit(claims, f"{header.decode()}.{segment}.{signature.decode()}", terms.keys.kid)
        return SignJWTResponse(
            header=header.decode(), signature=signature.decode()
        ).SerializeToString()

    def _audit(self, claims: Claims, token: str, kid: str) -> None:
        # Invariant 3.
        fields = {**token_fields(claims, token), "kid": kid}
        line = audit_fields(_ACTION, DONE, "signer", {}, fields)
        log_event(_audit_logger, logging.INFO, _MESSAGE, line)

    def _log_refused(self, error: ClaimsRefusedError) -> None:
        def fields() -> Fields:
            claims = error.claims
            return {
                "event": "sign",
                "reason": error.reason,
                "subject": claims.subject if claims else None,
                "skewSeconds": None if error.skew is None else round(error.skew, 1),
            }

        self._refusals.log(_logger, logging.WARNING, f"a token was not signed: {error}", fields)

    def _log_no_key(self, claims: Claims, why: str) -> None:
        fields: Fields = {"event": "sign", "reason": NO_KEY, "subject": claims.subject}
        message = f"a token was not signed: {why}"
        self._refusals.log(_logger, logging.ERROR, message, lambda: fields)


def _no_key() -> CallRefusedError:
    return CallRefusedError(NO_KEY, grpc.StatusCode.UNAVAILABLE, "no key can sign")


def _key_response(terms: Terms) -> bytes:
    seconds, nanoseconds = terms.keys.timestamp
    response = FetchKeysResponse(
        keys=[
            Key(
                key_id=key.kid,
                key=key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            )
            for key in terms.keys.published
        ],
        data_timestamp=Timestamp(seconds=seconds, nanos=nanoseconds),
        refresh_hint_seconds=terms.refresh_seconds,
    )
    return response.SerializeToString(deterministic=True)
