"""``POST /api/v1/namespaces/{ns}/serviceaccounts/{name}/token``.

Source of the ``Status`` objects: kubernetes ``apimachinery/pkg/api/errors`` and
``pkg/util/validation/field``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final

import msgspec

from keys.errors import KeyScheduleError
from keys.keyring import Keyring
from keys.messages import shown, utc
from webhook.errors import Cause, InvalidObjectError, IssueError
from webhook.kube.token_binding import resolve_token_request
from webhook.kube.token_request import KIND, parse_token_request, render_token_request
from webhook.kube.token_review import AUTHENTICATION_GROUP
from webhook.rbac.revocations import blocked_until
from webhook.server.request.caller import Callers
from webhook.server.request.message import Request, RequestError, basis_of
from webhook.telemetry.audit import DONE, Audit, token_fields
from webhook.telemetry.metrics import Metrics
from webhook.token.bound_objects import ObjectSource
from webhook.token.claims import USERNAME_PREFIX
from webhook.token.issuer import TokenPolicy, issue_token

_LONGEST_WAIT_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class TokenRequests:
    """Signs tokens. ``leeway`` is in seconds, for objects that are being deleted.

    ``require_proven_keys`` raises an error while it is not known whether the keyring is the newest.
    """

    callers: Callers
    policy: TokenPolicy
    keyring: Keyring
    require_proven_keys: Callable[[], None]
    objects: ObjectSource | None
    leeway: float
    metrics: Metrics
    clock: Callable[[], float]

    def authorize(self, request: Request, namespace: str, name: str) -> None:
        """Check that the caller is allowed to create tokens of a service account.

        Neither name has a slash, or it would reach into the keys of another. Raises RequestError
        403.
        """
        key = f"/leeway/serviceaccounts/{namespace}/{name}/token"
        self.callers.require(request, key.encode("utf-8"))

    def create(
        self, request: Request, namespace: str, name: str, body: bytes, audit: Audit
    ) -> tuple[bytes, tuple[str, ...]]:
        """Make a token; return the answer, and warnings.

        A token that was made gets a line of ``audit``. Raises RequestError, InvalidObjectError,
        BasisLostError, and the errors of ``resolve_token_request``.
        """
        now = self.clock()
        try:
            asked = parse_token_request(body, namespace, name)
            resolved, spec = resolve_token_request(
                asked, self.policy, self.objects, self.leeway, now
            )
            self.require_proven_keys()
            self._require_not_revoked(request, f"{USERNAME_PREFIX}{namespace}:{name}", now)
            self.callers.confirm(request)
            issued = issue_token(spec, self.policy, self.keyring, now)
        except IssueError as error:
            # Kubernetes names the object only where its name is what is wrong.
            raise _invalid(error, name if error.field.startswith("metadata.") else "") from error
        except KeyScheduleError as error:
            retry = ((b"retry-after", b"1"),)
            raise RequestError(503, f"no token can be signed now: {error}", retry) from error
        self.metrics.tokens_issued.inc()
        audit("token.issue", DONE, token_fields(issued.claims, issued.token))
        warnings = [f'unknown field "{field}"' for field in asked.unknown_fields]
        if issued.warning:
            warnings.append(issued.warning)
        return render_token_request(resolved, issued), tuple(warnings)

    @staticmethod
    def _require_not_revoked(request: Request, subject: str, now: float) -> None:
        """Raise RequestError 503 while a token of a subject would be revoked as soon as it is made.

        Tokens of signers whose clocks are ahead were revoked up to a second that is to come here.
        """
        until = blocked_until(basis_of(request).state, subject, now)
        if until:
            seconds = min(max(1, ceil(until - now)), _LONGEST_WAIT_SECONDS)
            raise RequestError(
                503,
                f"no token of {shown(subject, 320)} can be made before {utc(until)}: those issued "
                "up to then were revoked",
                ((b"retry-after", b"%d" % seconds),),
            )


def _invalid(error: IssueError, name: str) -> InvalidObjectError:
    if error.required:
        reason, text = "FieldValueRequired", f"Required value: {error.detail}"
    elif error.value is None:
        reason, text = "FieldValueForbidden", f"Forbidden: {error.detail}"
    else:
        value = error.value[:256] if isinstance(error.value, str) else error.value
        shown = msgspec.json.encode(value).decode("utf-8")
        reason, text = "FieldValueInvalid", f"Invalid value: {shown}: {error.detail}"
    causes = [Cause(reason, text, error.field)]
    return InvalidObjectError(KIND, AUTHENTICATION_GROUP, name[:256], causes)
