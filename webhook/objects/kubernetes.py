"""Objects of an API server: watched, and looked up if the watch has not seen one.

Invariants:

1. Reviews use what the watches have reported; no review waits for the API server, except for one
   bounded look-up of an object, or of its UID, that no watch has reported yet.
2. Fail closed: an object whose state cannot be determined is UNAVAILABLE. For ``max_silence``
   without contact the known state is used, so that a short outage of the API server changes no
   answer; after that nothing is, and the source is not ready.
3. A look-up returns the newest state (a GET without resourceVersion), but a watch that has seen the
   object deleted takes precedence. A look-up that finds it gone is remembered, so that a token
   sent again and again causes one request.
4. While the API server cannot be reached, look-ups fail immediately for a second at a time.
5. Each process has its own watches: nothing runs before ``start``, which belongs after a fork.
"""

from collections.abc import Callable
from math import inf
from pathlib import Path
from time import monotonic
from typing import Final

from webhook.errors import APIServerError
from webhook.objects.api_server import look_up
from webhook.objects.kube_client import KubeClient
from webhook.objects.store import KindStore
from webhook.objects.watch import KindWatch
from webhook.token.bound_objects import Absence, Kind, Lookup, ObjectKey, ObjectState

_UNREACHABLE_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 2.0


class KubernetesObjects:
    """The objects of the cluster of a kubeconfig and a context, or of this Pod.

    ``max_silence`` is in seconds, ``clock`` monotonic. Makes no connection before ``start`` or the
    first look-up. Raises ConfigurationError.
    """

    def __init__(
        self,
        kubeconfig: Path | None,
        context: str,
        max_silence: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._connection = KubeClient(kubeconfig, context)
        self._stores = {kind: KindStore(kind, max_silence, clock) for kind in Kind}
        self._watches = [KindWatch(self._connection, store) for store in self._stores.values()]
        self._unreachable_until = -inf

    def start(self) -> None:
        """Start to watch (invariant 5)."""
        for watch in self._watches:
            watch.start()

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        """Return what the watches have reported of an object."""
        return self._stores[key.kind].find(key, uid)  # invariant 1

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:
        """Get an object from the API server, twice if the watch contradicts the first answer."""
        store = self._stores[key.kind]
        answer = self._request(key)
        if store.contradicts(key, answer):
            answer = self._request(key)
            if isinstance(answer, ObjectState) and store.contradicts(key, answer):
                return Absence.GONE  # invariant 3
        current = answer.uid if isinstance(answer, ObjectState) else ""
        if answer is not Absence.UNAVAILABLE and (not current or uid not in ("", current)):
            store.remember_gone(key, uid)
        return answer

    def problem(self) -> str:
        """Return the kinds whose known state is not used, since when, and why."""
        return "; ".join(filter(None, (watch.problem() for watch in self._watches)))

    def warning(self) -> str:
        """Return an empty text: a failing watch is a problem once it lasts."""
        return ""

    def close(self) -> None:
        """Stop the watches and close the connections."""
        for watch in self._watches:
            watch.stop()
        deadline = monotonic() + _CLOSE_SECONDS
        for watch in self._watches:
            watch.join(max(0.0, deadline - monotonic()))
        self._connection.close()

    def _request(self, key: ObjectKey) -> Lookup:
        if self._clock() < self._unreachable_until:  # invariant 4
            return Absence.UNAVAILABLE
        try:
            state = look_up(self._connection, key)
        except APIServerError as error:
            if error.code in (0, 401):
                self._unreachable_until = self._clock() + _UNREACHABLE_SECONDS
            return Absence.UNAVAILABLE  # invariant 2
        return Absence.GONE if state is None else state
