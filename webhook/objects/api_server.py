"""Lists, watches and gets ServiceAccounts, Pods, Secrets and Nodes of an API server.

Source: kubernetes "API Concepts" (efficient detection of changes, chunked lists, bookmarks,
alternate representations) and ``apimachinery/pkg/watch``.

Invariants:

1. Of ServiceAccounts, Secrets and Nodes only the metadata is requested and accepted: no data of a
   Secret ever enters this process. Of a Pod its service account and its node are kept, of a Secret
   whether it is marked invalid.
2. A list is consistent and the newest: it requests no resourceVersion.
3. A response of the wrong kind is an error, never an empty list.
"""

from collections.abc import Iterator
from sys import intern
from typing import Final, NamedTuple, Self
from urllib.parse import quote

import msgspec

from webhook.errors import APIServerError
from webhook.objects.documents import unix_seconds
from webhook.objects.kube_client import KubeClient
from webhook.outbound.errors import OutboundError
from webhook.outbound.https import ClientResponse
from webhook.token.bound_objects import INVALID_SINCE_LABEL, Kind, ObjectKey, ObjectState

PAGE_SIZE: Final = 500
LOOKUP_SECONDS: Final = 2.0
_LIST_SECONDS: Final = 30.0
_MAX_BYTES: Final = 256 * 1024 * 1024
_MAX_OBJECT_BYTES: Final = 16 * 1024 * 1024
_MAX_LINE_BYTES: Final = 16 * 1024 * 1024
_OK: Final = 200
_TOO_MANY_REQUESTS: Final = 429
_DEFAULT_ACCOUNT: Final = "default"
_JSON: Final = "application/json"
_PARTIAL: Final = f"{_JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_PARTIAL_LIST: Final = f"{_JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PLURALS: Final = {
    Kind.SERVICE_ACCOUNT: "serviceaccounts",
    Kind.POD: "pods",
    Kind.SECRET: "secrets",
    Kind.NODE: "nodes",
}


class _Labels(msgspec.Struct):
    invalid_since: str = msgspec.field(name=INVALID_SINCE_LABEL, default="")


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: _Labels | None = None


class _Spec(msgspec.Struct, rename="camel"):
    service_account_name: str | None = None
    node_name: str | None = None


class _Object(msgspec.Struct):
    kind: str = ""
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    spec: _Spec | None = None


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_token: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    kind: str
    metadata: _ListMetadata
    items: list[_Object] | None = None


class _WireEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0


class Page(NamedTuple):
    """A part of a list; ``more`` is the token for the next page, empty on the last."""

    objects: dict[ObjectKey, ObjectState]
    resource_version: str
    more: str


class Event(NamedTuple):
    """An event of a watch; a bookmark has no key and no state."""

    type: str
    resource_version: str
    key: ObjectKey | None = None
    state: ObjectState | None = None


_list_decoder = msgspec.json.Decoder(_List)
_object_decoder = msgspec.json.Decoder(_Object)
_event_decoder = msgspec.json.Decoder(_WireEvent)
_status_decoder = msgspec.json.Decoder(_Status)


def list_page(connection: KubeClient, kind: Kind, more: str = "") -> Page:
    """Get a page of all objects of a kind. Raises APIServerError."""
    # Invariant 2: without a resourceVersion.
    query = {"limit": str(PAGE_SIZE)} | ({"continue": more} if more else {})
    accept = _JSON if kind is Kind.POD else _PARTIAL_LIST
    with connection.get(_path(kind), query, accept, _LIST_SECONDS, _MAX_BYTES) as response:
        data = _body(response)
    try:
        found = _list_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise APIServerError(f"its list of {kind}s cannot be read", _OK) from error
    _require_kind(kind, found.kind, "List")
    if not found.metadata.resource_version:
        raise APIServerError(f"its list of {kind}s has no resourceVersion", _OK)
    objects = dict(_entry(kind, item) for item in found.items or ())
    return Page(objects, found.metadata.resource_version, found.metadata.continue_token)


def look_up(connection: KubeClient, key: ObjectKey) -> ObjectState | None:
    """Get one object, None if it does not exist. Raises APIServerError."""
    accept = _JSON if key.kind is Kind.POD else _PARTIAL
    try:
        path = _path(key.kind, key)
        with connection.get(path, {}, accept, LOOKUP_SECONDS, _MAX_OBJECT_BYTES) as response:
            data = _body(response)
    except APIServerError as error:
        if error.is_not_found:
            return None
        raise
    found, state = _entry(key.kind, _decoded(key.kind, data))
    if found != key:
        raise APIServerError(f"asked for {key}, it answered with {found}", _OK)
    return state


class Watch:
    """The changes of one kind of object after a resourceVersion.

    The API server is asked to end it after ``seconds``; after ``grace_seconds`` more it is ended
    here. Opening it raises APIServerError.
    """

    def __init__(
        self,
        connection: KubeClient,
        kind: Kind,
        resource_version: str,
        seconds: int,
        grace_seconds: float,
    ) -> None:
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
        }
        accept = _JSON if kind is Kind.POD else _PARTIAL
        self._kind = kind
        self._response = connection.get(
            _path(kind), query, accept, seconds + grace_seconds, _MAX_BYTES
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def events(self) -> Iterator[Event]:
        """Yield events until the API server ends the watch. Raises APIServerError.

        Its code is 0 if the connection was lost, and 429 if a later attempt may succeed; after any
        other, 410 or not, a watch cannot be resumed from this resourceVersion.
        """
        buffer = b""
        try:
            for chunk in self._response.chunks():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield self._event(line)
                if len(buffer) > _MAX_LINE_BYTES:
                    raise APIServerError("an event of its watch is too large", _OK)
        except OutboundError as error:
            raise APIServerError(str(error)) from error

    def interrupt(self) -> None:
        """Wake a thread that waits in ``events``."""
        self._response.interrupt()

    def _event(self, line: bytes) -> Event:
        try:
            wire = _event_decoder.decode(line)
            if wire.type == "ERROR":
                status = _status_decoder.decode(wire.object)
                # With any other code this resourceVersion can no longer be used.
                code = status.code if status.code == _TOO_MANY_REQUESTS else _OK
                raise APIServerError(f"its watch ended with code {status.code}", code)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise APIServerError("an event of its watch cannot be read", _OK) from error
        found = _decoded(self._kind, wire.object, any_kind=wire.type == "BOOKMARK")
        version = found.metadata.resource_version
        if wire.type == "BOOKMARK":
            return Event(wire.type, version)
        if wire.type not in ("ADDED", "MODIFIED", "DELETED"):
            raise APIServerError(f"its watch has an event of type {wire.type[:32]!r}", _OK)
        return Event(wire.type, version, *_entry(self._kind, found))


def _path(kind: Kind, key: ObjectKey | None = None) -> str:
    plural = _PLURALS[kind]
    if key is None:
        return f"/api/v1/{plural}"
    name = quote(key.name, safe="")
    if kind is Kind.NODE:
        return f"/api/v1/{plural}/{name}"
    return f"/api/v1/namespaces/{quote(key.namespace, safe='')}/{plural}/{name}"


def _body(response: ClientResponse) -> bytes:
    try:
        return response.read()
    except OutboundError as error:
        raise APIServerError(str(error)) from error


def _decoded(kind: Kind, data: bytes | msgspec.Raw, *, any_kind: bool = False) -> _Object:
    try:
        found = _object_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise APIServerError(f"its {kind} cannot be read", _OK) from error
    if not any_kind:
        _require_kind(kind, found.kind)
    return found


def _require_kind(kind: Kind, found: str, suffix: str = "") -> None:
    expected = f"{kind if kind is Kind.POD else 'PartialObjectMetadata'}{suffix}"
    if found != expected:  # invariants 1 and 3
        raise APIServerError(f"asked for a {expected}, it answered with {found[:64]!r}", _OK)


def _entry(kind: Kind, found: _Object) -> tuple[ObjectKey, ObjectState]:
    metadata, spec = found.metadata, found.spec or _Spec()
    if not (metadata.name and metadata.uid and (kind is Kind.NODE or metadata.namespace)):
        raise APIServerError(f"a {kind} in its answer has no name, namespace or uid", _OK)
    try:
        deleted = metadata.deletion_timestamp
        deleted_at = unix_seconds(deleted) if deleted else None
    except ValueError as error:
        raise APIServerError(
            f"a {kind} in its answer has a deletionTimestamp that is not a time", _OK
        ) from error
    key = ObjectKey(kind, "" if kind is Kind.NODE else intern(metadata.namespace), metadata.name)
    if kind is not Kind.POD:
        labels = metadata.labels if kind is Kind.SECRET else None
        invalid = labels is not None and labels.invalid_since != ""
        return key, ObjectState(metadata.uid, deleted_at, is_marked_invalid=invalid)
    account = intern(spec.service_account_name or _DEFAULT_ACCOUNT)
    return key, ObjectState(metadata.uid, deleted_at, account, intern(spec.node_name or ""))
