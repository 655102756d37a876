"""Kubernetes requests as ranges of keys.

The keys are those under which an API server stores objects in etcd:
``/registry/[GROUP/]RESOURCE[:SUBRESOURCE][:VERB]/[NAMESPACE/]NAME``. They have a VERB only if the
verb grants more than it changes. The key of a path is the path itself.

>>> required_access(ResourceAttributes("list", "apps", "deployments", namespace="shop")).spans[0]
Range(start=b'/registry/apps/deployments/shop/', end=b'/registry/apps/deployments/shop0')
>>> required_access(ResourceAttributes("bind", "", "roles", name="a/b")).spans[0].start
b'/registry/roles:bind/a%2Fb'

Sources: kubernetes ``apiserver/pkg/endpoints/request/requestinfo.go`` (what a request has of which
attribute), ``pkg/apis/authorization/types.go`` (what ``*`` and an empty attribute mean),
``pkg/registry/rbac/escalation_check.go``, ``plugin/pkg/admission/certificates`` and
``apiserver/pkg/endpoints/filters/impersonation`` (the verbs that grant).

Invariants:

1. Every request for a resource has a key, and a grant on the whole resource covers it.
2. Requests for different objects never have the same key. The separators of a key are escaped in
   its parts (``%2F``, ``%3A``, ``%25``), and the three optional parts cannot be mistaken for the
   parts next to them: see ``_first_segments``, ``_subresource`` and ``_grants_more``.
3. An attribute that is missing or ``*`` stands for all its values: the ranges contain every key
   that it could mean. The name of an unknown resource without a namespace is that of a
   cluster-scoped object.
4. An object has one key. The namespace of a cluster-scoped object is not part of it, although API
   servers send a Namespace as its own namespace, and kubectl sends the current one.
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
# They concern all objects of one namespace or of all; a name only selects among them.
_COLLECTION_VERBS: Final = frozenset(("list", "watch", "deletecollection", *_ALL))
# A GET that is upgraded to a stream acts. Before 1.35 the verb of a WebSocket exec is `get` alone.
_ACTING_SUBRESOURCES: Final = frozenset(("exec", "attach", "portforward", "proxy", "*"))
_GRANTING_VERBS: Final = frozenset(("escalate", "bind", "approve", "sign", "attest", "use"))
# `impersonate`, `impersonate:MODE` and `impersonate-on:MODE:VERB`.
_IMPERSONATE: Final = "impersonate"
# Resources that are reviewed but never stored.
_VIRTUAL: Final = {
    ("", "users"): False,
    ("", "groups"): False,
    ("authentication.k8s.io", "uids"): False,
    ("authentication.k8s.io", "userextras"): False,
    ("certificates.k8s.io", "signers"): False,
}
_NAMESPACED: Final = {(known.group, known.plural): known.namespaced for known in KNOWN} | _VIRTUAL
# Beginnings of keys. No part of them needs an escape or could be mistaken for a group.
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
    """A request for objects, as in a SubjectAccessReview.

    An empty ``name`` means every name, an empty ``namespace`` none or all of them. The name of the
    core group is empty.
    """

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class NonResourceAttributes(msgspec.Struct, frozen=True, gc=False):
    """A request for a path that is not a resource, as in a SubjectAccessReview."""

    verb: str
    path: str = ""


Attributes = ResourceAttributes | NonResourceAttributes


class RequiredAccess(NamedTuple):
    """The access that a request requires: all ``kinds`` on all keys of all ``spans``."""

    kinds: tuple[PermissionType, ...]
    spans: tuple[Range, ...]


def required_access(request: Attributes) -> RequiredAccess:
    """Return the access that a request requires."""
    if isinstance(request, NonResourceAttributes):
        return RequiredAccess(_kinds(request.verb, _READ_PATH_VERBS), (_path_span(request.path),))
    kinds = _kinds(request.verb, _READ_VERBS)
    if request.verb == "get" and request.subresource in _ACTING_SUBRESOURCES:
        kinds = _BOTH
    return RequiredAccess(kinds, _resource_spans(request))


def resource_of(key: bytes) -> ResourceAttributes | None:
    """Return the attributes that a key, or a prefix that ends in a slash, stands for, else None.

    The verb is empty unless the key contains it. Namespace and name of a prefix are empty, and a
    group or resource of which it contains all is ``*``.
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
    # A key that `required_access` would spell differently is not that of a request.
    asked = msgspec.structs.replace(found, verb=found.verb or "update")
    return found if required_access(asked).spans[0].start == key else None


def covers_every_object(span: Range) -> bool:
    """Return whether a range of paths, such as all from ``/`` on, has the keys of all objects."""
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
    # Invariant 1: also for a resource that is not known.
    stem = _STEMS.get((group, resource), "")
    if not stem:
        if group == "*" or (resource in _ALL and not group):
            # The core group has no segment of its own, so only the prefix of all groups covers it.
            return (_prefix(_ROOT),)
        stem = _first_segments(group, resource)
        if resource in _ALL:
            return (_prefix(stem),)
        stem += resource.translate(_ESCAPED_WITH_COLON)
    if subresource == "*":
        return (_prefix(f"{stem}:"),)  # Invariant 3.
    if subresource:
        stem += f":{_subresource(subresource)}"
    if _grants_more(verb):
        return (_object_span(f"{stem}:{_escaped(verb)}", request),)
    span = _object_span(stem, request)
    # Any verb, including those that are part of the key.
    return (span, _prefix(f"{stem}:")) if verb in _ALL else (span,)


def _first_segments(group: str, resource: str) -> str:
    """Return the part of a key before RESOURCE.

    A first segment is a group if it has a dot or is one of Kubernetes' groups without one. Any
    other group therefore gets a dot at its end, and a resource of the core group that could be
    mistaken for a group, such as the audience ``vault.example.com``, follows an empty segment.
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
    """Return a subresource as a key has it, so that it cannot be mistaken for a verb."""
    if _grants_more(text):
        return f"%{ord(text[0]):02X}{text[1:].translate(_ESCAPED_WITH_COLON)}"
    return text.translate(_ESCAPED_WITH_COLON)


def _escaped(text: str) -> str:
    # Invariant 2. Almost no text has either, and a search takes a third of the time of translate.
    return text.translate(_ESCAPED) if "/" in text or "%" in text else text


def _grants_more(verb: str) -> bool:
    """Return whether a verb grants more than it changes, and so is part of the key."""
    return verb in _GRANTING_VERBS or verb.startswith(_IMPERSONATE)


def _object_span(stem: str, request: ResourceAttributes) -> Range:
    namespace, name = request.namespace, request.name
    all_names = name in _ALL or request.verb in _COLLECTION_VERBS
    namespaced = _NAMESPACED.get((request.group, request.resource))
    name = _escaped(name)
    # Invariant 4.
    if namespaced is False or namespace in _ALL:
        # A name in all namespaces can be in any of them (invariant 3).
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
