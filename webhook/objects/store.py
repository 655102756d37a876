"""The known state of one kind of object.

Invariants:

1. The state of an object is that of the last list or event; a list replaces all objects
   at once.
2. The most recently deleted UIDs are remembered, to be refused without a look-up. A UID is never
   reused; if a list or an event has one after all, it is not deleted.
3. One thread writes, look-ups add deleted UIDs, and any thread reads: each step is one operation on
   a dict.
"""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Final

from webhook.token.bound_objects import Absence, Kind, Lookup, ObjectKey, ObjectState

MAX_GONE: Final = 20_000
"""How many deleted UIDs are remembered for each kind."""


class KindStore:
    """The objects of one kind.

    ``clock`` is monotonic. After ``max_silence`` seconds without contact the known state is not
    used.
    """

    def __init__(self, kind: Kind, max_silence: float, clock: Callable[[], float]) -> None:
        self.kind = kind
        self.max_silence = max_silence
        self._clock = clock
        self._objects: dict[ObjectKey, ObjectState] = {}
        self._gone: OrderedDict[tuple[ObjectKey, str], None] = OrderedDict()
        self._gone_lock = Lock()
        self._contact: float | None = None

    def __len__(self) -> int:
        return len(self._objects)

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        """Return the state of an object; see ObjectSource."""
        contact = self._contact
        if contact is None:
            # No watch would report yet that this has changed.
            return Absence.GONE if uid and (key, uid) in self._gone else Absence.UNSEEN
        if self._clock() - contact > self.max_silence:
            return Absence.UNAVAILABLE
        state = self._objects.get(key)  # invariant 3
        if state is None:
            return Absence.GONE if (key, uid) in self._gone else Absence.UNSEEN
        if uid and state.uid != uid and (key, uid) not in self._gone:
            # The watch may be behind.
            return Absence.UNSEEN
        return state

    def contradicts(self, key: ObjectKey, answer: Lookup) -> bool:
        """Return whether a look-up's answer may be older than what the watch has reported."""
        if isinstance(answer, ObjectState):
            return (key, answer.uid) in self._gone
        return answer is Absence.GONE and key in self._objects

    def silence(self) -> float | None:
        """Return the seconds since the last contact, None before the first list."""
        return None if self._contact is None else self._clock() - self._contact

    def touch(self) -> None:
        """Record a contact with the API server, if there has been a list."""
        if self._contact is not None:
            self._contact = self._clock()

    def replace(self, objects: dict[ObjectKey, ObjectState]) -> None:
        """Replace all objects by those of a list."""
        for key, old in self._objects.items():
            new = objects.get(key)
            if new is None or new.uid != old.uid:
                self.remember_gone(key, old.uid)
        for key in [key for key in self._gone_keys() if key in objects]:
            self._forget_gone(key, objects[key].uid)
        self._objects = objects  # invariant 1
        self._contact = self._clock()

    def put(self, key: ObjectKey, state: ObjectState) -> None:
        """Store an object that was added or changed."""
        old = self._objects.get(key)
        self._objects[key] = state
        if old is not None and old.uid != state.uid:
            self.remember_gone(key, old.uid)
        self._forget_gone(key, state.uid)
        self.touch()

    def remove(self, key: ObjectKey, uid: str) -> None:
        """Remove a deleted object."""
        self.remember_gone(key, uid)
        old = self._objects.get(key)
        if old is not None and old.uid == uid:
            del self._objects[key]
        self.touch()

    def remember_gone(self, key: ObjectKey, uid: str) -> None:
        """Record that no object has this UID; an empty UID means any."""
        with self._gone_lock:
            self._gone[key, uid] = None  # invariant 2
            if len(self._gone) > MAX_GONE:
                self._gone.popitem(last=False)

    def _forget_gone(self, key: ObjectKey, uid: str) -> None:
        with self._gone_lock:
            self._gone.pop((key, uid), None)
            self._gone.pop((key, ""), None)

    def _gone_keys(self) -> list[ObjectKey]:
        with self._gone_lock:
            return [key for key, _ in self._gone]
