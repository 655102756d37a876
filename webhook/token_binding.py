"""What a token is asked to stand and fall with: looked up, or taken at its word.

Source: kubernetes ``pkg/registry/core/serviceaccount/storage/token.go``, ``Create``: the order of
the checks and their phrases; ``pkg/apis/authentication/validation``.
"""

from dataclasses import replace
from typing import Final

from webhook.bound_objects import Absence, Kind, ObjectKey, ObjectSource, ObjectState
from webhook.claims import ObjectReference
from webhook.errors import (
    InvalidReviewError,
    IssueError,
    LookupUnavailableError,
    ObjectConflictError,
    ObjectNotFoundError,
)
from webhook.issuer import TokenPolicy, TokenRequest, check_request, stable_uid
from webhook.reviews import AUTHENTICATION_GROUP
from webhook.token_requests import KIND, AskedToken, BoundObjectReference

_BOUND_KINDS: Final = (Kind.POD, Kind.SECRET, Kind.NODE)
_RESOURCES: Final = {
    Kind.SERVICE_ACCOUNT: "serviceaccounts",
    Kind.POD: "pods",
    Kind.SECRET: "secrets",
    Kind.NODE: "nodes",
}


def resolve_token_request(
    asked: AskedToken,
    policy: TokenPolicy,
    objects: ObjectSource | None,
    leeway: float,
    now: float,
) -> tuple[AskedToken, TokenRequest]:
    """Find the objects of a request; return it with their UIDs, and what the issuer is to sign.

    Asks ``objects``, which takes a bounded time for each; without them the request is taken at
    its word. An object that has been deleted for longer than ``leeway`` seconds is not there.
    Raises ObjectNotFoundError, ObjectConflictError, IssueError, InvalidReviewError or
    LookupUnavailableError.
    """
    namespace, name = asked.namespace, asked.name
    finder = _Finder(objects, leeway, now)
    # 1. The service account is there.
    account = finder.find(Kind.SERVICE_ACCOUNT, namespace, name)
    uid = account.uid if account else stable_uid(policy.issuer, namespace, name)
    # 2. It is the one that the request means.
    if asked.uid and asked.uid != uid:
        raise ObjectConflictError(
            KIND,
            AUTHENTICATION_GROUP,
            name,
            f"the UID in the token request ({asked.uid[:64]}) does not match the UID of the "
            f"service account ({uid})",
        )
    # 3. The rest of the request is in range.
    request = TokenRequest(
        namespace,
        name,
        uid,
        asked.audiences,
        asked.expiration_seconds,
        objects_confirmed=objects is not None,
    )
    check_request(request, policy)
    _check_texts(asked)
    bound = asked.bound
    if bound is None:
        return replace(asked, uid=uid), request
    # 4. A token can be bound to objects of that kind.
    kind = _bound_kind(bound)
    _require(bound, "name", "a token is bound to an object by its name")
    if objects is None:
        why = "no source of objects is configured that it could be looked up in"
        _require(bound, "uid", why)
    # 5. The object is there.
    check_request(replace(request, secret=ObjectReference(bound.name)), policy)
    found = finder.find(kind, "" if kind is Kind.NODE else namespace, bound.name)
    # 6. A Pod runs as this service account.
    if found and kind is Kind.POD and found.service_account != name:
        raise InvalidReviewError(
            f'cannot bind token for serviceaccount "{name}" to pod running with different '
            "serviceaccount name."
        )
    # 7. It is the one that the request means.
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
        request = replace(request, pod=reference, node=_node_of(found, finder))
    elif kind is Kind.SECRET:
        request = replace(request, secret=reference)
    else:
        request = replace(request, node=reference)
    whole = BoundObjectReference(bound.kind, "v1", reference.name, reference.uid)
    return replace(asked, uid=uid, bound=whole), request


class _Finder:
    def __init__(self, objects: ObjectSource | None, leeway: float, now: float) -> None:
        self._objects = objects
        self._oldest = now - leeway

    def find(
        self, kind: Kind, namespace: str, name: str, *, optional: bool = False
    ) -> ObjectState | None:
        """Return an object, or None without a source, or where it is optional and not there."""
        if self._objects is None:
            return None
        key = ObjectKey(kind, namespace, name)
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
    # One that is gone is still named, as in Kubernetes, so that one sees where the Pod was.
    node = finder.find(Kind.NODE, "", pod.node, optional=True)
    return ObjectReference(pod.node, node.uid if node else "")


def _bound_kind(bound: BoundObjectReference) -> Kind:
    if bound.api_version in ("", "v1"):
        for kind in _BOUND_KINDS:
            if bound.kind == kind:
                return kind
    # As GroupVersionKind.String has it, which leaves out what is no GROUP/VERSION.
    group, _, version = bound.api_version.rpartition("/")
    shown = f"{group}/{version}" if "/" not in group else "/"
    raise InvalidReviewError(
        f"cannot bind token to object of type {shown[:128]}, Kind={bound.kind[:64]}"
    )


def _require(bound: BoundObjectReference, field: str, why: str) -> None:
    if not getattr(bound, field):
        raise IssueError(why, f"spec.boundObjectRef.{field}", required=True)


def _check_texts(asked: AskedToken) -> None:
    texts = [(f"spec.audiences[{place}]", text) for place, text in enumerate(asked.audiences)]
    if asked.bound and asked.bound.uid:
        texts.append(("spec.boundObjectRef.uid", asked.bound.uid))
    for field, text in texts:
        if not (text and text.isascii() and text.isprintable()):
            rule = "must be printable ASCII, and not empty"
            raise IssueError(f"{field} is {text[:64]!r}, but {rule}", field, text, rule)
