"""``POST``: SubjectAccessReview, SelfSubjectAccessReview, SelfSubjectReview, RangeAccessReview."""

from dataclasses import dataclass

from webhook.access_reviews import (
    SELF_KIND,
    SUBJECT_KIND,
    WHO_AM_I_KIND,
    UserInfo,
    message_of,
    parse_access_review,
    parse_who_am_i,
    render_access_review,
    render_who_am_i,
)
from webhook.metrics import Metrics
from webhook.range_reviews import parse_range_review, render_range_review
from webhook.rbac.access import Access, explain_access, granting_roles
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.ranges import in_words, to_wire
from webhook.registry import Question, Request, UnmappableRequestError, question_of
from webhook.server.caller import CALLER, Caller, Callers
from webhook.server.http import Receive, Scope, Send, read_json_body, respond
from webhook.server.request_log import RequestLog


@dataclass(frozen=True, slots=True)
class AccessReviews:
    """The routes of the reviews that the engine answers."""

    store: AuthStore
    callers: Callers
    metrics: Metrics
    log: RequestLog
    max_body_bytes: int

    async def subject(self, version: str, scope: Scope, receive: Receive, send: Send) -> None:
        """SubjectAccessReview: may a user of an API server make a request."""
        body = await self._body(scope, receive, SUBJECT_KIND, version)
        await respond(send, 201, self.subject_at_once(version, scope, body))

    def subject_at_once(self, version: str, scope: Scope, body: bytes) -> bytes:
        """Return the answer to the body of a SubjectAccessReview."""
        asked = parse_access_review(body, SUBJECT_KIND, version)
        allowed, reason = self._decide(scope, asked.user, asked.groups, asked.request)
        return render_access_review(asked, reason, allowed=allowed)

    async def self_subject(self, scope: Scope, receive: Receive, send: Send) -> None:
        """SelfSubjectAccessReview: may the caller."""
        asked = parse_access_review(await self._body(scope, receive, SELF_KIND), SELF_KIND)
        caller: Caller = scope[CALLER]
        allowed, reason = self._decide(scope, caller.username, caller.groups, asked.request)
        await respond(send, 201, render_access_review(asked, reason, allowed=allowed))

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
                refused = Access(False, (), (asked.span,))
                await respond(send, 201, render_range_review(asked, refused, revision, found))
                return
            subject = found.username, found.groups
        access = explain_access(self.store, *subject, asked.kind, asked.span)
        self.metrics.count_permission_check(allowed=access.allowed)
        await respond(send, 201, render_range_review(asked, access, revision))

    async def _body(self, scope: Scope, receive: Receive, kind: str, version: str = "v1") -> bytes:
        message = message_of(kind, version)
        return await read_json_body(scope, receive, self.max_body_bytes, message)

    def _decide(
        self, scope: Scope, user: str, groups: tuple[str, ...], request: Request
    ) -> tuple[bool, str]:
        allowed, reason = self._answer(user, groups, request)
        self.log.decided(scope, user, reason, allowed=allowed)
        return allowed, reason

    def _answer(self, user: str, groups: tuple[str, ...], request: Request) -> tuple[bool, str]:
        try:
            question = question_of(request)
        except UnmappableRequestError as error:
            return False, str(error)
        roles = granting_roles(self.store, user, groups, *question)
        self.metrics.count_permission_check(allowed=bool(roles))
        if roles:
            return True, f"granted by role {' and '.join(roles)}"
        return False, _missing(user, question)


def _missing(user: str, question: Question) -> str:
    kinds = " and ".join(kind.name for kind in question.kinds)
    where = in_words(*to_wire(question.span))
    return f"no role of {user[:128] or 'these groups'} grants {kinds} on {where[:512]}"
