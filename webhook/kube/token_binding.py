"""Checks a TokenRequest, and looks up the objects that the token is to be bound to.

Sources: kubernetes ``pkg/registry/core/serviceaccount/storage/token.go``, ``Create``: the order of
the checks and their phrases; ``pkg/apis/authentication/validation``; ``apiserver/pkg/registry``,
``rest/meta.go`` and ``generic/registry/store.go``.

Deliberately stricter than Kubernetes:

1. Without a source of objects, a bound object needs a UID of printable ASCII, because the token
   contains it as it was sent.
2. An audience is not empty and has no control characters, there are at most 100 of them, and the
   token has at most 32 KiB, because a review accepts no more.
3. A member that is duplicated or written in another case is refused, as in every body here. So are
   a body that is ``null``, and ``null`` in a list of audiences. This comes first.

Namespaces are not looked up: if one does not exist, its service account is not found.
"""

from dataclasses import replace
from typing import Final

from webhook.errors import (
    InvalidReviewError,
    IssueError,
    LookupUnavailableError,
    ObjectConflictError,
    ObjectNotFoundError,
    go_quoted,
)
from webhook.kube.token_request import KIND, BoundObjectReference, TokenRequest
from webhook.kube.token_review import AUTHENTICATION_GROUP
from webhook.token.bound_objects import (
    Absence,
    Kind,
    Lookup,
    ObjectKey,
    ObjectSource,
    ObjectState,
)
from webhook.token.claims import ObjectReference, is_dns_label, is_dns_subdomain
from webhook.token.issuer import TokenPolicy, TokenSpec, check_seconds, stable_uid

_BOUND_KINDS: Final = (Kind.POD, Kind.SECRET, Kind.NODE)
_RESOURCES: Final = {
    Kind.SERVICE_ACCOUNT: "serviceaccounts",
    Kind.POD: "pods",
    Kind.SECRET: "secrets",
    Kind.NODE: "nodes",
}


def resolve_token_request(
    request: TokenRequest,
    policy: TokenPolicy,
    objects: ObjectSource | None,
    leeway: float,
    now: float,
) -> tuple[TokenRequest, TokenSpec]:
    """Make ten checks of a request; return it with the account's UID, and the token to sign.

    Objects are looked up in ``objects``, each within a bounded time; without ``objects`` the
    request is trusted. An object that was deleted more than ``leeway`` seconds ago does not exist.
    Raises ObjectNotFoundError, ObjectConflictError, IssueError, InvalidReviewError or
    LookupUnavailableError.
    """
    namespace, name = request.namespace, request.name
    finder = _Finder(objects, leeway, now)
    # 1. The body names the namespace of the URL, or none.
    if request.sent_namespace not in ("", namespace):
        raise InvalidReviewError(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    # 2. The namespace has a valid name.
    if not is_dns_label(namespace):
        raise ObjectNotFoundError("namespaces", namespace)
    # 3. The body names the service account of the URL, or none.
    if request.sent_name not in ("", name):
        detail = "must match the service account name if specified"
        raise IssueError(detail, "metadata.name", request.sent_name)
    # 4. The service account exists.
    _check_name(name)
    account = finder.find(Kind.SERVICE_ACCOUNT, namespace, name)
    uid = account.uid if account else stable_uid(policy.issuer, namespace, name)
    # 5. It has the UID of the request.
    if request.uid and request.uid != uid:
        raise ObjectConflictError(
            KIND,
            AUTHENTICATION_GROUP,
            name,
            f"the UID in the token request ({request.uid[:64]}) does not match the UID of the "
            f"service account ({uid})",
        )
    # 6. The lifetime of the token is neither too short nor too long.
    check_seconds(request.expiration_seconds, policy)
    spec = TokenSpec(
        namespace,
        name,
        uid,
        request.audiences,
        request.expiration_seconds,
        objects_confirmed=objects is not None,
    )
    bound = request.bound
    if bound is None:
        return replace(request, uid=uid), spec
    # 7. A token can be bound to objects of that kind.
    kind = _bound_kind(bound)
    # 8. The object exists.
    _check_name(bound.name)
    found = finder.find(kind, "" if kind is Kind.NODE else namespace, bound.name)
    if found is None:
        _check_uid(bound.uid)
    # 9. A Pod runs as this service account.
    if found and kind is Kind.POD and found.service_account != name:
        raise InvalidReviewError(
            f'cannot bind token for serviceaccount "{name}" to pod running with different '
            "serviceaccount name."
        )
    # 10. It has the UID of the request.
    if found and bound.uid and bound.uid != found.uid:
        raise ObjectConflictError(
            bound.kind,
            "",
            bound.name,
            f"the UID in the bound object reference ({bound.uid[:64]}) does not match the UID in "
            "record. The object might have been deleted and then recreated",
        )
    reference = ObjectReference(bound.name, found.uid if found else bound.uid)
    if kind is Kind.POD:
        spec = replace(spec, pod=reference, node=_node_of(found, finder))
    elif kind is Kind.SECRET:
        spec = replace(spec, secret=reference)
    else:
        spec = replace(spec, node=reference)
    return replace(request, uid=uid), spec


class _Finder:
    def __init__(self, objects: ObjectSource | None, leeway: float, now: float) -> None:
        self._objects = objects
        self._oldest = now - leeway

    def find(
        self, kind: Kind, namespace: str, name: str, *, optional: bool = False
    ) -> ObjectState | None:
        """Return an object; None without a source, or if it is optional and does not exist."""
        key = ObjectKey(kind, namespace, name)
        answer: Lookup = Absence.GONE
        # No object can have any other name, so only these are looked up.
        if is_dns_subdomain(name):
            if self._objects is None:
                return None
            answer = self._objects.look_up(key)
        if isinstance(answer, ObjectState):
            if answer.deleted_at is None or answer.deleted_at >= self._oldest:
                return answer
        elif answer is not Absence.GONE:
            raise LookupUnavailableError(
                f"{key} could not be looked up, so no token was made; try again when the source "
                "of objects is reachable (see /readyz?verbose)"
            )
        if optional:
            return None
        raise ObjectNotFoundError(_RESOURCES[kind], name)


def _node_of(pod: ObjectState | None, finder: _Finder) -> ObjectReference | None:
    if pod is None or not pod.node:
        return None
    # As in Kubernetes, a node that is gone is still named, to show where the Pod was.
    node = finder.find(Kind.NODE, "", pod.node, optional=True)
    return ObjectReference(pod.node, node.uid if node else "")


def _bound_kind(bound: BoundObjectReference) -> Kind:
    # As FromAPIVersionAndKind does: any version, and a text with two slashes is neither part.
    group, slash, version = bound.api_version.partition("/")
    if not slash:
        group, version = "", group
    elif "/" in version:
        group = version = ""
    if not group:
        for kind in _BOUND_KINDS:
            if bound.kind == kind:
                return kind
    raise InvalidReviewError(
        f"cannot bind token to object of type {group[:128]}/{version[:128]}, Kind={bound.kind[:64]}"
    )


def _check_name(name: str) -> None:
    if not name:
        raise InvalidReviewError("Name parameter required.")
    if name in (".", ".."):
        faults = [f"may not be '{name}'"]
    else:
        faults = [f"may not contain '{character}'" for character in "/%" if character in name]
    if faults:
        raise InvalidReviewError(f"Name parameter invalid: {go_quoted(name)}: {';'.join(faults)}")


def _check_uid(uid: str) -> None:
    field = "spec.boundObjectRef.uid"
    if not uid:
        why = "no source of objects is configured that it could be looked up in"
        raise IssueError(why, field, required=True)
    if not (uid.isascii() and uid.isprintable()):
        rule = "must be printable ASCII, and not empty"
        raise IssueError(f"{field} is {uid[:64]!r}, but {rule}", field, uid, rule)
