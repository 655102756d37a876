"""``POST /apis/authentication.k8s.io/{v1,v1beta1}/tokenreviews``."""

from dataclasses import dataclass
from time import perf_counter

from webhook.kube.token_review import (
    MESSAGE,
    TokenReviewRequest,
    parse_token_review,
    render_token_review,
)
from webhook.rbac.access import role_groups
from webhook.rbac.auth_store import AuthStore
from webhook.server.request.http import Receive, Scope, Send, read_json_body, respond
from webhook.server.request.request_log import RequestLog
from webhook.server.request.verifier import TokenVerifier
from webhook.telemetry.metrics import Metrics
from webhook.token.outcome import Outcome


@dataclass(frozen=True, slots=True)
class TokenReviews:
    """The route of one API version.

    The roles of the subject come back as groups with that prefix, unless it is empty.
    """

    version: str
    verifier: TokenVerifier
    store: AuthStore
    role_group_prefix: str
    metrics: Metrics
    log: RequestLog
    max_body_bytes: int

    async def review(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        body = await read_json_body(scope, receive, self.max_body_bytes, MESSAGE)
        started = perf_counter()
        request = parse_token_review(body, self.version)
        outcome = await self.verifier.authenticate(request.token, request.audiences)
        await respond(send, 201, self._answer(scope, request, outcome, started))

    def review_at_once(self, scope: Scope, body: bytes) -> bytes | None:
        """Return the answer to a body; None where something has to be waited for."""
        started = perf_counter()
        request = parse_token_review(body, self.version)
        outcome = self.verifier.authenticate_at_once(request.token, request.audiences)
        return None if outcome is None else self._answer(scope, request, outcome, started)

    def _answer(
        self, scope: Scope, request: TokenReviewRequest, outcome: Outcome, started: float
    ) -> bytes:
        groups = role_groups(outcome, self.store.state, self.role_group_prefix)
        answer = render_token_review(request, outcome, groups)
        seconds = perf_counter() - started
        self.log.reviewed(scope, request.token, outcome, seconds)
        # Last: a review that fails before this is answered another way, and counted there.
        self.metrics.count_review(outcome, seconds)
        return answer
