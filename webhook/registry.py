"""Kubernetes requests as key ranges: the keys under which an API server stores objects in etcd.

``/registry/[GROUP/]RESOURCE/[NAMESPACE/]NAME``; a subresource is ``RESOURCE:SUBRESOURCE``. A
request for a path is the path itself.

Sources: kubernetes ``apiserver/pkg/endpoints/request/requestinfo.go`` (what a request has of which
attribute), ``pkg/apis/authorization/types.go`` (what ``*`` and an empty attribute mean).

Invariants:

1. Two requests that may touch different objects never become the same key: no attribute may hold
   what separates two of them, and no group is called like a resource of the core group, which has
   no segment of its own.
2. What is not said, or is ``*``, is asked for as a whole: the range holds every key that it could
   stand for. Of a resource that is not known here, a name alone is that of an object without
   namespace.
3. An object has one key. API servers say of a Namespace that it is in itself, and kubectl puts
   what has no namespace into the current one: that is not part of the key.
"""

from typing import Final, NamedTuple

import msgspec

from webhook.errors import LeewayError
from webhook.known_resources import KNOWN
from webhook.rbac.model import PermissionType
from webhook.rbac.ranges import Range, prefix_end

_ROOT: Final = "/registry/"
_ALL: Final = ("", "*")
_READ_VERBS: Final = frozenset(("get", "list", "watch"))
_READ_PATH_VERBS: Final = frozenset(("get", "head"))
# They are about all objects of a namespace, or of all of them: a name is a selector of theirs.
_COLLECTION_VERBS: Final = frozenset(("list", "watch", "deletecollection", *_ALL))
_NAMESPACED: Final = {(known.group, known.plural): known.namespaced for known in KNOWN}
# The last three are asked about, and never stored (``users`` and ``groups`` by impersonation).
_CORE_RESOURCES: Final = frozenset(
    (*(known.plural for known in KNOWN if not known.group), "bindings", "groups", "users")
)
_READ: Final = (PermissionType.READ,)
_WRITE: Final = (PermissionType.WRITE,)
_BOTH: Final = (PermissionType.READ, PermissionType.WRITE)


class UnmappableRequestError(LeewayError):
    """A request that no key can stand for."""


class ResourceRequest(msgspec.Struct, frozen=True, gc=False):
    """A request for objects: ``ResourceAttributes`` of a SubjectAccessReview.

    An empty ``name`` is every one, an empty ``namespace`` none or all of them. The core group is
    empty.
    """

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class PathRequest(msgspec.Struct, frozen=True, gc=False):
    """A request for a path that no resource has: ``NonResourceAttributes``."""

    verb: str
    path: str = ""


Request = ResourceRequest | PathRequest


class Question(NamedTuple):
    """What a request needs: every one of ``kinds`` on the whole of ``span``."""

    kinds: tuple[PermissionType, ...]
    span: Range


def question_of(request: Request) -> Question:
    """Return what the engine is to be asked for a request.

    Raises UnmappableRequestError for a resource request in which a separator of keys stands.
    """
    if isinstance(request, PathRequest):
        return Question(_kinds(request.verb, _READ_PATH_VERBS), _path_span(request.path))
    return Question(_kinds(request.verb, _READ_VERBS), _resource_span(request))


def _kinds(verb: str, reading: frozenset[str]) -> tuple[PermissionType, ...]:
    if verb in _ALL:
        return _BOTH
    return _READ if verb in reading else _WRITE


def _path_span(path: str) -> Range:
    if path in _ALL:
        return _prefix("/")
    return _prefix(path[:-1]) if path.endswith("*") else _single(path)


def _resource_span(request: ResourceRequest) -> Range:
    verb, group, resource, subresource, namespace, name = msgspec.structs.astuple(request)
    if "/" in group or "/" in namespace or "/" in name or "/" in subresource or "/" in resource:
        raise _unmappable(request)
    if ":" in group or ":" in resource or ":" in subresource or group in _CORE_RESOURCES:
        raise _unmappable(request)
    if group == "*" or resource in _ALL:
        # The core group has no segment of its own: all of it is all there is.
        return _prefix(_ROOT if group in _ALL else f"{_ROOT}{group}/")
    stem = f"{_ROOT}{group}/{resource}" if group else _ROOT + resource
    if subresource == "*":
        return _prefix(f"{stem}:")
    if subresource:
        stem = f"{stem}:{subresource}"
    all_names = name in _ALL or verb in _COLLECTION_VERBS
    namespaced = _NAMESPACED.get((group, resource))
    if namespaced is False or namespace in _ALL:
        # A name in all namespaces may be in any of them.
        everywhere = namespaced or (namespaced is None and namespace)
        if all_names or everywhere:
            return _prefix(f"{stem}/")
        return _single(f"{stem}/{name}")
    stem = f"{stem}/{namespace}/"
    return _prefix(stem) if all_names else _single(stem + name)


def _prefix(text: str) -> Range:
    prefix = text.encode("utf-8")
    return Range(prefix, prefix_end(prefix))


def _single(text: str) -> Range:
    key = text.encode("utf-8")
    return Range(key, key + b"\0")


def _unmappable(request: ResourceRequest) -> UnmappableRequestError:
    if request.group in _CORE_RESOURCES:
        return UnmappableRequestError(
            f"group {request.group!r} stands for no key: it is a resource of the core group, which "
            "has an empty name; ask for that"
        )
    found = next(
        f"{field} {value[:64]!r}"
        for field in ("group", "resource", "subresource", "namespace", "name")
        if "/" in (value := getattr(request, field))
        or (":" in value and field not in ("namespace", "name"))
    )
    return UnmappableRequestError(
        f"{found} stands for no key: it may not hold a slash, nor a group or resource a colon; ask "
        "for a subresource as one"
    )
