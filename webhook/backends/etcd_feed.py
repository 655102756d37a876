"""The two threads of a server's store: one follows the changes, one proves that none is missing.

Invariants:

1. The time of a read is taken before it is sent.
2. A watch from which a commit that was read has not come within OVERDUE_SECONDS is opened again at
   another endpoint. The state stays in use meanwhile: its proof says how old it is.
3. No failure ends a thread; each is named in ``problem``, and tried again.
"""

import os
from collections.abc import Callable
from logging import getLogger
from threading import Event, Lock, Thread
from typing import Final

from webhook.backends.etcd_follow import Follower, HeadRead, MustLoadError, Reason
from webhook.backends.etcd_following import Following
from webhook.backends.etcd_requests import Requests, Watch, groups_of
from webhook.etcd.errors import CompactedError, EtcdError

OVERDUE_SECONDS: Final = 0.15
HEDGE_SECONDS: Final = 0.1
_MAX_READ_SECONDS: Final = 0.4
_MAX_INTERVAL: Final = 0.25
_PAUSES: Final = (0.02, 0.1, 0.25)
_logger = getLogger("leeway")


class Feed:
    """Follows one store until it is closed."""

    def __init__(
        self,
        requests: Requests,
        following: Following,
        clock: Callable[[], float],
        max_staleness: float,
    ) -> None:
        self._requests, self._following, self._clock = requests, following, clock
        self.read_seconds = min(_MAX_READ_SECONDS, max_staleness / 2)
        self._interval = min(_MAX_INTERVAL, max_staleness / 4)
        self._closed = Event()
        self._wanted = Event()
        self._watch_lock = Lock()
        self._watch: Watch | None = None
        self._watch_since = 0.0
        self._read_problem = self._watch_problem = ""
        self._threads = [
            Thread(target=self._run, args=(step,), name=f"leeway-etcd-{name}", daemon=True)
            for name, step in (("feed", self._follow_once), ("reader", self._read_once))
        ]
        # The watches of a server's workers are spread over the members.
        endpoints = requests.client.endpoints
        self._endpoint = endpoints[os.getpid() % len(endpoints)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Tell the threads to end."""
        self._closed.set()
        self._wanted.set()
        with self._following.changed:
            self._following.changed.notify_all()
        self.end_watch()

    def join(self) -> None:
        """Wait for the threads, after ``end``; a request may outlive this by its deadline."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=1.0)

    def want_read(self) -> None:
        """Send a read now. Never waits."""
        self._wanted.set()

    @property
    def problem(self) -> str:
        """What etcd refuses now, empty if nothing."""
        return self._read_problem or self._watch_problem

    def _run(self, step: Callable[[], bool]) -> None:
        failures = 0
        while not self._closed.is_set():
            try:
                failures = 0 if step() else failures + 1
            except Exception:  # Invariant 3.
                _logger.exception("a thread of the store in etcd failed and goes on")
                failures += 1
            if failures:
                self._closed.wait(_PAUSES[min(failures, len(_PAUSES)) - 1])

    # The reader.

    def _read_once(self) -> bool:
        self._wanted.clear()
        self.read()
        self._wanted.wait(self._interval)
        return True

    def read(self, timeout: float | None = None) -> int:
        """Read the head now, and return its revision, 0 without an answer that counts.

        Raises nothing of etcd's: ``problem`` says what went wrong.
        """
        endpoint = ""
        for _ in range(2):
            follower = self._following.follower
            if follower is None:
                return 0
            floor, sent = follower.commit, self._clock()  # Invariant 1.
            try:
                found = self._requests.read_head(
                    timeout or self.read_seconds, hedge=HEDGE_SECONDS, endpoint=endpoint
                )
            except EtcdError as error:
                self._read_problem = str(error)
                return 0
            self._read_problem = ""
            kv = found.kv
            read = HeadRead(sent, floor, kv.mod_revision if kv else 0, kv.value if kv else b"")
            is_good = self._following.read(follower, read, found.header)
            if self._following.follower is not follower:
                self.end_watch()
            if is_good:
                self._require_arrival(read.revision)
                return read.revision
            endpoint = self._requests.client.next_endpoint(found.endpoint)
        return 0

    def _require_arrival(self, revision: int) -> None:
        # Invariant 2.
        following = self._following
        with following.changed:
            arrived = following.changed.wait_for(
                lambda: (
                    following.follower is None
                    or following.follower.commit.revision >= revision
                    or self._closed.is_set()
                ),
                OVERDUE_SECONDS,
            )
        if not arrived and self._clock() - self._watch_since > OVERDUE_SECONDS:
            self._watch_problem = f"{self._endpoint} does not send changes"
            self.end_watch()

    # The feed.

    def _follow_once(self) -> bool:
        following = self._following
        with following.changed:
            following.changed.wait_for(
                lambda: (
                    following.follower is not None
                    or following.undiagnosed() is not None
                    or self._closed.is_set()
                )
            )
            follower, start = following.follower, following.next_watch
        if self._closed.is_set():
            return True
        if follower is None:
            return self.diagnose()
        try:
            if not self._watch_from(start, follower):
                return True
        except CompactedError as error:
            return self._resume_after_compaction(start, error)
        except EtcdError as error:
            self._watch_problem = str(error)
        finally:
            self.end_watch()
        self._endpoint = self._requests.client.next_endpoint(self._endpoint)
        return False

    def _watch_from(self, start: int, follower: Follower) -> bool:
        """Follow until the watch ends; False if another follower came into use before that."""
        watch = self._requests.watch(start, self._endpoint)
        with self._watch_lock:
            self._watch, self._watch_since = watch, self._clock()
        self._watch_problem = ""
        # Whoever replaces the follower ends the watch after that, and may have found none yet.
        if self._following.follower is not follower:
            return False
        for batch in watch:
            for revision, events in groups_of(batch):
                if not self._following.follow(follower, revision, events):
                    return False
            if self._following.follower is not follower:
                return False
        return True

    def _resume_after_compaction(self, start: int, error: CompactedError) -> bool:
        """Watch from the present revision if nothing of the store is missing, else load."""
        following = self._following
        follower, revision = following.follower, self.read()
        if follower is None or following.next_watch > start:
            return True
        if revision:
            with following.changed:
                if following.follower is follower:
                    following.fail(MustLoadError(Reason.COMPACTED, str(error)))
        return False

    def diagnose(self) -> bool:
        """Find out whether the history was lost that has to be loaded again."""
        failure = self._following.undiagnosed()
        if failure is None:
            return True
        try:
            found = self._requests.read_head(self.read_seconds, hedge=HEDGE_SECONDS)
            self._following.diagnose(failure, found.kv, self._requests.head_at)
        except EtcdError as error:
            self._read_problem = str(error)
            return False
        return True

    def end_watch(self) -> None:
        """End the watch; the thread opens another for the follower that is in use then."""
        with self._watch_lock:
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
