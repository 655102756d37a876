"""The outcome of authentication: a token is accepted with its identity, or refused."""

from functools import lru_cache
from typing import Final

import msgspec

from webhook.errors import TokenRefusedError
from webhook.token.claims import Claims

_CREDENTIAL_ID: Final = "authentication.kubernetes.io/credential-id"
_NODE_NAME: Final = "authentication.kubernetes.io/node-name"
_NODE_UID: Final = "authentication.kubernetes.io/node-uid"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_STALE_TOKEN: Final = "leeway.dev/stale-token"
_SERVICE_ACCOUNTS_GROUP: Final = "system:serviceaccounts"
AUTHENTICATED_GROUP: Final = "system:authenticated"


class Identity(msgspec.Struct, frozen=True, gc=False):
    """The subject of a token, as in the ``user`` of a TokenReview."""

    username: str
    uid: str
    groups: tuple[str, ...]
    extra: dict[str, tuple[str, ...]]


class Authenticated(msgspec.Struct, frozen=True, gc=False):
    """A token that is accepted.

    ``leeway_claims`` are the claims that pass only thanks to the leeway; ``stale_seconds`` is the
    time since ``warnafter``, None before that.
    """

    claims: Claims
    audiences: tuple[str, ...]
    leeway_claims: tuple[str, ...] = ()
    stale_seconds: int | None = None

    @property
    def identity(self) -> Identity:
        """The subject of the token, as kube-apiserver itself describes it.

        Source: kubernetes ``apiserver/pkg/authentication/serviceaccount/util.go``, ``UserInfo``.
        """
        claims = self.claims
        extra: dict[str, tuple[str, ...]] = {}
        if claims.jti:
            extra[_CREDENTIAL_ID] = (f"JTI={claims.jti}",)
        if claims.node is not None:
            extra[_NODE_NAME] = (claims.node.name,)
            if claims.node.uid:
                extra[_NODE_UID] = (claims.node.uid,)
        if claims.pod is not None:
            extra[_POD_NAME] = (claims.pod.name,)
            extra[_POD_UID] = (claims.pod.uid,)
        if self.stale_seconds is not None:
            note = f"seconds after warning threshold: {self.stale_seconds}"
            extra[_STALE_TOKEN] = (f"subject: {claims.subject}, {note}",)
        # The subject was compared with namespace and name, so it is the user name.
        uid = claims.service_account.uid
        return Identity(claims.subject, uid, groups_of(claims.namespace), extra)


class Refused(msgspec.Struct, frozen=True):
    """A token that is refused, and its claims if they are complete and the signature is valid.

    Unlike the other types here it is tracked by the garbage collector, because an error can hold
    frames.
    """

    error: TokenRefusedError
    claims: Claims | None = None


Outcome = Authenticated | Refused


def refused(error: TokenRefusedError, claims: Claims | None = None) -> Refused:
    """Return the outcome for an error that was caught, without its frames.

    A frame refers to what the caller does with the outcome. With it each refused token would stay
    in memory until the next garbage collection.
    """
    error.__traceback__ = None
    error.__cause__ = None
    error.__context__ = None
    return Refused(error, claims)


@lru_cache(maxsize=1024)
def groups_of(namespace: str) -> tuple[str, ...]:
    """Return the groups of the service accounts of a namespace."""
    own = f"{_SERVICE_ACCOUNTS_GROUP}:{namespace}"
    return (_SERVICE_ACCOUNTS_GROUP, own, AUTHENTICATED_GROUP)
