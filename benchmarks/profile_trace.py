"""Takes the times of the functions that a TokenReview goes through, in the server.

Each function in ``TRACED`` is replaced, where it is looked up, by one that takes the time. The time
of a function is its own: what traced functions take that it calls is theirs. What taking the time
takes is measured at the start and taken off.
"""

import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any, Final, NamedTuple


class Traced(NamedTuple):
    """A function or method: what is shown of it, and the module and name to replace."""

    shown: str
    module: str
    name: str


_AUTHENTICATOR: Final = "webhook.token.authenticator"
_ROUTE: Final = "webhook.server.routes.token_reviews"
ROOT: Final = Traced("Application.answer", "webhook.server.routes.dispatch", "Application.answer")
TRACED: Final = (
    ROOT,
    Traced("Callers.find", "webhook.server.request.caller", "Callers.find"),
    Traced("AuthStore.refresh", "webhook.rbac.auth_store", "AuthStore.refresh"),
    Traced("Callers.require", "webhook.server.request.caller", "Callers.require"),
    Traced("TokenReviews.review", _ROUTE, "TokenReviews.review"),
    Traced("parse_token_review", _ROUTE, "parse_token_review"),
    Traced("Authenticator.authenticate", _AUTHENTICATOR, "Authenticator.authenticate"),
    Traced("hashlib.sha256", "hashlib", "sha256"),
    Traced("FactCache.get, put", "webhook.token.fact_cache", "FactCache.get"),
    Traced("FactCache.get, put", "webhook.token.fact_cache", "FactCache.put"),
    Traced("jws.parse", "keys.jws", "parse"),
    Traced("read_unverified", _AUTHENTICATOR, "read_unverified"),
    Traced("jws.header", "keys.jws", "header"),
    Traced("jws.verify", "keys.jws", "verify"),
    # Nothing but the call of cryptography.
    Traced("RS256 signature", "keys.jws", "_RSAAlgorithm.verify"),
    Traced("parse_claims", _AUTHENTICATOR, "parse_claims"),
    Traced("SkewTracker.see", "webhook.skew.tracker", "SkewTracker.see"),
    Traced("check_audience", _AUTHENTICATOR, "_check_audience"),
    Traced("check_times", _AUTHENTICATOR, "_check_times"),
    Traced("AuthStore.find_revocation", "webhook.rbac.auth_store", "AuthStore.find_revocation"),
    Traced("role_groups", _ROUTE, "role_groups"),
    Traced("render_token_review", _ROUTE, "render_token_review"),
    Traced("Metrics.count_review", "webhook.telemetry.metrics", "Metrics.count_review"),
    Traced("RequestLog.reviewed", "webhook.server.request.log", "RequestLog.reviewed"),
)
_NOTHING: Final = ""
_CALIBRATIONS: Final = 20_001

_Function = Callable[..., Any]
Times = dict[str, float]
"""Nanoseconds of one request by what is shown of a function."""


class Tracer:
    """Takes the times of functions, for one request after the other, in ``requests``.

    ``clock`` tells nanoseconds.
    """

    def __init__(self, clock: Callable[[], int] = perf_counter_ns) -> None:
        self._clock = clock
        self.requests: list[Times] = []
        self._times: Times = {}
        # What traced functions took that the running one called.
        self._called = 0.0
        # What taking the time takes: within what is measured, and around it.
        self._within = self._around = 0.0
        self._calibrate()

    def wrap(self, shown: str, function: _Function) -> _Function:
        """Return the function with its time taken."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._called, started = self._called, 0.0, self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                self._add(shown, self._clock() - started, outer)

        return timed

    def wrap_root(self, shown: str, function: _Function) -> _Function:
        """Return a function with its time taken; each call of it is a request."""
        traced = self.wrap(shown, function)

        def root(*args: Any, **kwargs: Any) -> Any:
            self._times, self._called = {}, 0.0
            try:
                return traced(*args, **kwargs)
            finally:
                self.requests.append(self._times)

        return root

    def _add(self, shown: str, taken: float, outer: float) -> None:
        own = taken - self._called - self._within
        self._times[shown] = self._times.get(shown, 0.0) + own
        self._called = outer + taken + self._around

    def _calibrate(self) -> None:
        def nothing() -> None:
            pass

        timed, within, all_of_it, bare = self.wrap(_NOTHING, nothing), [], [], []
        for _ in range(_CALIBRATIONS):
            self._times = {}
            started = self._clock()
            timed()
            ended = self._clock()
            nothing()
            all_of_it.append(ended - started)
            bare.append(self._clock() - ended)
            within.append(self._times[_NOTHING])
        self._within = median(within)
        self._around = median(all_of_it) - median(bare) - self._within


def install(tracer: Tracer, table: Sequence[Traced] = TRACED) -> None:
    """Replace the functions. Raises AttributeError for one that is not there any more."""
    for traced in table:
        owner: object = importlib.import_module(traced.module)
        *path, name = traced.name.split(".")
        for part in path:
            owner = getattr(owner, part)
        wrap = tracer.wrap_root if traced == ROOT else tracer.wrap
        setattr(owner, name, wrap(traced.shown, getattr(owner, name)))


def median_times(requests: Sequence[Times]) -> Times:
    """Return the median time of each function: now and then the processor is somewhere else."""
    names = dict.fromkeys(name for times in requests for name in times)
    return {name: median(times.get(name, 0.0) for times in requests) for name in names}


def write_requests(tracer: Tracer, path: Path) -> None:
    """Write the times of all requests as JSON."""
    path.write_text(json.dumps(tracer.requests), "ascii")


def read_requests(path: Path) -> list[Times]:
    """Read what ``write_requests`` has written."""
    requests: list[Times] = json.loads(path.read_text("ascii"))
    return requests
