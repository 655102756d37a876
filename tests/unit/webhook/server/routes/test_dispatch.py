"""Which requests are answered, when, and by what: on a data directory, without a connection."""

import asyncio
import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.webhook.server.served import (
    ACCESS_PATH,
    GOOD,
    JSON,
    PATH,
    Served,
    access_review,
)
from webhook.errors import TokenRefusedError
from webhook.server.request.log import RequestLog
from webhook.server.request.message import Answer, Fields, Request, Response
from webhook.server.routes.dispatch import ANONYMOUS_BODY_BYTES

ETCD_PATH = "/v3/auth/user/list"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("dispatch") / "data")
    yield served
    served.app.store.close()


def test_reviews_are_answered_without_waiting(served: Served) -> None:
    async def begin(request: Request) -> Answer:
        return served.app.answer(request)

    bad = served.token[:-2] + ("QA" if served.token.endswith("AA") else "AA")
    for body, path, found in (
        (served.review(), PATH, GOOD),
        (served.review(bad), PATH, b'"authenticated":false'),
        (access_review(), ACCESS_PATH, b'"allowed":false'),
    ):
        response = asyncio.run(begin(served.post(body, path)))
        assert isinstance(response, Response)
        assert (response.code, response.content_type) == (201, b"application/json")
        assert found in response.body


def test_refusals_leave_nothing_in_memory(served: Served) -> None:
    def errors() -> int:
        gc.collect()
        return sum(isinstance(one, TokenRefusedError) for one in gc.get_objects())

    before = errors()
    for number in range(50):
        response = served.answer(served.post(served.review(f"{served.token[:-20]}{number:020}")))
        assert b'"authenticated":false' in response.body
    assert errors() == before


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("path", "step", "counter"),
    [
        (PATH, "reviewed", "leeway_tokenreviews_total"),
        (ACCESS_PATH, "decided", "leeway_permission_checks_total"),
    ],
)
def test_a_review_that_fails_is_logged_and_not_counted(
    served: Served,
    path: str,
    step: str,
    counter: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = served.app._shared.metrics

    def counted() -> float:
        metrics.flush()
        samples = (sample for family in metrics.registry.collect() for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == counter)

    def fail(*arguments: object, **keywords: object) -> None:
        raise ZeroDivisionError("the text of it")

    body = served.review("x.y.z") if path == PATH else access_review()
    before = counted()
    with monkeypatch.context() as patched:
        patched.setattr(RequestLog, step, fail)
        response = served.answer(served.post(body, path))
    assert response.code == 500
    assert b"the text of it" not in response.body
    assert caplog.text.count("a request failed") == 1
    assert "ZeroDivisionError: the text of it" in caplog.text
    assert counted() == before
    assert served.answer(served.post(body, path)).code == 201
    assert counted() == before + 1


@pytest.mark.bad_input(29)
@pytest.mark.fault(1)
@pytest.mark.parametrize("path", ["v1", "v1beta1"])
def test_both_paths_know_both_versions(served: Served, path: str) -> None:
    """As a kube-apiserver without version flags sends them to the URLs of the kubeconfigs."""
    attributes = {"path": "/metrics", "verb": "get"}
    access = {
        "kind": "SubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1beta1",
        "metadata": {"creationTimestamp": None},
        "spec": {"nonResourceAttributes": attributes, "user": "system:anonymous", "group": ["a"]},
        "status": {"allowed": False},
    }
    for body, group, expected in (
        (served.review(apiVersion="authentication.k8s.io/v1beta1"), "authentication", GOOD),
        (json.dumps(access).encode(), "authorization", b'"allowed":false'),
    ):
        plural = "tokenreviews" if group == "authentication" else "subjectaccessreviews"
        response = served.answer(served.post(body, f"/apis/{group}.k8s.io/{path}/{plural}"))
        assert expected in response.body
        assert f'"apiVersion":"{group}.k8s.io/v1beta1"'.encode() in response.body


BODIES: list[Any] = [
    pytest.param(lambda good: b"", 400, id="empty"),
    pytest.param(lambda good: b"{", 400, id="half"),
    pytest.param(lambda good: b"[]", 400, id="list"),
    pytest.param(lambda good: good + b"\n", 201, id="line-end"),
    pytest.param(lambda good: good[:-1] + b',"kind":"TokenReview"}', 400, id="kind-twice"),
    pytest.param(lambda good: good.replace(b'"kind"', b'"Kind"'), 400, id="name-in-upper-case"),
    pytest.param(lambda good: good.replace(b"TokenReview", b"Other"), 400, id="another-kind"),
    pytest.param(lambda good: good.replace(b"/v1", b"/v1beta1"), 201, id="another-version"),
    pytest.param(lambda good: good.replace(b'"token"', b'"Token"'), 400, id="token-in-upper-case"),
    pytest.param(lambda good: json.dumps(json.loads(good), indent=1).encode(), 201, id="indented"),
]


@pytest.mark.parametrize(("change", "code"), BODIES)
def test_bodies(served: Served, change: Any, code: int) -> None:
    assert served.answer(served.post(change(served.review()))).code == code


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"token": "not a token"}, 201),
        ({"spec": {}}, 400),
        ({"spec": {"token": 7}}, 400),
        ({"spec": {"token": "x.y.z", "audiences": ["a", "b"]}}, 201),
        ({"spec": {"token": "x.y.z", "audiences": []}}, 201),
        ({"spec": {"token": " x.y.z\t"}}, 201),
        ({"status": {"authenticated": True}}, 201),
        ({"metadata": {}}, 201),
        ({"metadata": {"name": "x"}}, 201),
        ({"token": "x" * 40_000}, 201),
    ],
)
def test_members(served: Served, members: dict[str, Any], code: int) -> None:
    assert served.answer(served.post(served.review(**members))).code == code
    assert served.answer(served.post(served.review(**members), certified=False)).code == 401


def head_of(
    served: Served, method: str, path: str, headers: Fields, length: int, *, certified: bool
) -> Request:
    request = served.post(b"", path, headers, certified=certified)
    request.method, request.length = method, length
    return request


def admit(served: Served, request: Request) -> Response | None:
    return asyncio.run(served.app.admit(request))


TEXT: Fields = ((b"content-type", b"text/plain"),)
PAGE: Fields = (*JSON, (b"sec-fetch-site", b"cross-site"))
ACTING: Fields = (*JSON, (b"impersonate-user", b"root"))
BEARER: Fields = (*JSON, (b"authorization", b"Bearer x"))
LIMIT = 3 * 1024 * 1024
TOO_LONG = LIMIT + 1


@pytest.mark.parametrize(
    ("method", "path", "headers", "length", "certified", "code"),
    [
        pytest.param("POST", PATH, JSON, LIMIT, True, None, id="review"),
        pytest.param("POST", PATH, (), LIMIT, True, None, id="without-type"),
        pytest.param("POST", PATH, JSON, TOO_LONG, True, 413, id="too-long"),
        pytest.param("POST", PATH, JSON, 10**30, True, 413, id="far-too-long"),
        pytest.param("POST", PATH, JSON, 1, False, 401, id="without-identity"),
        pytest.param("POST", PATH, BEARER, 1, False, 401, id="bad-token"),
        pytest.param("GET", PATH, JSON, 1, True, 405, id="get"),
        pytest.param("POST", PATH, TEXT, 1, True, 415, id="text"),
        pytest.param("POST", PATH, PAGE, 1, True, 403, id="another-site"),
        pytest.param("POST", PATH, ACTING, 1, True, 403, id="impersonation"),
        pytest.param("POST", f"{PATH}/", JSON, LIMIT, True, None, id="in-flask"),
        pytest.param("POST", f"/{PATH}", JSON, 1, True, 404, id="two-slashes"),
        pytest.param("POST", f"{PATH}/", JSON, TOO_LONG, True, 404, id="not-there-and-too-long"),
        pytest.param("POST", "/readyz/none", JSON, 1, True, 404, id="no-such-check"),
        pytest.param("POST", "/livez", JSON, 1, True, 405, id="post-to-a-check"),
        pytest.param("GET", "/livez", (), 1, False, 200, id="body-that-is-not-wanted"),
        pytest.param("POST", ETCD_PATH, JSON, LIMIT, True, None, id="etcd"),
        pytest.param("POST", ETCD_PATH, JSON, TOO_LONG, True, 413, id="etcd-too-long"),
        pytest.param(
            "POST", "/v3/auth/authenticate", JSON, ANONYMOUS_BODY_BYTES, False, None, id="log-in"
        ),
        pytest.param(
            "POST",
            "/v3/auth/authenticate",
            JSON,
            ANONYMOUS_BODY_BYTES + 1,
            False,
            413,
            id="log-in-too-long",
        ),
    ],
)
def test_what_the_head_of_a_request_decides(
    served: Served,
    method: str,
    path: str,
    headers: Fields,
    length: int,
    certified: bool,
    code: int | None,
) -> None:
    request = head_of(served, method, path, headers, length, certified=certified)
    found = admit(served, request)
    assert (None if found is None else found.code) == code
    if found is None:
        assert request.max_length == length
        # So much of a chunked body may arrive, and no more.
        request.length += 1
        for longer in (served.answer(request), admit(served, request)):
            assert longer is not None
            assert longer.code == (404 if path == f"{PATH}/" else 413)
        return
    # It is decided in the same way where the body is here already.
    request = head_of(served, method, path, headers, length, certified=certified)
    again = served.answer(request)
    assert (again.code, again.body) == (found.code, found.body)


def test_a_request_is_answered_by_the_application_in_use_when_its_body_is_here(
    served: Served,
) -> None:
    request = head_of(served, "POST", PATH, JSON, len(served.review()), certified=True)
    assert admit(served, request) is None
    served.app._take(served.app._components)
    request.body = served.review()
    assert GOOD in served.answer(request).body
