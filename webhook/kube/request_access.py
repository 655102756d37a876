"""Decides whether a user is allowed to make a Kubernetes request.

Source: kubernetes ``pkg/apis/authorization/types.go``, ``SubjectAccessReviewStatus``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from webhook.kube.request_keys import Attributes, RequiredAccess, required_access
from webhook.rbac.access import granting_roles
from webhook.rbac.model import ROOT
from webhook.rbac.ranges import format_range, to_wire
from webhook.rbac.state import AuthState


@dataclass(frozen=True, slots=True)
class Decision:
    """The access that a request requires, and the roles that grant it; none if it is refused."""

    required: RequiredAccess
    roles: tuple[str, ...]
    reason: str


def decide(state: AuthState, user: str, groups: Sequence[str], request: Attributes) -> Decision:
    """Decide on a request of a user of Leeway, by its own roles and those of its groups."""
    required = required_access(request)
    roles = granting_roles(state, user, groups, required.kinds, *required.spans)
    if roles:
        return Decision(required, roles, f"granted by role {' and '.join(roles)}")
    kinds = " and ".join(kind.name for kind in required.kinds)
    keys = describe_keys(required)[:512]
    reason = f"no role of {user[:128] or 'these groups'} grants {kinds} on {keys}"
    return Decision(required, (), reason)


def decide_for_cluster(
    state: AuthState,
    user: str,
    groups: Sequence[str],
    request: Attributes,
    *,
    allow_root: bool,
) -> Decision:
    """Decide on a request of a user of a cluster, who is Leeway's user of the same name.

    The exception is ``root``: otherwise anyone who can choose a username in the cluster would be
    allowed to do anything. It has the roles of its groups, and its own only with ``allow_root``.
    """
    if user != ROOT or allow_root:
        return decide(state, user, groups, request)
    decision = decide(state, "", groups, request)
    if decision.roles:
        return decision
    reason = (
        f"{decision.reason}, and the roles of Leeway's user root are not those of the cluster's "
        "(authorizer.allowRoot in leeway.yaml)"
    )
    return Decision(decision.required, (), reason)


def describe_keys(required: RequiredAccess) -> str:
    """Return the keys of a request as etcdctl prints them."""
    return " and ".join(format_range(*to_wire(span)) for span in required.spans)
