"""A kube-apiserver asks Leeway about tokens and access, configured in each way."""

import json
import re
import subprocess

import pytest

from tests.e2e.harness import AUDIENCE, LEEWAY, RunningServer
from tests.support import wait_until

from .cluster import NAMESPACE, READER, APIServer


def uid_of(cluster: APIServer, name: str) -> str:
    return cluster.run(
        "get", "serviceaccount", name, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}"
    )


@pytest.mark.fault(1)
def test_a_token_of_leeway_logs_in(
    asking: APIServer, cluster: APIServer, leeway: RunningServer
) -> None:
    uid = uid_of(cluster, "reader")
    token = leeway.sign("reader", uid=uid)
    done = asking.kubectl("auth", "whoami", "-o", "json", token=token)
    assert done.code == 0, (done.err, leeway.log())
    user = json.loads(done.out)["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{NAMESPACE}:reader"
    assert user["uid"] == uid
    assert {
        "system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "leeway:role:reader"
    } <= set(user["groups"])  # fmt: skip
    assert user["extra"]["authentication.kubernetes.io/credential-id"][0].startswith("JTI=")


@pytest.mark.fault(1)
def test_access_is_granted_and_refused_with_a_reason(
    asking: APIServer, cluster: APIServer, leeway: RunningServer
) -> None:
    token = leeway.sign("reader", uid=uid_of(cluster, "reader"))
    done = asking.kubectl(
        "get", "configmap", "settings", "-n", NAMESPACE, "-o", "jsonpath={.data}", token=token
    )
    assert (done.code, done.out) == (0, '{"a":"b"}'), done.err
    done = asking.kubectl("get", "secrets", "-n", NAMESPACE, token=token)
    assert done.code != 0
    assert "Error from server (Forbidden)" in done.err
    assert f"[/registry/secrets/{NAMESPACE}/, /registry/secrets/{NAMESPACE}0)" in done.err


def test_a_skewed_token_is_refused_and_the_log_says_why(
    asking: APIServer, cluster: APIServer, leeway: RunningServer
) -> None:
    token = leeway.sign("reader", ahead=92, uid=uid_of(cluster, "reader"))
    done = asking.kubectl("get", "configmaps", "-n", NAMESPACE, token=token)
    assert done.code != 0
    assert "Unauthorized" in done.err or "must be logged in" in done.err, done.err
    assert re.search(
        r"service account token is not valid yet: nbf is \d+s ahead of this server's clock "
        r"\(leeway 60s, \d+s short\)",
        asking.log(),
    )


def test_the_clusters_own_tokens_never_reach_leeway(
    asking: APIServer, cluster: APIServer, leeway: RunningServer
) -> None:
    token = cluster.run("create", "token", "other", "-n", NAMESPACE, "--audience", AUDIENCE)
    done = asking.kubectl(
        "auth", "whoami", "-o", "jsonpath={.status.userInfo}", token=token.strip()
    )
    assert json.loads(done.out)["username"] == f"system:serviceaccount:{NAMESPACE}:other", done.err
    assert "leeway.dev" not in done.out


@pytest.mark.fault(30)
def test_a_revoked_permission_ends_with_the_api_servers_cache(
    asking: APIServer, cluster: APIServer, leeway: RunningServer, request: pytest.FixtureRequest
) -> None:
    """By default it goes on working for five minutes, which ``leeway doctor`` says."""
    token = leeway.sign("reader", uid=uid_of(cluster, "reader"))

    def reads() -> bool:
        return asking.kubectl("get", "configmaps", "-n", NAMESPACE, token=token).code == 0

    assert reads()
    change_role(leeway, "revoke-role")
    try:
        if request.node.callspec.params["asking"] == "version flags":  # kept for a second
            wait_until(lambda: not reads())
        else:
            assert reads()
    finally:
        change_role(leeway, "grant-role")


def change_role(leeway: RunningServer, word: str) -> None:
    command = [LEEWAY, "user", word, READER, "reader", "--data-dir", str(leeway.data_dir)]
    subprocess.run(command, check=True, capture_output=True)
