"""Keeps the store of one kind up to date: list, then watch.

Source: client-go ``tools/cache/reflector.go``, from which the first three rules are.

Invariants:

1. A watch resumes from the last resourceVersion received. If that is too old (410, as status or as
   event), or the API server refuses for any other reason, all objects are listed again.
2. After each failure the next attempt waits longer, up to a limit and with jitter, until a watch
   has lasted.
3. No wait is unlimited: the API server ends a watch after a while, and if it does not the watch is
   ended here.
4. A contact is a list, an event, a bookmark, or a watch that has lasted and was ended by the API
   server. An open watch is not: something in between may answer everything with nothing.
5. Once the silence was too long, only a list makes the known state usable again.
"""

import logging
from collections.abc import Callable
from random import uniform
from threading import Event as ThreadEvent
from threading import Lock, Thread
from time import monotonic, time
from typing import Final

from keys.messages import utc
from webhook.duration import format_duration
from webhook.errors import APIServerError
from webhook.objects.api_server import Event, Page, Watch, list_page
from webhook.objects.kube_client import KubeClient
from webhook.objects.store import KindStore
from webhook.token.bound_objects import ObjectKey, ObjectState

_FIRST_DELAY_SECONDS: Final = 0.2
_MAX_DELAY_SECONDS: Final = 5.0
_MAX_WATCH_SECONDS: Final = 30
_MAX_GRACE_SECONDS: Final = 10.0
# A watch that ends sooner without an event did not work.
_LASTING_SECONDS: Final = 1.0
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERRORS: Final = 500
_logger = logging.getLogger("leeway")


class KindWatch:
    """Fills the store of one kind from a thread of its own."""

    def __init__(self, connection: KubeClient, store: KindStore) -> None:
        self._connection = connection
        self._store = store
        # A third of the longest silence, so that there is time for another attempt.
        third = store.max_silence / 3
        self._watch_seconds = max(1, min(_MAX_WATCH_SECONDS, int(third)))
        self._grace_seconds = min(_MAX_GRACE_SECONDS, third)
        self._version = ""
        self._failures = 0
        self._why = "it has not answered yet"
        self._logged = ""
        self._started = time()
        self._stopped = ThreadEvent()
        self._lock = Lock()
        self._watch: Watch | None = None
        self._thread = Thread(target=self._run, name=f"leeway-{store.kind}s", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._started = time()
        self._thread.start()

    def stop(self) -> None:
        """Request the thread to end."""
        self._stopped.set()
        with self._lock:
            if self._watch is not None:
                self._watch.interrupt()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, at most ``seconds``; after that it is abandoned."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def problem(self) -> str:
        """Return why the known state of this kind is not used, empty if it is."""
        silence = self._store.silence()
        if silence is None:
            return (
                f"{self._store.kind}s have not been listed since {utc(self._started)}: {self._why}"
            )
        if silence <= self._store.max_silence:
            return ""
        return (
            f"nothing was heard of {self._store.kind}s since {utc(time() - silence)}, for longer "
            f"than maxSilence {format_duration(self._store.max_silence)}: {self._why}"
        )

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._step()
            except APIServerError as error:
                self._note_failure(error)
            except Exception as error:  # the thread must go on
                _logger.exception("the watch of %ss failed", self._store.kind)
                self._note_failure(APIServerError(f"an internal error, {type(error).__name__}"))
            self._stopped.wait(_delay(self._failures))  # invariant 2

    def _step(self) -> None:
        silence = self._store.silence()
        if silence is None or silence > self._store.max_silence:
            self._version = ""  # invariant 5
        if not self._version:
            self._list()
        self._follow()

    def _list(self) -> None:
        objects: dict[ObjectKey, ObjectState] = {}
        page = Page({}, "", "")
        while not self._stopped.is_set():
            page = list_page(self._connection, self._store.kind, page.more)
            objects |= page.objects
            if not page.more:
                self._store.replace(objects)
                self._version = page.resource_version
                _logger.info("%d %ss were listed", len(objects), self._store.kind)
                return

    def _follow(self) -> None:
        began = monotonic()
        with Watch(
            self._connection,
            self._store.kind,
            self._version,
            self._watch_seconds,
            self._grace_seconds,  # invariant 3
        ) as watch:
            with self._lock:
                self._watch = watch
            try:
                # stop() sets it before it takes the lock, so it is not missed here.
                if self._stopped.is_set():
                    return
                for event in watch.events():
                    self._apply(event)
                    self._note_success()
            finally:
                with self._lock:
                    self._watch = None
        if self._stopped.is_set():
            return
        if monotonic() - began < _LASTING_SECONDS:
            raise APIServerError("its watches end as soon as they begin")
        self._store.touch()  # invariant 4
        self._note_success()

    def _apply(self, event: Event) -> None:
        if event.key is not None and event.state is not None:
            if event.type == "DELETED":
                self._store.remove(event.key, event.state.uid)
            else:
                self._store.put(event.key, event.state)
        else:
            self._store.touch()
        if event.resource_version:
            self._version = event.resource_version

    def _note_success(self) -> None:
        self._failures = 0
        if self._logged:
            _logger.warning("%ss of the API server are watched again", self._store.kind)
            self._logged = ""

    def _note_failure(self, error: APIServerError) -> None:
        if self._stopped.is_set():
            return
        temporary = error.code in (0, _TOO_MANY_REQUESTS) or error.code >= _SERVER_ERRORS
        if not temporary:
            self._version = ""  # invariant 1
        self._failures += 1
        self._why = str(error)
        # A single failure is not worth a warning.
        if self._failures > 1 and self._why != self._logged:
            _logger.warning(
                "%ss of the API server cannot be watched: %s", self._store.kind, self._why
            )
            self._logged = self._why


def _delay(failures: int, chance: Callable[[float, float], float] = uniform) -> float:
    if failures == 0:
        return 0.0
    longest = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 16))
    return chance(longest / 2, longest)
