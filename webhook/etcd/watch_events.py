"""What the messages of a watch stream mean: one watch, from its creation to its end.

Invariants:

1. Nothing is an event before etcd has confirmed the watch.
2. What is returned are complete revisions in ascending order: the fragments of a message are
   joined, and what arrived of it when the watch ends is dropped.
3. A watch that etcd cancels raises, whatever else is in the message. A create that is refused has
   the id -1, or, before etcd 3.5.6, an id that another watch could have; a stream has one watch.
4. ``next_revision`` is where a following watch misses nothing and repeats nothing. The revision of
   a header with events is not: events up to it may still be on their way.

Source: etcd ``api/etcdserverpb/rpc.proto`` and ``server/etcdserver/api/v3rpc/watch.go`` (v3.6).
"""

from webhook.etcd import messages
from webhook.etcd import rpc_pb2 as rpc
from webhook.etcd.errors import Code, NoAnswerError, error_of_cancel
from webhook.etcd.values import Event, Header, WatchBatch


class WatchEvents:
    """Turns messages into batches. ``endpoint`` is for the errors."""

    def __init__(self, start_revision: int, endpoint: str) -> None:
        self.created: Header | None = None
        self.next_revision = start_revision
        self._endpoint = endpoint
        self._id = 0
        self._events: list[Event] = []

    def take(self, message: rpc.WatchResponse) -> WatchBatch | None:
        """Return the batch that a message completes, if it does.

        Raises the error for a watch that is cancelled, or NoAnswerError for a message that does not
        belong here.
        """
        if message.canceled:  # Invariant 3.
            raise error_of_cancel(message.cancel_reason, message.compact_revision, self._endpoint)
        header = messages.header(message.header)
        if self.created is None:
            if not message.created or message.events:  # Invariant 1.
                raise self._wrong("events before the watch was created")
            self.created = header
            self._id = message.watch_id
            # Without a start, etcd begins with the revision after that of this header.
            self.next_revision = self.next_revision or header.revision + 1
            return None
        if message.created or message.watch_id != self._id:
            raise self._wrong("a message of another watch")
        self._take_events(message)
        if message.fragment:
            return None
        events, self._events = tuple(self._events), []
        if events:
            self.next_revision = events[-1].kv.mod_revision + 1  # Invariant 4.
        else:
            self.next_revision = max(self.next_revision, header.revision + 1)
        return WatchBatch(header, events)

    def _take_events(self, message: rpc.WatchResponse) -> None:
        last = self._events[-1].kv.mod_revision if self._events else self.next_revision
        for event in map(messages.event, message.events):
            if event.kv.mod_revision < last:  # Invariant 2.
                raise self._wrong(f"revision {event.kv.mod_revision} after {last - 1}")
            last = event.kv.mod_revision
            self._events.append(event)

    def _wrong(self, what: str) -> NoAnswerError:
        return NoAnswerError(
            f"etcd at {self._endpoint} sent {what} to a watch",
            code=Code.DATA_LOSS,
            text=what,
            endpoint=self._endpoint,
        )
