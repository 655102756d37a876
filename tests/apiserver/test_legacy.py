"""Tokens of Secrets, as controllers made them before Kubernetes 1.24, in both."""

import base64
from collections.abc import Mapping

import pytest

from tests.e2e.harness import RunningServer, review_of
from tests.support import header_of, token_of, wait_until

from .cluster import LEGACY_ISSUER, NAMESPACE, SIGNING_KEY, APIServer

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
NAMESPACED = f"/api/v1/namespaces/{NAMESPACE}"
KIDS = ("", SIGNING_KEY.verification_key.kid, None)
INVALID_SINCE = "kubernetes.io/legacy-token-invalid-since"


def legacy_token(cluster: APIServer, name: str, header: Mapping[str, object]) -> str:
    """Make the Secret of a token of the service account ``other``, and return the token."""
    account = cluster.request("GET", f"{NAMESPACED}/serviceaccounts/other").json["metadata"]
    prefix = "kubernetes.io/serviceaccount/"
    claims = {
        "iss": LEGACY_ISSUER,
        f"{prefix}namespace": NAMESPACE,
        f"{prefix}secret.name": name,
        f"{prefix}service-account.name": "other",
        f"{prefix}service-account.uid": account["uid"],
        "sub": f"system:serviceaccount:{NAMESPACE}:other",
    }
    token = token_of(claims, SIGNING_KEY, header)
    annotations = {
        "kubernetes.io/service-account.name": "other",
        "kubernetes.io/service-account.uid": account["uid"],
    }
    secret = {
        "metadata": {"name": name, "annotations": annotations},
        "type": "kubernetes.io/service-account-token",
        "data": {"token": base64.b64encode(token.encode()).decode()},
    }
    cluster.create(f"{NAMESPACED}/secrets", secret)
    return token


def both_say(cluster: APIServer, leeway: RunningServer, token: str, *, accepted: bool) -> bool:
    """Return whether both accept; they must then name the same user."""
    review = cluster.request("POST", TOKEN_REVIEWS, review_of(token)).json["status"]
    ours = leeway.post_review(token).json["status"]
    if ours["authenticated"] and review.get("authenticated"):
        assert {"extra": {}, **ours["user"]} == {"extra": {}, **review["user"]}
        assert ours["audiences"] == review["audiences"]
    return ours["authenticated"] is review.get("authenticated", False) is accepted


@pytest.mark.fault(2)
@pytest.mark.parametrize("kid", KIDS, ids=["empty", "given", "absent"])
def test_a_token_of_a_secret_is_accepted(
    cluster: APIServer, leeway: RunningServer, kid: str | None
) -> None:
    header = header_of(SIGNING_KEY, kid=kid)
    token = legacy_token(cluster, f"legacy-{KIDS.index(kid)}", header)
    wait_until(lambda: both_say(cluster, leeway, token, accepted=True))


@pytest.mark.fault(6)
def test_a_token_whose_secret_is_labelled_invalid_is_refused(
    cluster: APIServer, leeway: RunningServer
) -> None:
    token = legacy_token(cluster, "legacy-labelled", header_of(SIGNING_KEY))
    wait_until(lambda: both_say(cluster, leeway, token, accepted=True))
    label = ("label", "secret", "legacy-labelled", "-n", NAMESPACE)
    cluster.run(*label, f"{INVALID_SINCE}=2026-01-01")
    # kube-apiserver remembers for ten seconds that it has accepted a token.
    wait_until(lambda: both_say(cluster, leeway, token, accepted=False))
    cluster.run(*label, f"{INVALID_SINCE}-")
    wait_until(lambda: both_say(cluster, leeway, token, accepted=True))
