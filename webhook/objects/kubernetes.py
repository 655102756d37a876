"""Objects as an API server tells of them: watched, and looked up where the watch has not seen one.

Invariants:

1. Reviews are decided on what the watches have told; no review waits for the API server, except
   for one bounded look-up of an object, or of its UID, that no watch has told of yet.
2. Fail closed: what cannot be found out is UNAVAILABLE. Below ``max_silence`` without contact what
   is known counts, so that an API server that is away for a moment changes no answer; above it
   nothing does, and the source is not ready.
3. A look-up is the newest there is (a GET without resourceVersion), but never beats a watch that
   has seen the object go. What it finds gone is remembered, so that a token of it that keeps
   coming asks once.
4. Where the API server cannot be reached, look-ups fail at once for a second.
5. Each process has its own watches: nothing runs before ``start``, which belongs after a fork.
"""

from collections.abc import Callable
from math import inf
from pathlib import Path
from time import monotonic
from typing import Final

from webhook.errors import APIServerError
from webhook.objects.api_server import look_up
from webhook.objects.kube_client import Connection
from webhook.objects.store import KindStore
from webhook.objects.watch import KindWatch
from webhook.token.bound_objects import Absence, Kind, Lookup, ObjectKey, ObjectState

_UNREACHABLE_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 2.0


class KubernetesObjects:
    """The objects of the cluster that a kubeconfig and a context, or this Pod, belong to.

    ``max_silence`` is in seconds, ``clock`` monotonic. Connects to nothing before ``start`` or the
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
        self._connection = Connection(kubeconfig, context)
        self._stores = {kind: KindStore(kind, max_silence, clock) for kind in Kind}
        self._watches = [KindWatch(self._connection, store) for store in self._stores.values()]
        self._unreachable_until = -inf

    def start(self) -> None:
        """Begin to watch."""
        for watch in self._watches:
            watch.start()

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        """Return what the watches have told of an object."""
        return self._stores[key.kind].find(key, uid)

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:
        """Ask the API server for an object, twice where the watch contradicts its first answer."""
        store = self._stores[key.kind]
        answer = self._ask(key)
        if store.contradicts(key, answer):
            answer = self._ask(key)
            if isinstance(answer, ObjectState) and store.contradicts(key, answer):
                return Absence.GONE
        current = answer.uid if isinstance(answer, ObjectState) else ""
        if answer is not Absence.UNAVAILABLE and (not current or uid not in ("", current)):
            store.remember_gone(key, uid)
        return answer

    def problem(self) -> str:
        """Return of which kinds what is known does not count, since when, and why."""
        return "; ".join(filter(None, (watch.problem() for watch in self._watches)))

    def warning(self) -> str:
        """Return an empty text: what a watch has to tell is a problem once it lasts."""
        return ""

    def close(self) -> None:
        """End the watches and close the connections."""
        for watch in self._watches:
            watch.stop()
        deadline = monotonic() + _CLOSE_SECONDS
        for watch in self._watches:
            watch.join(max(0.0, deadline - monotonic()))
        self._connection.close()

    def _ask(self, key: ObjectKey) -> Lookup:
        if self._clock() < self._unreachable_until:
            return Absence.UNAVAILABLE
        try:
            state = look_up(self._connection, key)
        except APIServerError as error:
            if error.code in (0, 401):
                self._unreachable_until = self._clock() + _UNREACHABLE_SECONDS
            return Absence.UNAVAILABLE
        return Absence.GONE if state is None else state
