"""``POST``: SubjectAccessReview, SelfSubjectAccessReview, SelfSubjectReview, RangeAccessReview."""

from dataclasses import dataclass

from webhook.kube.access_review import (
    SELF_KIND,
    SUBJECT_KIND,
    AccessReviewRequest,
    UserInfo,
    parse_access_review,
    parse_who_am_i,
    render_access_review,
    render_who_am_i,
)
from webhook.kube.range_review import parse_range_review, render_range_review
from webhook.kube.request_access import Decision, decide, decide_for_cluster
from webhook.rbac.access import AccessDecision, explain_access
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import StoreUnavailableError
from webhook.rbac.records import BasisLostError
from webhook.server.request.caller import Callers
from webhook.server.request.log import RequestLog
from webhook.server.request.message import Request, Response, basis_of, caller_of
from webhook.server.request.refreshing import BRIEF_SECONDS, reached
from webhook.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class AccessReviews:
    """The routes of the reviews that the engine answers.

    With ``allow_root`` the cluster's user ``root`` is Leeway's.
    """

    store: AuthStore
    callers: Callers
    metrics: Metrics
    log: RequestLog
    allow_root: bool

    def subject(self, version: str, request: Request) -> Response:
        """SubjectAccessReview: is a user allowed to send a request to an API server."""
        asked = parse_access_review(request.body, SUBJECT_KIND, version)
        decision = decide_for_cluster(
            basis_of(request).state,
            asked.user,
            asked.groups,
            asked.request,
            allow_root=self.allow_root,
        )
        return self._answer(request, asked.user, asked, decision)

    def self_subject(self, request: Request) -> Response:
        """SelfSubjectAccessReview: is the caller."""
        asked, caller = parse_access_review(request.body, SELF_KIND), caller_of(request)
        state = basis_of(request).state
        decision = decide(state, caller.username, caller.groups, asked.request)
        return self._answer(request, caller.username, asked, decision)

    def who_am_i(self, request: Request) -> Response:
        """SelfSubjectReview: the caller."""
        parse_who_am_i(request.body)
        caller = caller_of(request)
        user = UserInfo(caller.username, caller.uid, caller.groups, caller.extra)
        return Response(201, render_who_am_i(user))

    async def ranges(self, request: Request) -> Response:
        """RangeAccessReview: is a user or the subject of a token allowed to use a range."""
        asked = parse_range_review(request.body)
        if asked.min_revision and not self.store.reaches(asked.min_revision):
            await self._wait_for(asked.min_revision)
        subject, refusal = asked.subject, ""
        if asked.token:
            found = await self.callers.subject_of(asked.token, request)
            if isinstance(found, str):
                refusal = found
            else:
                subject = found.username, found.groups
        state = basis_of(request).state
        if refusal:
            # Nothing is covered for a refused token.
            access = AccessDecision(False, (), (asked.span,))
        else:
            access = explain_access(state, *subject, asked.kind, asked.span)
        answer = render_range_review(
            asked, access, state.meta.revision, refusal, store_revision=self.store.position
        )
        self.callers.confirm(request)
        if not refusal:
            self.metrics.count_permission_check(allowed=access.allowed)
        return Response(201, answer)

    async def _wait_for(self, position: str) -> None:
        """Wait until the store reaches a position; then everything is decided on that.

        Raises BasisLostError, StoreUnavailableError where it takes too long, and
        ForeignPositionError.
        """
        if await reached(lambda: self.store.reaches(position), self.store.refresh):
            raise BasisLostError
        raise StoreUnavailableError(
            f"this server has not seen spec.minRevision within {BRIEF_SECONDS:g} s; try again"
        )

    def _answer(
        self, request: Request, user: str, asked: AccessReviewRequest, decision: Decision
    ) -> Response:
        allowed = bool(decision.roles)
        answer = render_access_review(asked, decision.reason, allowed=allowed)
        self.callers.confirm(request)
        self.log.decided(request, user, decision.reason, allowed=allowed)
        # Last: a review that fails before this is not answered.
        self.metrics.count_permission_check(allowed=allowed)
        return Response(201, answer)
