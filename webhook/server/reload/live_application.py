"""What a worker serves, from its start to its end, while files change.

Invariants:

1. A request is answered by one application, made of one configuration and one keyring.
2. A file that cannot be loaded changes nothing, and is a warning of ``/readyz?verbose`` until it
   can be. So is a change that needs a restart.
3. The background work begins with ``start``, which is after the fork, and ends with ``stop``.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import RLock, Timer
from time import time
from typing import Any, Final

from keys.file_watch import FileWatch, is_news
from keys.keyring import Keyring
from keys.rotation import signing_key_age
from webhook.assembly import lifetimes_of, rotation_policy_of, store_of
from webhook.config.load import FILE_NAME
from webhook.config.model import Configuration
from webhook.errors import HandshakeFailure
from webhook.rbac.errors import StoreError, StoreUnavailableError
from webhook.rbac.simple_tokens import TokenUses
from webhook.server.flask.late import FlaskThreads
from webhook.server.reload.background import SkewWriter, StoreKeeper, UseWriter, every
from webhook.server.reload.composition import (
    ComponentMaker,
    Components,
    SharedState,
    Startable,
    compose,
    cores_of_a_worker,
    differences,
    started,
    waiting_for_restart,
)
from webhook.server.reload.key_looks import KeyLooks
from webhook.server.reload.memory_keeper import MemoryKeeper
from webhook.server.reload.on_loop import OnLoop
from webhook.server.reload.shared_revisions import SharedRevisions
from webhook.server.reload.store_reporter import StoreReporter
from webhook.server.reload.store_tidying import StoreTidying
from webhook.server.request.errors import describe_error, traceback_of
from webhook.server.request.log import RequestLog
from webhook.server.request.message import Answer, Request
from webhook.server.routes.health import HealthCheck
from webhook.signing_keys import key_watcher_of
from webhook.skew.snapshots import SIGNER_FILE, SkewFiles
from webhook.skew.tracker import SkewTracker
from webhook.telemetry.metrics import Limit, Metrics

# Requests that have begun may still use the replaced components.
_CLOSE_AFTER_SECONDS: Final = 5.0
# The time until other workers see a count.
_COUNTS_SECONDS: Final = 0.05
_WARM_UP_AFTER_SECONDS: Final = 1.0
# The interval for what gives no notice when it changes or breaks.
_CHECK_SECONDS: Final = 1.0
_WRITE_SECONDS: Final = 1.0
_REFRESH_SECONDS: Final = 0.1
_LOOK_UP_THREADS: Final = 8
_logger = logging.getLogger("leeway")

Configure = Callable[[], Configuration]


class LiveApplication:
    """The application of one worker, which follows its configuration and its keys.

    ``configure`` reads the configuration, now and at each reload. ``started_with`` is the one that
    the server was started with, None if that is what ``configure`` returns now. ``answer`` and
    ``admit`` are those of the ``Application`` in use.
    """

    def __init__(
        self, data_dir: Path, configure: Configure, started_with: Configuration | None = None
    ) -> None:
        """Raises the errors of ``webhook.assembly`` and of ``configure``."""
        self._data_dir = data_dir
        self._configure = configure
        self._reloading = RLock()
        self._reports: dict[str, str] = {}
        self._logged: dict[str, str] = {}
        self._is_composed = self._is_warm = False
        # Created before anything is read, so that later changes are noticed.
        self._watch = FileWatch((data_dir / FILE_NAME,), self.reload, "leeway-configuration")
        configuration = configure()
        self._started_with = started_with or configuration
        # A file is read before each answer: nothing is known by one worker only.
        peers = SharedRevisions.of_environment() if self._started_with.store.etcd else None
        self.store = store_of(data_dir, self._started_with, follow=True, peers=peers)
        self._on_loop = self.store.run_apply = OnLoop()
        self._store_keeper = StoreKeeper(self.store)
        try:
            self._compose_first(configuration)
        except BaseException:
            self.store.close()
            raise

    def _compose_first(self, configuration: Configuration) -> None:
        self._keys = key_watcher_of(
            self._data_dir,
            self._started_with,
            rotation_policy_of(configuration),
            self.store,
            self._use_keyring,
        )
        self._memory = MemoryKeeper(
            lambda: self._components.configuration.server.max_worker_bytes,
            lambda: self._components.authenticator.verified,
        )
        skew = SkewFiles.of_environment(SkewTracker(), self._data_dir / SIGNER_FILE)
        cores = cores_of_a_worker(self._started_with)

        def age() -> float:
            return signing_key_age(self._keys.keyring, time())

        self._shared = SharedState(
            self.store,
            Metrics(skew.estimates, self._auth_revision, age, _in_a_moment),
            skew,
            RequestLog(),
            TokenUses(self.store),
            self._warnings,
            # Another worker may sign with a key that this one has not read yet.
            KeyLooks(self._keys.catch_up).ask,
            ThreadPoolExecutor(_LOOK_UP_THREADS, "leeway-look-up"),
            FlaskThreads(cores, lambda: self.over_limit("login")),
            self._store_keeper.problem,
            self._keys.proof,
        )
        self._use_writer = UseWriter(self._shared.uses)
        self._maker = ComponentMaker(self._data_dir, self._shared)
        self._take(self._maker.make(configuration, self._keys.keyring))
        self._is_composed = True

    def __call__(self, request: Request) -> Answer:
        """Do the same as ``answer``: gunicorn requires an application to be callable."""
        return self.answer(request)

    def routes(self) -> list[tuple[str, str]]:
        """Return the method and the path of everything that is served."""
        return self._current.routes()

    def reload(self) -> bool:
        """Read the configuration again, beside the event loop; return whether it is in use."""
        try:
            self._reconfigure(self._configure())
        except Exception as error:  # Invariant 2.
            problem = f"{describe_error(error)}; the configuration from before stays in use"
            if self.report("configuration", problem, repr(error)):
                text = "the configuration was not loaded again: %s"
                _logger.error(text, problem, exc_info=traceback_of(error))
            return False
        return True

    def reload_soon(self) -> None:
        """Read the configuration and the keys beside the event loop, and log errors again."""
        self._logged.clear()
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, self._keys.poll)
        loop.run_in_executor(None, self._watch.notify)

    def report(self, name: str, problem: str, cause: str = "") -> bool:
        """Note that something cannot be loaded, or, with an empty text, that it can.

        Return whether that is news, by the ``cause`` if the problem does not contain all of it.
        """
        before = self._logged.get(name, "")
        self._reports[name], self._logged[name] = problem, cause or problem
        self._report_failures()
        return is_news(cause or problem, before)

    @property
    def max_anonymous_connections(self) -> int:
        """The most connections without a client certificate in a worker."""
        return self._components.configuration.server.max_anonymous_connections

    def over_limit(self, what: Limit) -> None:
        """Count and log what was refused or closed because a limit was reached."""
        self._shared.metrics.count_over_limit(what)
        self._shared.log.over_limit(what)

    def handshake_failed(self, failure: HandshakeFailure, why: str, address: str) -> None:
        """Count and log a TLS handshake that failed."""
        self._shared.metrics.count_failed_handshake(failure)
        self._shared.log.handshake_failed(failure, why, address)

    def _reconfigure(self, configuration: Configuration) -> None:
        before = self._components.configuration
        if configuration == before:
            self.report("configuration", "")
            return
        try:
            # Before a token is signed under it. A new key needs the lock, and waits for no source.
            self._keys.use(rotation_policy_of(configuration))
            with self._reloading:
                old = self._components
                new = self._maker.remake(old, configuration, old.keyring)
            changed = differences(old, new)
            with started([fresh for _, fresh in changed if fresh is not None]), self._reloading:
                self._take_with(self._components.keyring, new)
        except BaseException:
            self._keys.use(rotation_policy_of(before))
            raise
        for stale, _ in changed:
            if stale is not None:
                Timer(_CLOSE_AFTER_SECONDS, stale.close).start()
        self.report("configuration", "")
        _logger.info("the configuration was loaded again")

    def _use_keyring(self, keyring: Keyring) -> None:
        if self._is_composed:
            with self._reloading:
                self._take_with(keyring, self._components)

    def _take_with(self, keyring: Keyring, components: Components) -> None:
        # What a new key signs has to verify, so this comes first, also for a request that waits
        # for that key, and began before another authenticator came into use.
        self._maker.use_keys(keyring)
        self._take(self._maker.remake(components, components.configuration, keyring))

    def _take(self, components: Components) -> None:
        fresh = compose(self._shared, components)
        if self._is_warm:
            fresh.warm_up()
        self._current = fresh
        self._components = components
        self.answer, self.admit = fresh.answer, fresh.admit  # Invariant 1.

    def _warnings(self) -> Iterable[HealthCheck]:
        return [
            ("configuration", lambda: self._reports.get("configuration", "")),
            ("configuration", self._waiting_for_restart),
            ("tls", lambda: self._reports.get("tls", "")),
            ("memory", self._memory.problem),
            ("store", self._store_keeper.warning),
            ("signing-keys", lambda: self._keys.problem() or self._keys.step_problem()),
        ]

    def _report_failures(self) -> None:
        components, metrics = self._components, self._shared.metrics
        problems = {
            "configuration": self._reports.get("configuration", ""),
            "tls": self._reports.get("tls", ""),
            "signing-keys": self._keys.problem(),
            "issuer-keys": components.issuer_keys.broken_files(),
            "objects": components.objects.warning() if components.objects else "",
        }
        for what, problem in problems.items():
            metrics.report_reload(what, failing=bool(problem))
        metrics.report_trusted(issuer.url for issuer in components.issuer_keys.issuers)

    def _auth_revision(self) -> int:
        try:
            return self.store.revision
        except (StoreError, StoreUnavailableError):
            return 0  # nothing was loaded yet

    def _waiting_for_restart(self) -> str:
        return waiting_for_restart(self._started_with, self._components.configuration)

    async def start(self) -> None:
        """Start the background work (invariant 3), on the event loop that answers requests."""
        self._on_loop.begin()
        # A store in etcd is read for the first time now.
        self._store_keeper.problem()
        await self._memory.check()
        self._report_failures()
        self._tasks = [
            asyncio.create_task(task)
            for task in (
                every(_WRITE_SECONDS, SkewWriter(self._shared.skew).write_new),
                every(_WRITE_SECONDS, self._use_writer.write_new),
                every(_CHECK_SECONDS, self._memory.check),
                every(_CHECK_SECONDS, self._report_failures),
                every(_REFRESH_SECONDS, self._store_keeper.problem),
                every(_CHECK_SECONDS, StoreReporter(self.store, self._shared.metrics.store).report),
                *self._store_jobs(),
                self._warm_up(),
            )
        ]
        await asyncio.to_thread(self._start)

    def _store_jobs(self) -> Iterable[Coroutine[Any, Any, None]]:
        if self._started_with.store.etcd is not None:
            folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
            tidying = StoreTidying(self.store, lambda: lifetimes_of(self._started_with), folder)
            yield every(_CHECK_SECONDS, tidying.run)

    async def stop(self) -> None:
        """Stop it, after the last request."""
        self._shared.metrics.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.to_thread(self._close)

    async def _warm_up(self) -> None:
        # Later, because the first reviews do not need it.
        await asyncio.sleep(_WARM_UP_AFTER_SECONDS)
        self._is_warm = True
        await asyncio.to_thread(self._current.warm_up)

    def _background(self) -> list[Startable]:
        components = self._components
        found = (components.objects, components.issuer_keys, self._keys, self._watch)
        return [part for part in found if part is not None]

    def _start(self) -> None:
        try:
            for part in self._background():
                part.start()
        except Exception:
            # gunicorn logs the error, but not its traceback.
            _logger.exception("what a worker does in the background did not start")
            raise

    def _close(self) -> None:
        for part in reversed(self._background()):
            part.close()
        # No request is left that could use a token.
        self._use_writer.write()


def _in_a_moment(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(_COUNTS_SECONDS, call)
