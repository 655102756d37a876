"""The keys of an issuer that are fetched over the network, by a thread that keeps them fresh.

Invariants:

1. Verifying a token never waits for the network here: ``request_refresh`` returns a future.
2. An attempt that fails changes no key until the keys are too old to be used (see ``schedule``).
3. A key that the issuer has withdrawn stops verifying with the next attempt that succeeds.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from threading import Condition, Thread
from time import monotonic
from typing import Final

from keys.errors import UnusableKeyError
from webhook.duration import rounded_duration
from webhook.errors import KeysUnavailableError
from webhook.token.authenticator import TrustedIssuer
from webhook.trusted_issuers.fetching import FetchedKeys
from webhook.trusted_issuers.issuer_keys import KeySource
from webhook.trusted_issuers.schedule import KEEP_SECONDS, FetchSchedule

_CLOSE_SECONDS: Final = 1.0
_logger = logging.getLogger("leeway")


class RemoteKeys(KeySource):
    """Keeps the keys of ``issuer`` fresh.

    ``fetch`` takes a bounded time and raises KeysUnavailableError; ``clock`` is monotonic.
    """

    def __init__(
        self,
        issuer: TrustedIssuer,
        fetch: Callable[[], FetchedKeys],
        report: Callable[[str, bool], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        super().__init__(issuer, report)
        self._fetch = fetch
        self._clock = clock
        self._schedule = FetchSchedule()
        # Guards the schedule and the three fields below, and is held only to look at them.
        self._changed = Condition()
        self._pending: Future[None] | None = None
        self._is_requested = False
        self._is_stopped = False
        self._thread = Thread(target=self._run, name="leeway-issuer-keys", daemon=True)
        issuer.keys_problem = (
            f"the keys of issuer {issuer.url} have not been fetched yet; try again"
        )

    def start(self) -> None:
        """Start to fetch, in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop. An attempt that has begun is not interrupted."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    def request_refresh(self) -> Future[None] | None:
        """Request a fetch because no key has some ``kid``.

        Returns a future that is done after the attempt, whatever its result; None if it is too soon
        for one, or this is closed.
        """
        with self._changed:
            if self._is_stopped:
                return None
            if self._pending is None and self._schedule.may_request(self._clock()):
                self._pending = Future()  # invariant 1
                self._is_requested = True
                self._changed.notify()
            return self._pending

    def fetch_now(self) -> None:
        """Make an attempt in this thread; if it fails ``warning`` says why."""
        with self._changed:
            self._is_requested = False
            pending = self._pending = self._pending or Future()
            self._schedule.begin(self._clock())
        try:
            self._use(self._fetch())
        except (KeysUnavailableError, UnusableKeyError) as error:
            self._note_failure(str(error))
        except Exception as error:
            # The thread must go on.
            _logger.exception("fetching the keys of issuer %s failed", self.issuer.url)
            self._note_failure(
                f"an internal error occurred ({type(error).__name__}); it is in the log"
            )
        finally:
            with self._changed:
                self._pending = None
            pending.set_result(None)
        self._report(self.issuer.url, bool(self._warning))

    def problem(self) -> str:
        """Return why there are no keys yet, empty once they have been fetched."""
        return "" if self._schedule.was_fetched else self.issuer.keys_problem

    def warning(self) -> str:
        """Return why the keys in use could not be renewed, empty if they could."""
        return self._warning if self._schedule.was_fetched else ""

    def _run(self) -> None:
        while self._wait():
            self.fetch_now()
            if self._warning:
                retry = rounded_duration(max(1, round(self._schedule.due - self._clock())))
                _logger.warning("%s; the next attempt is in %s", self._warning, retry)
            self._log_skipped()

    def _wait(self) -> bool:
        with self._changed:
            while not self._is_stopped:
                left = self._schedule.due - self._clock()
                if self._is_requested or left <= 0:
                    return True
                self._changed.wait(left)
        return False

    def _use(self, fetched: FetchedKeys) -> None:
        issuer = self.issuer
        before = issuer.keys.keys()
        issuer.replace_keys(fetched.keys)  # invariant 3
        issuer.keys_problem = ""
        self._skipped = fetched.skipped
        with self._changed:
            self._schedule.succeeded(self._clock(), fetched.refresh_after)
        if self._warning or issuer.keys.keys() != before:
            _logger.info("%d keys of issuer %s were fetched", len(issuer.keys), issuer.url)
        self._warning = ""

    def _note_failure(self, why: str) -> None:
        issuer = self.issuer
        with self._changed:
            now = self._clock()
            self._schedule.failed(now)
            expired = self._schedule.is_expired(now)
        text = f"the keys of issuer {issuer.url} could not be fetched: {why}"
        if not self._schedule.was_fetched:
            kept = "its tokens are refused until an attempt succeeds"
            issuer.keys_problem = f"{text}; {kept}"
        elif expired:
            kept = (
                f"the previous ones are older than {rounded_duration(KEEP_SECONDS)}, so its tokens "
                "are refused until an attempt succeeds"
            )
            issuer.keys_problem = f"{text}; {kept}"
            issuer.replace_keys(())  # invariant 2
        else:
            kept = f"the {len(issuer.keys)} previous ones stay in use"
        self._warning = f"{text}; {kept}"
