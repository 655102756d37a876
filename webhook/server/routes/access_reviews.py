"""``POST``: SubjectAccessReview, SelfSubjectAccessReview, SelfSubjectReview, RangeAccessReview."""

from dataclasses import dataclass

from webhook.kube.access_review import (
    SELF_KIND,
    SUBJECT_KIND,
    WHO_AM_I_KIND,
    AccessReviewRequest,
    UserInfo,
    message_of,
    parse_access_review,
    parse_who_am_i,
    render_access_review,
    render_who_am_i,
)
from webhook.kube.range_review import parse_range_review, render_range_review
from webhook.kube.request_access import Decision, decide, decide_for_cluster
from webhook.rbac.access import AccessDecision, explain_access
from webhook.rbac.auth_store import AuthStore
from webhook.server.request.caller import CALLER, Caller, Callers
from webhook.server.request.http import Receive, Scope, Send, read_json_body, respond
from webhook.server.request.request_log import RequestLog
from webhook.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class AccessReviews:
    """The routes of the reviews that the engine answers.

    ``allow_root`` makes the cluster's user ``root`` Leeway's.
    """

    store: AuthStore
    callers: Callers
    metrics: Metrics
    log: RequestLog
    max_body_bytes: int
    allow_root: bool

    async def subject(self, version: str, scope: Scope, receive: Receive, send: Send) -> None:
        """SubjectAccessReview: may a user of an API server make a request."""
        body = await self._body(scope, receive, SUBJECT_KIND, version)
        await respond(send, 201, self.subject_at_once(version, scope, body))

    def subject_at_once(self, version: str, scope: Scope, body: bytes) -> bytes:
        """Return the answer to the body of a SubjectAccessReview."""
        asked = parse_access_review(body, SUBJECT_KIND, version)
        decision = decide_for_cluster(
            self.store, asked.user, asked.groups, asked.request, allow_root=self.allow_root
        )
        return self._answer(scope, asked.user, asked, decision)

    async def self_subject(self, scope: Scope, receive: Receive, send: Send) -> None:
        """SelfSubjectAccessReview: may the caller."""
        asked = parse_access_review(await self._body(scope, receive, SELF_KIND), SELF_KIND)
        caller: Caller = scope[CALLER]
        decision = decide(self.store, caller.username, caller.groups, asked.request)
        await respond(send, 201, self._answer(scope, caller.username, asked, decision))

    async def who_am_i(self, scope: Scope, receive: Receive, send: Send) -> None:
        """SelfSubjectReview: who is the caller."""
        parse_who_am_i(await self._body(scope, receive, WHO_AM_I_KIND))
        caller: Caller = scope[CALLER]
        user = UserInfo(caller.username, caller.uid, caller.groups, caller.extra)
        await respond(send, 201, render_who_am_i(user))

    async def ranges(self, scope: Scope, receive: Receive, send: Send) -> None:
        """RangeAccessReview: may a user, or who shows a token, read or write a range of keys."""
        asked = parse_range_review(await read_json_body(scope, receive, self.max_body_bytes))
        revision = self.store.revision
        subject = asked.subject
        if asked.token:
            found = await self.callers.subject_of(asked.token)
            if isinstance(found, str):
                # Of a token that is refused nothing is asked, so nothing is covered.
                refused = AccessDecision(False, (), (asked.span,))
                await respond(send, 201, render_range_review(asked, refused, revision, found))
                return
            subject = found.username, found.groups
        access = explain_access(self.store, *subject, asked.kind, asked.span)
        self.metrics.count_permission_check(allowed=access.allowed)
        await respond(send, 201, render_range_review(asked, access, revision))

    async def _body(self, scope: Scope, receive: Receive, kind: str, version: str = "v1") -> bytes:
        message = message_of(kind, version)
        return await read_json_body(scope, receive, self.max_body_bytes, message)

    def _answer(
        self, scope: Scope, user: str, asked: AccessReviewRequest, decision: Decision
    ) -> bytes:
        allowed = bool(decision.roles)
        answer = render_access_review(asked, decision.reason, allowed=allowed)
        self.log.decided(scope, user, decision.reason, allowed=allowed)
        # Last: a review that fails before this is answered another way, and counted there.
        self.metrics.count_permission_check(allowed=allowed)
        return answer
