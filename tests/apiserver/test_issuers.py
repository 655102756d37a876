"""The API server's own tokens, verified by Leeway with the keys that it publishes."""

import json

from tests.e2e.harness import AUDIENCE, RunningServer
from tests.secrets_made import token_made

from .cluster import NAMESPACE, APIServer

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


def cluster_token(cluster: APIServer, *flags: str) -> str:
    token = cluster.run("create", "token", "other", "-n", NAMESPACE, *flags).strip()
    token_made(token)
    return token


def test_the_clusters_tokens_mean_the_same_to_leeway(
    cluster: APIServer, leeway: RunningServer
) -> None:
    cluster.run("create", "secret", "generic", "binding", "-n", NAMESPACE)
    tokens = [
        cluster_token(cluster),
        cluster_token(cluster, "--duration=20m", "--audience", AUDIENCE),
        cluster_token(cluster, "--bound-object-kind=Secret", "--bound-object-name=binding"),
        cluster_token(cluster, "--audience", "elsewhere"),
    ]
    for token in tokens:
        for audiences in (None, [AUDIENCE], ["elsewhere"], ["elsewhere", AUDIENCE]):
            spec = {"token": token} | ({"audiences": audiences} if audiences else {})
            expected = cluster.request("POST", TOKEN_REVIEWS, {"spec": spec}).json["status"]
            found = leeway.post_review(token, audiences).json["status"]
            assert found.get("authenticated", False) == expected.get("authenticated", False)
            assert found.get("audiences") == expected.get("audiences")
            assert found.get("user", {}) == expected["user"]
    assert json.loads(cluster.run("get", "--raw", "/openid/v1/jwks"))["keys"]
