"""``POST /apis/authentication.k8s.io/{v1,v1beta1}/tokenreviews``."""

from collections.abc import Callable
from time import perf_counter

from webhook.authenticator import Authenticator
from webhook.errors import InvalidReviewError
from webhook.metrics import Metrics
from webhook.reviews import parse_token_review, render_token_review
from webhook.server.error_map import code_of
from webhook.server.http import Receive, RequestError, Route, Scope, Send, read_json_body, respond


def token_review_route(
    version: str,
    authenticator: Authenticator,
    metrics: Metrics,
    clock: Callable[[], float],
    max_body_bytes: int,
) -> Route:
    """Make the route of one API version."""

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json_body(scope, receive, max_body_bytes)
        started = perf_counter()
        try:
            request = parse_token_review(body, version)
        except InvalidReviewError as error:
            raise RequestError(code_of(error), str(error)) from error
        outcome = authenticator.authenticate(request.token, request.audiences, clock())
        answer = render_token_review(request, outcome)
        metrics.count_review(outcome)
        metrics.review_duration.observe(perf_counter() - started)
        await respond(send, 201, answer)

    return route
