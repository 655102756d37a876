"""TokenReviews over mutual TLS: contract section 4."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from .harness import AUDIENCE, RunningServer

NOT_YET_VALID = re.compile(
    r"service account token is not valid yet: nbf is 9[23]s ahead of this server's clock "
    r"\(leeway 60s, 3[23]s short\)"
)
EXPIRED = re.compile(
    r"service account token has expired: exp was (\d+)s ago by this server's clock "
    r"\(leeway 60s, (\d+)s short\)"
)


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_an_accepted_token(server: RunningServer, version: str) -> None:
    token = server.sign("builder", uid="66bff4eb")
    answer = server.post_review(token, [AUDIENCE, "https://other"], version)
    assert answer.status == 201
    assert answer.headers["content-type"] == "application/json"
    assert token not in answer.body.decode()
    review = answer.json
    assert review["kind"] == "TokenReview"
    assert review["apiVersion"] == f"authentication.k8s.io/{version}"
    assert review["spec"]["audiences"] == [AUDIENCE, "https://other"]
    assert not review["spec"].get("token")
    assert "annotations" not in review["metadata"]
    status = review["status"]
    assert status["authenticated"] is True
    assert status["audiences"] == [AUDIENCE]
    assert "error" not in status
    user = status["user"]
    assert user["username"] == "system:serviceaccount:demo:builder"
    assert user["uid"] == "66bff4eb"
    assert user["groups"] == [
        "system:serviceaccounts",
        "system:serviceaccounts:demo",
        "system:authenticated",
    ]
    assert re.fullmatch(
        r"JTI=[-0-9a-f]{36}", *user["extra"]["authentication.kubernetes.io/credential-id"]
    )


@pytest.mark.parametrize(
    ("ahead", "reason", "text", "skew"),
    [
        (93, "NotYetValid", NOT_YET_VALID, range(92, 94)),
        (-3600 - 92, "Expired", EXPIRED, range(92, 95)),
    ],
)
def test_a_token_of_another_clock(
    server: RunningServer, ahead: int, reason: str, text: re.Pattern[str], skew: range
) -> None:
    answer = server.post_review(server.sign(ahead=ahead))
    assert answer.status == 201
    status = answer.json["status"]
    assert text.fullmatch(status["error"]), status["error"]
    assert "user" not in status
    annotations = answer.json["metadata"]["annotations"]
    assert annotations["leeway.dev/reason"] == reason
    assert int(annotations["leeway.dev/skew-seconds"]) in skew


def with_signature_of_another(server: RunningServer) -> str:
    return server.sign("one").rpartition(".")[0] + "." + server.sign("two").rpartition(".")[2]


@pytest.mark.parametrize(
    ("make_token", "audiences", "reason", "has_error"),
    [
        (with_signature_of_another, (), "BadSignature", True),
        (RunningServer.sign, ("https://other",), "AudienceMismatch", True),
        (lambda _: "not-a-token", (), "Malformed", False),
    ],
    ids=["BadSignature", "AudienceMismatch", "Malformed"],
)
def test_a_refused_token(
    server: RunningServer,
    make_token: Callable[[RunningServer], str],
    audiences: tuple[str, ...],
    reason: str,
    has_error: bool,
) -> None:
    answer = server.post_review(make_token(server), audiences)
    assert answer.status == 201
    assert answer.json["status"]["authenticated"] is False
    assert bool(answer.json["status"].get("error")) is has_error
    assert "user" not in answer.json["status"]
    assert answer.json["metadata"]["annotations"] == {"leeway.dev/reason": reason}


def test_white_space_around_a_token_is_stripped(server: RunningServer) -> None:
    token = server.sign()
    for text, accepted in ((f" \t\n{token}\r\n ", True), (f"\u00a0{token}", False)):
        assert server.post_review(text).json["status"]["authenticated"] is accepted


def test_metrics_add_up_over_the_workers(server: RunningServer) -> None:
    token = server.sign()
    before = reviews_counted(server)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.post_review(token), range(40)))
    assert {answer.status for answer in answers} == {201}
    # Each worker answers about half of these, from files that all of them write to.
    assert {reviews_counted(server) - before for _ in range(8)} == {40}


def reviews_counted(server: RunningServer) -> int:
    # Workers share their counts within 50 ms.
    time.sleep(0.2)
    text = server.request("GET", "/metrics").body.decode()
    return int(sum(map(float, re.findall(r"^leeway_tokenreviews_total\{.*\} (\S+)$", text, re.M))))
