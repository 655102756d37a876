"""SelfSubjectRulesReview: what a subject is allowed to do, as rules of Kubernetes' RBAC.

Sources: kubernetes ``k8s.io/api/authorization/v1`` and ``pkg/registry/authorization/
selfsubjectrulesreview``.

Invariant: a rule is listed only if a review of the same attributes is allowed. A permission that
no rule can express makes the answer ``incomplete``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from webhook.errors import InvalidReviewError
from webhook.kube.access_review import AUTHORIZATION_GROUP
from webhook.kube.bodies import encode_review, read_members, read_object, read_text
from webhook.kube.protobuf import Field, object_message
from webhook.kube.request_keys import ROOT_KEY, ResourceAttributes, required_access, resource_of
from webhook.kube.resources import KNOWN
from webhook.rbac.access import roles_of
from webhook.rbac.model import ROOT, Permission
from webhook.rbac.permissions import Permissions
from webhook.rbac.ranges import prefix_end
from webhook.rbac.state import AuthState

KIND: Final = "SelfSubjectRulesReview"
_API_VERSION: Final = f"{AUTHORIZATION_GROUP}/v1"
MESSAGE: Final = object_message({1: Field("namespace")})
MAX_RULES: Final = 1000
"""Of more grants only so many are considered, and the answer is incomplete."""
_VERBS: Final = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
# On one object; the other verbs concern all objects.
_VERBS_OF_ONE: Final = ("get", "update", "patch", "delete")
_READ_PATH: Final = ["get", "head"]
_WRITE_PATH: Final = ["delete", "patch", "post", "put"]
_AFTER_PATHS: Final = prefix_end(b"/")
_Rule = dict[str, list[str]]


@dataclass(slots=True)
class Rules:
    """The rules of a subject in a namespace, for resources and for paths."""

    resources: list[_Rule] = field(default_factory=list)
    paths: list[_Rule] = field(default_factory=list)
    incomplete: bool = False


def parse_rules_review(body: bytes) -> str:
    """Parse the body of a request; return the namespace. Raises InvalidReviewError."""
    value = read_object(body, KIND, _API_VERSION)
    spec = read_members(value, "spec", ("namespace",), "a namespace") if value.get("spec") else {}
    namespace = read_text(spec, "namespace", "spec.")
    if not namespace:
        raise InvalidReviewError("no namespace on request")
    return namespace


def render_rules_review(rules: Rules) -> bytes:
    """Render the answer."""
    status = {
        "resourceRules": rules.resources,
        "nonResourceRules": rules.paths,
        "incomplete": rules.incomplete,
    }
    return encode_review(KIND, _API_VERSION, {}, status)


def rules_of(state: AuthState, user: str, groups: Iterable[str], namespace: str) -> Rules:
    """Return what a subject is allowed to do in a namespace, and outside of namespaces."""
    with state.lock:
        roles = roles_of(state, user, groups)
        if ROOT in roles:
            everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            return Rules([everything], [{"verbs": ["*"], "nonResourceURLs": ["*"]}])
        permissions = state.permissions(roles)
        names = sorted(name for name in roles if name in state.roles)
        granted = [permission for name in names for permission in state.roles[name].permissions]
    resources = _Resources(permissions)
    paths, incomplete = [], len(granted) > MAX_RULES
    named = set()
    for permission in granted[:MAX_RULES]:
        request, path = _request_of(permission), _path_rule(permission)
        if request is not None and request.namespace in ("", namespace):
            named.add(msgspec.structs.replace(request, namespace=namespace))
        elif path is not None:
            paths.append(path)
        elif request is None and _is_for_kubernetes(permission):
            incomplete = True
    # The widest first, so that the narrower ones do not repeat what it allows.
    every = ResourceAttributes("", "*", "*", namespace=namespace)
    in_groups = [
        msgspec.structs.replace(every, group=group)
        for group in dict.fromkeys(known.group for known in KNOWN if known.group)
    ]
    known_ones = [
        msgspec.structs.replace(every, group=known.group, resource=known.plural) for known in KNOWN
    ]
    for request in [every, *in_groups, *known_ones, *sorted(named, key=_order)]:
        resources.add(request)
    return Rules(resources.rules, paths, incomplete)


def _order(request: ResourceAttributes) -> tuple[bool, tuple[str, ...]]:
    return request.name != "", msgspec.structs.astuple(request)


def _request_of(permission: Permission) -> ResourceAttributes | None:
    """Return the attributes of a permission on one object or on all of a resource, else None."""
    key, range_end = permission.key, permission.range_end
    subresource = ""
    if range_end and range_end != prefix_end(key):
        return None
    if range_end and key.endswith(b":"):
        # All subresources, and all verbs that are part of the key.
        key, subresource = key[:-1] + b"/", "*"
    request = resource_of(key)
    if request is None or bool(request.name) is bool(range_end):
        return None
    # A rule has RESOURCE/SUBRESOURCE as one text. Only the slashes of a token's audience cannot be
    # mistaken for the one between the two.
    has_slash = "/" in request.resource
    if has_slash and (subresource or request.subresource or "://" not in request.resource):
        return None
    if not subresource:
        return request
    is_plain = not request.subresource and not request.verb
    return msgspec.structs.replace(request, subresource=subresource) if is_plain else None


def _is_for_kubernetes(permission: Permission) -> bool:
    start, end = permission.span
    return start < _AFTER_PATHS and (end is None or end > b"/")


class _Resources:
    """Collects the rules for resources."""

    def __init__(self, permissions: Permissions) -> None:
        self.rules: list[_Rule] = []
        self._permissions = permissions
        # By group and resource, of the rules without names.
        self._verbs: dict[tuple[str, str], set[str]] = {}

    def add(self, request: ResourceAttributes) -> None:
        """Add a rule for the allowed verbs of a request; an empty verb stands for all of them."""
        group, resource = request.group, request.resource
        if request.subresource:
            resource = f"{resource}/{request.subresource}"
        verbs: Iterable[str] = _VERBS_OF_ONE if request.name else _VERBS
        if request.verb:
            verbs = (request.verb,)
        elif not request.name and self._allows(request, "*"):
            verbs = ("*",)
        wider = set[str]()
        for place in (("*", "*"), (group, "*"), (group, resource)):
            wider |= self._verbs.get(place, set())
        if "*" in wider:
            return
        found = [verb for verb in verbs if verb not in wider and self._allows(request, verb)]
        if not found:
            return
        rule = {"verbs": found, "apiGroups": [group], "resources": [resource]}
        if request.name:
            rule["resourceNames"] = [request.name]
        else:
            self._verbs.setdefault((group, resource), set()).update(found)
        self.rules.append(rule)

    def _allows(self, request: ResourceAttributes, verb: str) -> bool:
        # The invariant: this is the question that a review asks.
        kinds, spans = required_access(msgspec.structs.replace(request, verb=verb))
        permissions = self._permissions
        return not any(permissions.uncovered(kind, span) for kind in kinds for span in spans)


def _path_rule(permission: Permission) -> _Rule | None:
    key, range_end, kind = permission.key, permission.range_end, permission.type
    is_prefix = range_end != b"" and range_end == prefix_end(key)
    if not key.startswith(b"/") or key.startswith(ROOT_KEY) or (range_end and not is_prefix):
        return None
    # A rule cannot express a path that ends in an asterisk or is not UTF-8.
    if key.endswith(b"*") or key.decode("utf-8", "ignore").encode() != key:
        return None
    path = key.decode("utf-8") + ("*" if is_prefix else "")
    verbs = ["*"] if kind.reads and kind.writes else _READ_PATH if kind.reads else _WRITE_PATH
    return {"verbs": verbs, "nonResourceURLs": [path]}
