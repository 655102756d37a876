"""The process of ``leeway signer``: gRPC, signals, and keys and configuration that change."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from signal import SIGHUP, SIGINT, SIGTERM, signal
from threading import Lock
from time import time
from typing import Final

import grpc

from keys.errors import KeysError
from keys.file_watch import FileWatch, PeriodicThread
from keys.folder_watch import KeyFolderWatcher
from keys.keyring import Keyring
from webhook.assembly import clock_leeway_of, rotation_policy_of
from webhook.config.load import FILE_NAME
from webhook.config.model import Configuration
from webhook.config.paths import KEYS_FOLDER
from webhook.errors import ConfigurationError, DataDirectoryError, LeewayError
from webhook.signer.clock_watch import ClockWatch
from webhook.signer.key_set import key_set_of
from webhook.signer.policy import SigningPolicy
from webhook.signer.service import (
    FETCH_KEYS,
    METADATA,
    RESULTS,
    SIGN,
    CallRefusedError,
    ExternalJWTSigner,
    Terms,
)
from webhook.signer.socket_file import SocketFile, group_id
from webhook.skew.snapshots import SIGNER_FILE
from webhook.telemetry.logs import LOGGER
from webhook.telemetry.signer_metrics import SignerMetrics

SERVICE: Final = "v1.ExternalJWTSigner"
GRACEFUL_SECONDS: Final = 25.0
MIN_MAX_EXPIRATION: Final = 600
_THREADS: Final = 4
_MAX_CALLS: Final = 1024
# More than the policy accepts, so that larger claims are refused by it, with a line in the log.
_MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
_WRITE_SECONDS: Final = 1.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
)
_logger = logging.getLogger(LOGGER)

Configure = Callable[[], Configuration]
_Answer = Callable[[bytes, grpc.ServicerContext], bytes]


class SignerServer:
    """Signs for kube-apiserver until a signal ends it.

    ``configure`` reads the configuration at each reload.
    """

    def __init__(self, data_dir: Path, configure: Configure, configuration: Configuration) -> None:
        """Raises ConfigurationError, and the errors of ``keys.folder``."""
        self._configure = configure
        self._configuration = self._started_with = configuration
        self._lock = Lock()
        self._problem = ""
        self._watch = FileWatch((data_dir / FILE_NAME,), self._reload, "leeway-configuration")
        self._folder = KeyFolderWatcher(
            data_dir / KEYS_FOLDER, rotation_policy_of(configuration), self._use_keyring
        )
        section = configuration.signer_settings
        self._file = SocketFile(Path(section.socket), group_id(section.group))
        self.metrics = SignerMetrics(dict(RESULTS))
        self._clock_watch = ClockWatch(data_dir / SIGNER_FILE)
        self._skew_thread = PeriodicThread(
            _WRITE_SECONDS, self._clock_watch.write_new, "leeway-skew"
        )
        self._terms = _terms_of(configuration, self._folder.keyring, None)
        self._service = ExternalJWTSigner(self._terms, self.metrics, self._clock_watch, time)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises DataDirectoryError if the socket cannot be used."""
        signals: SimpleQueue[int] = SimpleQueue()
        for number in (SIGTERM, SIGINT, SIGHUP):
            signal(number, lambda number, _frame: signals.put(number))
        server = grpc.server(
            ThreadPoolExecutor(_THREADS, "leeway-sign"),
            handlers=[_handlers(self._service)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=_MAX_CALLS,
        )
        self._listen(server)
        try:
            background = (self._folder, self._watch, self._skew_thread)
            for part in background:
                part.start()
            server.start()
            fields = {
                "event": "serving",
                "socket": str(self._file.path),
                "kid": self._terms.keys.kid,
            }
            _logger.info(
                "signing for kube-apiserver on %s", self._file.path, extra={"fields": fields}
            )
            while signals.get() == SIGHUP:
                self._folder.poll()
                self._watch.notify()
        finally:
            self._file.remove()
            server.stop(GRACEFUL_SECONDS).wait()
        for part in reversed(background):
            part.close()
        self._clock_watch.write_new()
        _logger.info("the signer has stopped")

    def _listen(self, server: grpc.Server) -> None:
        with self._file.claimed() as name:
            try:
                server.add_insecure_port(f"unix:{name}")
            except RuntimeError as error:
                raise DataDirectoryError(
                    f"cannot listen on {self._file.path}; see that its folder can be written"
                ) from error

    def _reload(self) -> bool:
        try:
            configuration = self._configure()
            with self._lock:
                if configuration == self._configuration:
                    self._report("")
                    return True
                _terms_of(configuration, self._folder.keyring, self._terms)
            # Before a token is signed under it; it can find other keys, which are taken over.
            self._folder.use(rotation_policy_of(configuration))
        except (LeewayError, KeysError, OSError) as error:
            self._report(f"{error}; the configuration from before stays in use")
            return False
        with self._lock:
            self._configuration = configuration
            self._use(_terms_of(configuration, self._folder.keyring, self._terms))
        self._report("")
        _logger.info("the configuration was loaded again")
        wanted, used = configuration.signer_settings, self._started_with.signer_settings
        if (wanted.socket, wanted.group) != (used.socket, used.group):
            _logger.warning("signer.socket and signer.group will change with a restart")
        return True

    def _use_keyring(self, keyring: Keyring) -> None:
        with self._lock:
            try:
                terms = _terms_of(self._configuration, keyring, self._terms)
            except LeewayError as error:
                # Not raised: the folder is as it is, and would be read again for ever.
                _logger.error("the keys from before stay in use: %s", error)
                return
            self._use(terms)

    def _use(self, terms: Terms) -> None:
        if terms.keys.left_out and terms.keys.left_out != self._terms.keys.left_out:
            _log_left_out(terms)
        self._terms = terms
        self._service.use(terms)

    def _report(self, problem: str) -> None:
        if problem and problem != self._problem:
            _logger.error("the configuration was not loaded again: %s", problem)
        self._problem = problem


def _terms_of(configuration: Configuration, keyring: Keyring, before: Terms | None) -> Terms:
    """Return the terms. Raises ConfigurationError for what kube-apiserver would not accept."""
    try:
        keys = key_set_of(keyring, before.keys if before else None)
    except KeysError as error:
        raise ConfigurationError(str(error)) from error
    seconds = int(configuration.tokens.max_expiration)
    if seconds < MIN_MAX_EXPIRATION:
        raise ConfigurationError(
            f"tokens.maxExpiration is {seconds}s; kube-apiserver needs {MIN_MAX_EXPIRATION}s"
        )
    policy = SigningPolicy(configuration.issuer, seconds, clock_leeway_of(configuration))
    return Terms(policy, keys, int(configuration.signer_settings.refresh_hint))


def _log_left_out(terms: Terms) -> None:
    _logger.warning(
        "kube-apiserver cannot use these keys, so they are not among those that it fetches: %s",
        ", ".join(terms.keys.left_out),
    )


def _handlers(service: ExternalJWTSigner) -> grpc.GenericRpcHandler:
    calls: dict[str, _Answer] = {
        SIGN: service.sign,
        FETCH_KEYS: service.fetch_keys,
        METADATA: service.metadata,
    }
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        name: grpc.unary_unary_rpc_method_handler(_answering(call)) for name, call in calls.items()
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


def _answering(answer: _Answer) -> _Answer:
    def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return answer(request, context)
        except CallRefusedError as error:
            context.set_code(error.code)
            context.set_details(str(error))
            return b""

    return handle
