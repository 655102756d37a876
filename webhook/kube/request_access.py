"""Whether a user of a cluster is allowed to make a Kubernetes request: the answer of a review.

Source: kubernetes ``pkg/apis/authorization/types.go``, ``SubjectAccessReviewStatus``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from webhook.kube.request_keys import Attributes, RequiredAccess, required_access
from webhook.rbac.access import granting_roles
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import ROOT
from webhook.rbac.ranges import in_words, to_wire


@dataclass(frozen=True, slots=True)
class Decision:
    """What a request needs, and the roles that grant it: none where it is not allowed."""

    question: RequiredAccess
    roles: tuple[str, ...]
    reason: str


def decide(store: AuthStore, user: str, groups: Sequence[str], request: Attributes) -> Decision:
    """Decide on a request of a user of Leeway, whose roles are its own and those of its groups."""
    question = required_access(request)
    roles = granting_roles(store, user, groups, question.kinds, *question.spans)
    if roles:
        return Decision(question, roles, f"granted by role {' and '.join(roles)}")
    kinds = " and ".join(kind.name for kind in question.kinds)
    keys = describe_keys(question)[:512]
    reason = f"no role of {user[:128] or 'these groups'} grants {kinds} on {keys}"
    return Decision(question, (), reason)


def decide_for_cluster(
    store: AuthStore,
    user: str,
    groups: Sequence[str],
    request: Attributes,
    *,
    allow_root: bool,
) -> Decision:
    """Decide on a request of a user of a cluster, who is Leeway's user of the same name.

    But for ``root``: whoever can choose a username there would be allowed everything. It has no
    roles of its own unless ``allow_root``; those of its groups count.
    """
    if user != ROOT or allow_root:
        return decide(store, user, groups, request)
    decision = decide(store, "", groups, request)
    if decision.roles:
        return decision
    reason = (
        f"{decision.reason}, and the roles of Leeway's user root are not those of the cluster's "
        "(authorizer.allowRoot in leeway.yaml)"
    )
    return Decision(decision.question, (), reason)


def describe_keys(question: RequiredAccess) -> str:
    """Return the keys of a request as etcdctl shows them."""
    return " and ".join(in_words(*to_wire(span)) for span in question.spans)
