"""How the roles of a subject come back as groups of its TokenReview."""

from webhook.rbac.access import roles_of
from webhook.rbac.state import State
from webhook.token.outcome import Authenticated, Outcome, groups_of


def role_groups(outcome: Outcome, state: State, prefix: str) -> tuple[str, ...]:
    """Return a group for each role of the subject of a token that is accepted.

    An empty ``prefix`` turns it off.
    """
    if not prefix or not isinstance(outcome, Authenticated):
        return ()
    claims = outcome.claims
    roles = roles_of(state, claims.subject, groups_of(claims.namespace))
    return tuple([prefix + role for role in sorted(roles)]) if roles else ()
