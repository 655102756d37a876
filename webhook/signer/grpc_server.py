"""The gRPC side of the signer: methods, limits, and how a refusal becomes a status.

Invariants:

1. No more than ``MAX_CALLS`` calls wait or are answered, and no message is larger than
   ``MAX_MESSAGE_BYTES``: gRPC refuses the rest before it reaches the service.
2. Only the text of a CallRefusedError reaches kube-apiserver; gRPC itself would send the text of
   every exception.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from time import monotonic, sleep
from typing import Any, Final, TypeAlias, TypeVar

import grpc

from webhook.errors import DataDirectoryError
from webhook.signer.service import (
    FAILED,
    FETCH_KEYS,
    METADATA,
    OVERLOADED,
    SIGN,
    CallRefusedError,
    ExternalJWTSigner,
)
from webhook.telemetry.bounded_log import BoundedLog
from webhook.telemetry.log_lines import Fields
from webhook.telemetry.logs import LOGGER
from webhook.telemetry.signer_metrics import SignerMetrics

SERVICE: Final = "v1.ExternalJWTSigner"
MAX_CALLS: Final = 1024
MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
"""More than the policy accepts, so that the policy can log why it refuses claims of 1 MB."""
# A signature holds the interpreter's lock, so more threads sign no faster; but with 2 to 4 of them
# a call takes 20 µs more, in which a thread is woken up.
_THREADS: Final = 16
_IDLE_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.0005
_CRASHES_A_SECOND: Final = 10
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),  # Invariant 1.
    ("grpc.max_metadata_size", 16 * 1024),
    # gRPC core refuses calls at random when more wait to be accepted, and as CANCELLED.
    ("grpc.server.max_pending_requests", 4 * MAX_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 8 * MAX_CALLS),
    # Connections that do not begin with HTTP/2, and those whose client has gone, are closed.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
_Result = TypeVar("_Result")
_Method = Callable[[bytes, grpc.ServicerContext], bytes]
_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes] | None"
_logger = logging.getLogger(LOGGER)


class GRPCServer:
    """Serves on a Unix socket."""

    def __init__(self, service: ExternalJWTSigner, metrics: SignerMetrics) -> None:
        self._pool = _Pool()
        self._server = grpc.server(
            self._pool,
            handlers=[_Methods(service, metrics, self._pool)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=MAX_CALLS,  # Invariant 1.
        )

    def listen(self, path: Path) -> None:
        """Create the socket. Raises DataDirectoryError."""
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise DataDirectoryError(
                f"no socket can be created in {path.parent}; let the user that this runs as write "
                "there, or set signer.socket"
            ) from error

    def start(self) -> None:
        """Start to answer calls."""
        self._server.start()

    def stop(self, seconds: float) -> None:
        """Refuse new calls, and finish those that have begun, for at most ``seconds``."""
        # gRPC loses a call that arrives meanwhile, so this waits for a moment without calls.
        self._pool.wait_until_idle(_IDLE_SECONDS)
        self._server.stop(seconds).wait()


class _Pool(ThreadPoolExecutor):
    """Threads, and how many calls are in them or wait for them."""

    def __init__(self) -> None:
        super().__init__(_THREADS, "leeway-sign")
        self._calls = 0
        self._lock = Lock()

    @property
    def is_full(self) -> bool:
        """Whether as many calls as are allowed are waiting."""
        return self._calls >= MAX_CALLS

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until there are no calls, for at most ``seconds``."""
        deadline = monotonic() + seconds
        while self._calls and monotonic() < deadline:
            sleep(_POLL_SECONDS)

    def submit(self, call: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """Count a call until it is done."""
        with self._lock:
            self._calls += 1
        future = super().submit(call, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    def _done(self, _future: Future[Any]) -> None:
        with self._lock:
            self._calls -= 1


class _Methods(grpc.GenericRpcHandler):
    """Finds the method of a call, and counts the calls that gRPC is about to refuse."""

    def __init__(self, service: ExternalJWTSigner, metrics: SignerMetrics, pool: _Pool) -> None:
        self._metrics = metrics
        self._pool = pool
        self._over_limit = BoundedLog("over-limit", 1)
        methods: dict[str, _Method] = {
            SIGN: service.sign,
            FETCH_KEYS: service.fetch_keys,
            METADATA: service.metadata,
        }
        crashes = BoundedLog("crash", _CRASHES_A_SECOND)
        self._methods: dict[str, tuple[str, _Handler]] = {
            f"/{SERVICE}/{name}": (
                name,
                grpc.unary_unary_rpc_method_handler(_answering(method, crashes)),
            )
            for name, method in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _Handler:
        """Return the handler of a method, None if it is unknown."""
        name, handler = self._methods.get(handler_call_details.method, ("", None))
        if handler is not None and self._pool.is_full:
            self._metrics.count(name, OVERLOADED)
            fields: Fields = {"event": "over-limit", "what": "call"}
            self._over_limit.log(
                _logger,
                logging.WARNING,
                f"calls were refused because {MAX_CALLS} were waiting",
                lambda: fields,
            )
        return handler


def _answering(method: _Method, crashes: BoundedLog) -> _Method:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return method(request, context)
        except CallRefusedError as error:
            code, text = error.code, str(error)
        except Exception as error:  # Invariant 2.
            code, text = grpc.StatusCode.INTERNAL, "the call failed"
            fields: Fields = {"event": "sign", "reason": FAILED}
            crashes.log(_logger, logging.ERROR, "a call failed", lambda: fields, error)
        context.set_code(code)
        context.set_details(text)
        return b""

    return answer
