"""The process of ``leeway signer``: signals, and keys and a configuration that change.

Invariants:

1. A token is signed under one configuration and one keyring. What cannot be loaded changes nothing.
   If kube-apiserver does not accept the active key, the previous one signs, but only tokens that
   expire while it verifies.
2. Steps of rotation that are due are taken here too. The keys' folder has a lock, and a step in
   the store is one transaction, so that the first process takes a step, and the others see it.
3. Keys of the store that were not proven to be the newest ones for PROOF_SECONDS neither sign nor
   are fetched.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path
from queue import SimpleQueue
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, signal
from threading import Lock
from time import CLOCK_BOOTTIME, clock_gettime, time
from typing import Final, Protocol

from keys.errors import KeysError
from keys.file_watch import FileWatch, PeriodicThread
from keys.keyring import Keyring, KeyState
from keys.messages import utc
from keys.rotation import MARGIN_SECONDS
from keys.watching import PROOF_SECONDS
from webhook.assembly import clock_leeway_of, rotation_policy_of, store_of
from webhook.config.load import FILE_NAME
from webhook.config.model import Configuration
from webhook.errors import ConfigurationError, LeewayError
from webhook.rbac.auth_store import AuthStore
from webhook.signer.clock_watch import ClockWatch
from webhook.signer.grpc_server import GRPCServer
from webhook.signer.health_server import HealthServer
from webhook.signer.key_set import key_set_of
from webhook.signer.policy import SigningPolicy
from webhook.signer.service import RESULTS, ExternalJWTSigner, Terms
from webhook.signer.socket_file import SocketFile, group_id
from webhook.signing_keys import key_watcher_of
from webhook.skew.snapshots import SIGNER_FILE
from webhook.telemetry.log_lines import Fields
from webhook.telemetry.logs import LOGGER
from webhook.telemetry.signer_metrics import SignerMetrics

GRACEFUL_SECONDS: Final = 25.0
_MIN_MAX_EXPIRATION: Final = 600
"""Seconds; kube-apiserver does not start with less (``pkg/controlplane/apiserver/options``)."""
_CHECK_SECONDS: Final = 1.0
_logger = logging.getLogger(LOGGER)

Configure = Callable[[], Configuration]


class _Background(Protocol):
    def start(self) -> None: ...

    def close(self) -> None: ...


class SignerServer:
    """Signs for kube-apiserver until a signal ends it.

    ``configure`` reads the configuration at each reload. With ``metrics_bind``, ``HOST:PORT``,
    metrics and health are served there.
    """

    def __init__(
        self,
        data_dir: Path,
        configure: Configure,
        configuration: Configuration,
        metrics_bind: str = "",
    ) -> None:
        """Raises ConfigurationError, DataDirectoryError and the errors of ``keys.folder``."""
        self._configure = configure
        self._configuration = self._started_with = configuration
        self._lock = Lock()
        self._problems: dict[str, str] = {}
        self._unusable = ""
        self._metrics = SignerMetrics(RESULTS)
        # Created before anything is read, so that later changes are noticed.
        self._watch = FileWatch((data_dir / FILE_NAME,), self._reload, "leeway-configuration")
        # Invariant 2.
        self._store = _store_of_keys(data_dir, configuration)
        self._keys = key_watcher_of(
            data_dir,
            configuration,
            rotation_policy_of(configuration),
            self._store,
            self._use_keyring,
            refresh=self._store.refresh if self._store else lambda: None,
        )
        self._keyring = self._keys.keyring
        self._terms = _terms_of(configuration, self._keyring)
        self._clock_watch = ClockWatch(data_dir / SIGNER_FILE)
        self._service = ExternalJWTSigner(
            self._terms, self._metrics, self._clock_watch, time, self._keys_problem
        )
        section = configuration.signer_settings
        self._socket = SocketFile(Path(section.socket), group_id(section.group))
        self._checks = PeriodicThread(_CHECK_SECONDS, self._check, "leeway-check")
        self._health = (
            HealthServer(metrics_bind, self._metrics.render, self._socket.problem)
            if metrics_bind
            else None
        )

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGQUIT; SIGHUP reads every file again.

        Raises DataDirectoryError if the socket cannot be used.
        """
        signals: SimpleQueue[int] = SimpleQueue()
        for number in (SIGTERM, SIGINT, SIGQUIT, SIGHUP):
            signal(number, lambda number, _frame: signals.put(number))
        server = GRPCServer(self._service, self._metrics)
        with self._socket.claimed() as name:
            server.listen(name)
        background: list[_Background] = [self._keys, self._watch, self._checks]
        if self._health is not None:
            background.append(self._health)
        try:
            for part in background:
                part.start()
            server.start()
            self._report_serving()
            gc.freeze()
            while _next_signal(signals) == SIGHUP:
                self._reload_all()
        finally:
            # Before the socket is gone, which the checks would report.
            for part in reversed(background):
                part.close()
            self._socket.remove()
            server.stop(GRACEFUL_SECONDS)
            if self._store is not None:
                self._store.close()
        self._clock_watch.write_new()
        _logger.info("the signer has stopped")

    def _report_serving(self) -> None:
        path = self._socket.path
        fields: Fields = {"event": "serving", "socket": str(path), "kid": self._terms.keys.kid}
        _logger.info("signing for kube-apiserver on %s", path, extra={"fields": fields})
        if self._health is not None:
            _logger.info("metrics and health are served on port %d", self._health.port)
        _report_left_out(self._terms)

    def _check(self) -> None:
        self._clock_watch.write_new()
        self._report("socket", self._socket.problem(), "no new connection can be made")
        problem = self._keys.problem() or self._unusable or self._keys_problem()
        self._report("signing-keys", problem, "")

    def _keys_problem(self) -> str:
        """Return why the keys in use may not be the newest ones, empty if they are."""
        age = clock_gettime(CLOCK_BOOTTIME) - self._keys.proof()
        if age <= PROOF_SECONDS:
            return ""
        since = f"for {age:.0f}s" if age < inf else "yet"
        return f"it is not proven {since} that the signing keys are those of the store"

    def _reload_all(self) -> None:
        self._problems.clear()
        try:
            self._keys.catch_up()
            self._watch.notify()
        except Exception:
            _logger.exception("a reload failed")

    def _reload(self) -> bool:
        """Read the configuration again; return whether it is in use."""
        try:
            configuration = self._configure()
            if configuration != self._configuration:
                self._reconfigure(configuration)
        except (LeewayError, KeysError, OSError) as error:  # Invariant 1.
            problem = f"{error}; the configuration from before stays in use"
            self._report("configuration", problem, "the configuration was not loaded again")
            return False
        self._report("configuration", "", "")
        return True

    def _reconfigure(self, configuration: Configuration) -> None:
        _terms_of(configuration, self._keyring)
        # Before a token is signed under it. It can also find other keys, which are then taken over.
        self._keys.use(rotation_policy_of(configuration))
        with self._lock:
            self._use(_terms_of(configuration, self._keyring))
            self._configuration = configuration
        _logger.info("the configuration was loaded again")
        wanted, used = configuration.signer_settings, self._started_with.signer_settings
        if (wanted.socket, wanted.group) != (used.socket, used.group):
            _logger.warning("signer.socket and signer.group will change with a restart")

    def _use_keyring(self, keyring: Keyring) -> None:
        with self._lock:
            self._unusable = ""
            try:
                self._use(_terms_of(self._configuration, keyring))
                self._keyring = keyring
            except LeewayError as error:  # Invariant 1.
                # Not raised: the folder was read, and reading it again would change nothing.
                self._unusable = str(error)
                latest = _latest_expiry(keyring, self._terms.keys.kid)
                self._use(replace(self._terms, latest_expiry=latest))
                use = f"for tokens that expire by {utc(latest)}" if latest else "but sign nothing"
                _logger.error("the keys from before stay in use, %s: %s", use, error)

    def _use(self, terms: Terms) -> None:
        if terms.keys.left_out != self._terms.keys.left_out:
            _report_left_out(terms)
        if terms.keys.kid != self._terms.keys.kid:
            fields: Fields = {"event": "signing-key", "kid": terms.keys.kid}
            _logger.info("another key signs from now on", extra={"fields": fields})
        self._terms = terms
        self._service.use(terms)

    def _report(self, what: str, problem: str, message: str) -> None:
        """Record a problem, and log it if it is new; an empty text means that it is solved."""
        before = self._problems.get(what, "")
        self._problems[what] = problem
        self._metrics.report_failing(what, failing=bool(problem))
        if problem and problem != before and message:
            _logger.error("%s: %s", message, problem)


def _store_of_keys(data_dir: Path, configuration: Configuration) -> AuthStore | None:
    """Open the store that has the signing keys; None if they are in the folder."""
    if configuration.keys.store == "folder":
        return None
    store = store_of(data_dir, configuration, follow=True)
    try:
        store.load()
    except BaseException:
        store.close()
        raise
    return store


def _next_signal(signals: SimpleQueue[int]) -> int:
    """Wait for a signal. Pending SIGHUPs count as one, and a signal that ends the signer first."""
    number = signals.get()
    while number == SIGHUP and not signals.empty():
        number = signals.get()
    return number


def _latest_expiry(keyring: Keyring, kid: str) -> int:
    """Return when (Unix seconds) the last token of a key that is no longer active expires.

    0 if that is not known, or the key does not verify.
    """
    for key in keyring.keys:
        if key.kid == kid and key.state is KeyState.VERIFY_ONLY and key.until is not None:
            return max(0, key.until - MARGIN_SECONDS)
    return 0


def _terms_of(configuration: Configuration, keyring: Keyring) -> Terms:
    """Return what is signed under a configuration with a keyring.

    Raises ConfigurationError if kube-apiserver would not accept the key or the lifetime.
    """
    try:
        keys = key_set_of(keyring)
    except KeysError as error:
        raise ConfigurationError(str(error)) from error
    seconds = int(configuration.tokens.max_expiration)
    if seconds < _MIN_MAX_EXPIRATION:
        raise ConfigurationError(
            f"tokens.maxExpiration is {seconds}s; kube-apiserver requires a signer to allow at "
            f"least {_MIN_MAX_EXPIRATION}s"
        )
    policy = SigningPolicy(configuration.issuer, seconds, clock_leeway_of(configuration))
    return Terms(policy, keys, int(configuration.signer_settings.refresh_hint))


def _report_left_out(terms: Terms) -> None:
    if terms.keys.left_out:
        _logger.warning(
            "kube-apiserver does not accept the algorithm of these keys, so it does not get them, "
            "and refuses their tokens: %s",
            ", ".join(terms.keys.left_out),
        )
