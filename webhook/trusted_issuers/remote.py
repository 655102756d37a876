"""The keys of an issuer that are fetched over the network, kept fresh by a thread.

Invariants:

1. Nobody who verifies a token waits for the network here: ``ask`` only says what to wait for.
2. An attempt that fails changes no key, until the keys are too old to count (see ``schedule``).
3. A key that the issuer has taken back stops verifying with the next attempt that succeeds.
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
from webhook.trusted_issuers.schedule import KEEP_SECONDS, FetchSchedule
from webhook.trusted_issuers.skipped import SkippedKeys

_CLOSE_SECONDS: Final = 1.0
_logger = logging.getLogger("leeway")


class RemoteKeys:
    """Keeps the keys of ``issuer`` fresh.

    ``fetch`` takes a bounded time and raises KeysUnavailableError; ``report`` is told after each
    attempt whether it failed; ``clock`` is monotonic.
    """

    reads_files = False

    def __init__(
        self,
        issuer: TrustedIssuer,
        fetch: Callable[[], FetchedKeys],
        report: Callable[[str, bool], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.issuer = issuer
        self._fetch = fetch
        self._report = report
        self._clock = clock
        self._warning = ""
        self.skipped = SkippedKeys(issuer.url)
        self._schedule = FetchSchedule()
        # Held for no longer than it takes to look at what it guards: the schedule, and these.
        self._changed = Condition()
        self._pending: Future[None] | None = None
        self._asked = False
        self._stopped = False
        self._thread = Thread(target=self._follow, name="leeway-issuer-keys", daemon=True)
        issuer.keys_problem = (
            f"the keys of issuer {issuer.url} have not been fetched yet; try again"
        )

    def start(self) -> None:
        """Begin to fetch, now and then."""
        self._thread.start()

    def close(self) -> None:
        """Stop. An attempt that has begun ends by itself."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    def ask(self) -> Future[None] | None:
        """Have the keys fetched because of a ``kid`` that none of them has.

        Returns what is done when the attempt is over, however it went; None where it is too soon
        for one, or too late.
        """
        with self._changed:
            if self._stopped:
                return None
            if self._pending is None and self._schedule.may_ask(self._clock()):
                self._pending = Future()
                self._asked = True
                self._changed.notify()
            return self._pending

    def fetch_now(self) -> None:
        """Make one attempt here and now; what is wrong is in ``warning``."""
        with self._changed:
            self._asked = False
            pending = self._pending = self._pending or Future()
            self._schedule.begin(self._clock())
        try:
            self._take(self._fetch())
        except (KeysUnavailableError, UnusableKeyError) as error:
            self._failed(str(error))
        except Exception as error:
            # The thread must live.
            _logger.exception("fetching the keys of issuer %s failed", self.issuer.url)
            self._failed(f"an internal error occurred ({type(error).__name__}); it is in the log")
        finally:
            with self._changed:
                self._pending = None
            pending.set_result(None)
        self._report(self.issuer.url, bool(self._warning))

    def problem(self) -> str:
        """Return why there are no keys yet, empty once they have been fetched."""
        return "" if self._schedule.was_fetched else self.issuer.keys_problem

    def warning(self) -> str:
        """Return why keys that are here could not be renewed, empty where they could."""
        return self._warning if self._schedule.was_fetched else ""

    def _follow(self) -> None:
        while self._wait():
            self.fetch_now()
            if self._warning:
                retry = rounded_duration(max(1, round(self._schedule.due - self._clock())))
                _logger.warning("%s; the next attempt is in %s", self._warning, retry)
            self.skipped.log()

    def _wait(self) -> bool:
        with self._changed:
            while not self._stopped:
                left = self._schedule.due - self._clock()
                if self._asked or left <= 0:
                    return True
                self._changed.wait(left)
        return False

    def _take(self, fetched: FetchedKeys) -> None:
        issuer = self.issuer
        before = issuer.keys.keys()
        issuer.replace_keys(fetched.keys)
        issuer.keys_problem = ""
        self.skipped.phrases = fetched.skipped
        with self._changed:
            self._schedule.succeeded(self._clock(), fetched.refresh_after)
        if self._warning or issuer.keys.keys() != before:
            _logger.info("%d keys of issuer %s were fetched", len(issuer.keys), issuer.url)
        self._warning = ""

    def _failed(self, why: str) -> None:
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
                f"the ones before are older than {rounded_duration(KEEP_SECONDS)}, so its tokens "
                "are refused until an attempt succeeds"
            )
            issuer.keys_problem = f"{text}; {kept}"
            issuer.replace_keys(())
        else:
            kept = f"the {len(issuer.keys)} that are here stay in use"
        self._warning = f"{text}; {kept}"
