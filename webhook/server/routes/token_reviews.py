"""``POST /apis/authentication.k8s.io/{v1,v1beta1}/tokenreviews``."""

import logging
from dataclasses import dataclass
from time import perf_counter

from webhook.kube.token_review import (
    TokenReviewRequest,
    parse_token_review,
    render_token_review,
)
from webhook.rbac.access import role_groups
from webhook.server.request.caller import Callers
from webhook.server.request.log import RequestLog
from webhook.server.request.message import Answer, Later, Request, Response
from webhook.server.request.verifier import TokenVerifier
from webhook.telemetry.logs import LOGGER
from webhook.telemetry.metrics import Metrics
from webhook.token.outcome import Outcome, Refused

_logger = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class TokenReviews:
    """The route of one API version.

    The roles of the subject are returned as groups with that prefix, unless it is empty.
    """

    version: str
    verifier: TokenVerifier
    callers: Callers
    role_group_prefix: str
    metrics: Metrics
    log: RequestLog

    def review(self, request: Request) -> Answer:
        """Answer a request."""
        started = perf_counter()
        asked = parse_token_review(request.body, self.version)
        outcome = self.verifier.authenticate(asked.token, asked.audiences, request)
        if isinstance(outcome, Outcome):
            return self._answer(request, asked, outcome, started)
        return self._answer_later(request, asked, outcome, started)

    async def _answer_later(
        self, request: Request, asked: TokenReviewRequest, outcome: Later[Outcome], started: float
    ) -> Response:
        return self._answer(request, asked, await outcome, started)

    def _answer(
        self, request: Request, asked: TokenReviewRequest, outcome: Outcome, started: float
    ) -> Response:
        basis = request.basis
        assert basis is not None  # noqa: S101 - only a caller gets here, who was found by it
        groups = role_groups(outcome, basis.state, self.role_group_prefix)
        answer = render_token_review(asked, outcome, groups)
        self.callers.confirm(request)
        seconds = perf_counter() - started
        if isinstance(outcome, Refused) or _logger.isEnabledFor(logging.DEBUG):
            self.log.reviewed(request, asked.token, outcome, seconds)
        # Last: a review that fails before this is not answered.
        self.metrics.count_review(outcome, seconds)
        return Response(201, answer)
