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
from webhook.server.request.caller import Callers
from webhook.server.request.log import RequestLog
from webhook.server.request.message import Request, Response, caller_of
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
            self.store, asked.user, asked.groups, asked.request, allow_root=self.allow_root
        )
        return self._answer(request, asked.user, asked, decision)

    def self_subject(self, request: Request) -> Response:
        """SelfSubjectAccessReview: is the caller."""
        asked, caller = parse_access_review(request.body, SELF_KIND), caller_of(request)
        decision = decide(self.store, caller.username, caller.groups, asked.request)
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
        revision = self.store.revision
        subject = asked.subject
        if asked.token:
            found = await self.callers.subject_of(asked.token)
            if isinstance(found, str):
                # Nothing is covered for a refused token.
                refused = AccessDecision(False, (), (asked.span,))
                return Response(201, render_range_review(asked, refused, revision, found))
            subject = found.username, found.groups
        access = explain_access(self.store, *subject, asked.kind, asked.span)
        self.metrics.count_permission_check(allowed=access.allowed)
        return Response(201, render_range_review(asked, access, revision))

    def _answer(
        self, request: Request, user: str, asked: AccessReviewRequest, decision: Decision
    ) -> Response:
        allowed = bool(decision.roles)
        answer = render_access_review(asked, decision.reason, allowed=allowed)
        self.log.decided(request, user, decision.reason, allowed=allowed)
        # Last: a review that fails before this is not answered.
        self.metrics.count_permission_check(allowed=allowed)
        return Response(201, answer)
