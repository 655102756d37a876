"""Kubernetes requests as key ranges: the keys under which an API server stores objects in etcd.

``/registry/[GROUP/]RESOURCE[:SUBRESOURCE][:VERB]/[NAMESPACE/]NAME``, where VERB is there for verbs
that grant more than they change. A request for a path is the path itself.

>>> question_of(ResourceRequest("bind", "", "roles", name="a/b")).spans[0].start
b'/registry/roles:bind/a%2Fb'

Sources: kubernetes ``apiserver/pkg/endpoints/request/requestinfo.go`` (what a request has of which
attribute), ``pkg/apis/authorization/types.go`` (what ``*`` and an empty attribute mean),
``pkg/registry/rbac/escalation_check.go``, ``plugin/pkg/admission/certificates`` and
``apiserver/pkg/endpoints/filters/impersonation`` (the verbs that grant).

Invariants:

1. Every resource request has a key, which begins with what a grant on its whole resource covers.
2. Requests for different objects never have the same key. What separates the parts of a key is
   escaped in each part (``%2F``, ``%3A``, ``%25``), and the three parts that may be left out are
   told from those beside them by how they are written: see ``_first_segments``,
   ``_subresource`` and ``_grants_more``.
3. What is not said, or is ``*``, is asked for as a whole: the ranges hold every key that it could
   stand for. Of an unknown resource, a name alone is that of an object without namespace.
4. An object has one key. API servers say of a Namespace that it is in itself, and kubectl puts
   what has no namespace into the current one: that is not part of the key.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

import msgspec

from webhook.kube.resources import KNOWN
from webhook.rbac.model import PermissionType
from webhook.rbac.ranges import Range, merge, prefix_end

TOKEN_REVIEWS_KEY: Final = b"/leeway/tokenreviews"
ACCESS_REVIEWS_KEY: Final = b"/leeway/subjectaccessreviews"
SKEW_KEY: Final = b"/leeway/skew"

_ROOT: Final = "/registry/"
ROOT_KEY: Final = _ROOT.encode()
_ALL: Final = ("", "*")
_READ_VERBS: Final = frozenset(("get", "list", "watch"))
_READ_PATH_VERBS: Final = frozenset(("get", "head"))
# They are about all objects of a namespace, or of all of them: a name is a selector of theirs.
_COLLECTION_VERBS: Final = frozenset(("list", "watch", "deletecollection", *_ALL))
# A GET that is upgraded to a stream acts. Before 1.35 the verb of a WebSocket exec is `get` alone.
_ACTING_SUBRESOURCES: Final = frozenset(("exec", "attach", "portforward", "proxy", "*"))
_GRANTING_VERBS: Final = frozenset(("escalate", "bind", "approve", "sign", "attest", "use"))
# `impersonate`, `impersonate:MODE` and `impersonate-on:MODE:VERB`.
_IMPERSONATE: Final = "impersonate"
# These are asked about, and never stored.
_VIRTUAL: Final = {
    ("", "users"): False,
    ("", "groups"): False,
    ("authentication.k8s.io", "uids"): False,
    ("authentication.k8s.io", "userextras"): False,
    ("certificates.k8s.io", "signers"): False,
}
_NAMESPACED: Final = {(known.group, known.plural): known.namespaced for known in KNOWN} | _VIRTUAL
# What their keys begin with: none of them needs an escape, nor can be taken for a group.
_STEMS: Final = {
    (group, resource): f"{_ROOT}{group}/{resource}" if group else _ROOT + resource
    for group, resource in _NAMESPACED
}
_DOTTED_GROUP: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+")
_GROUPS_WITHOUT_DOT: Final = frozenset(
    ("extensions", *(known.group for known in KNOWN if known.group and "." not in known.group))
)
_ESCAPED: Final = str.maketrans({"%": "%25", "/": "%2F"})
_ESCAPED_WITH_COLON: Final = _ESCAPED | {ord(":"): "%3A"}
_READ: Final = (PermissionType.READ,)
_WRITE: Final = (PermissionType.WRITE,)
_BOTH: Final = (PermissionType.READ, PermissionType.WRITE)


class ResourceAttributes(msgspec.Struct, frozen=True, gc=False):
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


class NonResourceAttributes(msgspec.Struct, frozen=True, gc=False):
    """A request for a path that no resource has: ``NonResourceAttributes``."""

    verb: str
    path: str = ""


Attributes = ResourceAttributes | NonResourceAttributes


class RequiredAccess(NamedTuple):
    """What a request needs: every one of ``kinds`` on all keys of all ``spans``."""

    kinds: tuple[PermissionType, ...]
    spans: tuple[Range, ...]


def required_access(request: Attributes) -> RequiredAccess:
    """Return what the engine is asked for a request."""
    if isinstance(request, NonResourceAttributes):
        return RequiredAccess(_kinds(request.verb, _READ_PATH_VERBS), (_path_span(request.path),))
    kinds = _kinds(request.verb, _READ_VERBS)
    if request.verb == "get" and request.subresource in _ACTING_SUBRESOURCES:
        kinds = _BOTH
    return RequiredAccess(kinds, _resource_spans(request))


def resource_of(key: bytes) -> ResourceAttributes | None:
    """Return what a key is about, or a prefix of keys that ends in a slash; None for neither.

    The verb is empty unless it is a part of the key, and so are namespace and name of a prefix; a
    group or resource of which it holds all is ``*``.
    """
    if key == ROOT_KEY:
        return ResourceAttributes("", "*", "*")
    if not key.startswith(ROOT_KEY):
        return None
    try:
        first, *rest = key.removeprefix(ROOT_KEY).decode("utf-8").split("/")
    except UnicodeDecodeError:
        return None
    group = ""
    if not first or (":" not in first and (first.endswith(".") or _is_plain_group(first))):
        group = unquote(first.removesuffix("."))
        first, *rest = rest or [""]
        if group and not first:
            first, rest = "*", ["", ""]
    resource, *parts = first.split(":")
    subresource = "" if not parts or _grants_more(parts[0]) else parts.pop(0)
    is_namespaced = _NAMESPACED.get((group, unquote(resource)), False)
    if len(rest) == 1 and not (is_namespaced and rest[0]):
        rest.insert(0, "")
    if not resource or len(rest) != 2:
        return None
    verb, *others = map(unquote, (":".join(parts), resource, subresource, *rest))
    found = ResourceAttributes(verb, group, *others)
    # What is spelt in another way than `required_access` spells it is not the key of a request.
    asked = msgspec.structs.replace(found, verb=found.verb or "update")
    return found if required_access(asked).spans[0].start == key else None


def covers_every_object(span: Range) -> bool:
    """Return whether a range of paths, from ``/`` on for one, holds the keys of all objects too."""
    is_of_paths = span.start.startswith(b"/") and len(span.start) < len("/registry")
    return is_of_paths and merge([span, _prefix(_ROOT)]) == merge([span])


def _kinds(verb: str, reading: frozenset[str]) -> tuple[PermissionType, ...]:
    if verb in _ALL:
        return _BOTH
    return _READ if verb in reading else _WRITE


def _path_span(path: str) -> Range:
    if path in _ALL:
        return _prefix("/")
    return _prefix(path[:-1]) if path.endswith("*") else _single(path)


def _resource_spans(request: ResourceAttributes) -> tuple[Range, ...]:
    verb, group, resource, subresource = (
        request.verb, request.group, request.resource, request.subresource
    )  # fmt: skip
    stem = _STEMS.get((group, resource), "")
    if not stem:
        if group == "*" or (resource in _ALL and not group):
            # The core group has no segment of its own: all of it is all there is.
            return (_prefix(_ROOT),)
        stem = _first_segments(group, resource)
        if resource in _ALL:
            return (_prefix(stem),)
        stem += resource.translate(_ESCAPED_WITH_COLON)
    if subresource == "*":
        return (_prefix(f"{stem}:"),)
    if subresource:
        stem += f":{_subresource(subresource)}"
    if _grants_more(verb):
        return (_object_span(f"{stem}:{_escaped(verb)}", request),)
    span = _object_span(stem, request)
    # Any verb, those with a key of their own included.
    return (span, _prefix(f"{stem}:")) if verb in _ALL else (span,)


def _first_segments(group: str, resource: str) -> str:
    """Return all that stands before RESOURCE in a key.

    A first segment is a group if it has a dot or is a group of Kubernetes without one. So any other
    group gets a dot at its end, and where a resource of the core group could be taken for a group,
    the empty name of that is a segment: the audience ``vault.example.com`` of a token, for one.
    """
    if group:
        segment = group.translate(_ESCAPED_WITH_COLON)
        return f"{_ROOT}{segment}/" if _is_plain_group(group) else f"{_ROOT}{segment}./"
    if _is_plain_group(resource) or resource.endswith("."):
        return f"{_ROOT}/"
    return _ROOT


def _is_plain_group(text: str) -> bool:
    return text in _GROUPS_WITHOUT_DOT or _DOTTED_GROUP.fullmatch(text) is not None


def _subresource(text: str) -> str:
    """Return a subresource as it stands in a key, where none can be taken for a verb."""
    if _grants_more(text):
        return f"%{ord(text[0]):02X}{text[1:].translate(_ESCAPED_WITH_COLON)}"
    return text.translate(_ESCAPED_WITH_COLON)


def _escaped(text: str) -> str:
    # Nearly no text has either, and to look for them takes a third of the time.
    return text.translate(_ESCAPED) if "/" in text or "%" in text else text


def _grants_more(verb: str) -> bool:
    """Return whether a verb grants more than it changes, and so is a part of the key."""
    return verb in _GRANTING_VERBS or verb.startswith(_IMPERSONATE)


def _object_span(stem: str, request: ResourceAttributes) -> Range:
    namespace, name = request.namespace, request.name
    all_names = name in _ALL or request.verb in _COLLECTION_VERBS
    namespaced = _NAMESPACED.get((request.group, request.resource))
    name = _escaped(name)
    if namespaced is False or namespace in _ALL:
        # A name in all namespaces may be in any of them.
        everywhere = namespaced or (namespaced is None and namespace)
        if all_names or everywhere:
            return _prefix(f"{stem}/")
        return _single(f"{stem}/{name}")
    stem = f"{stem}/{_escaped(namespace)}/"
    return _prefix(stem) if all_names else _single(stem + name)


def _prefix(text: str) -> Range:
    prefix = text.encode("utf-8")
    return Range(prefix, prefix_end(prefix))


def _single(text: str) -> Range:
    key = text.encode("utf-8")
    return Range(key, key + b"\0")
