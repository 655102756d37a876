"""Random tokens, signed with a key that both know, reviewed by kube-apiserver and by Leeway.

``TEST_DIFF_SEED`` repeats a run, ``TEST_DIFF_TOKENS`` makes it longer.
"""

import json
import os
import random
import secrets
import time
from collections import Counter
from typing import Any

from tests.e2e.harness import REVIEWS, RunningServer, request_on, review_of

from .cluster import NAMESPACE, APIServer, exchange
from .mutations import MUTATIONS, ONLY_KUBERNETES_REFUSES, ONLY_LEEWAY_REFUSES, Draft

NAMESPACED = f"/api/v1/namespaces/{NAMESPACE}"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ALONE = 25
"""So often is each mutation made with no other beside it."""


def judged(answer: Any) -> tuple[bool, Any, Any]:
    """Return what is compared: the verdict, the user as Kubernetes completes it, audiences."""
    status = answer["status"]
    if not status.get("authenticated"):
        assert not status.get("user"), status
        return False, None, None
    user = dict(status["user"])
    user["extra"] = {
        name: values
        for name, values in user.get("extra", {}).items()
        if name.startswith("authentication.kubernetes.io/")
    }
    # Leeway names each audience once.
    return True, user, set(status.get("audiences", ()))


def _objects(cluster: APIServer) -> tuple[str, dict[str, dict[str, str]]]:
    """Make objects to bind tokens to; return their account's UID, and each object's."""
    account = cluster.request("GET", f"{NAMESPACED}/serviceaccounts/other").json
    containers = [{"name": "c", "image": "registry.example/none"}]
    spec = {"serviceAccountName": "other", "nodeName": "tokens", "containers": containers}
    metadata = {"metadata": {"name": "tokens"}}
    uids = {
        "node": cluster.create("/api/v1/nodes", metadata),
        "secret": cluster.create(f"{NAMESPACED}/secrets", metadata),
        "pod": cluster.create(f"{NAMESPACED}/pods", metadata | {"spec": spec}),
    }
    objects = {kind: {"name": "tokens", "uid": uid} for kind, uid in uids.items()}
    return account["metadata"]["uid"], objects


def test_random_tokens_have_the_same_verdict(cluster: APIServer, leeway: RunningServer) -> None:
    seed = int(os.environ.get("TEST_DIFF_SEED") or secrets.randbelow(2**32))
    count = int(os.environ.get("TEST_DIFF_TOKENS") or 3000)
    print(f"TEST_DIFF_SEED={seed}")
    chance = random.Random(seed)
    account_uid, objects = _objects(cluster)
    plan = [[name] for name in MUTATIONS for _ in range(_ALONE)]
    plan += [
        chance.sample(sorted(MUTATIONS), chance.choice((1, 2, 2, 3)))
        for _ in range(count - len(plan))
    ]
    verdicts: Counter[tuple[bool, bool]] = Counter()
    differences: Counter[str] = Counter()
    unexpected = []
    with cluster.client() as kubernetes, leeway.client() as connection:
        for names in plan:
            draft = Draft(chance, int(time.time()), account_uid, objects)
            for name in names:
                MUTATIONS[name](draft)
            token = draft.sign()
            review = review_of(token, draft.audiences)
            expected = exchange(kubernetes, "POST", TOKEN_REVIEWS, review)
            body = json.dumps(review).encode()
            found = request_on(
                connection, "POST", REVIEWS, body, {"Content-Type": "application/json"}
            )
            # Two cuts can leave nothing, and a review without a token is not one.
            status = 201 if token else 400
            assert (expected.status, found.status) == (status, status), (names, expected, found)
            if status == 400:
                continue
            theirs, ours = judged(expected.json), judged(found.json)
            verdicts[theirs[0], ours[0]] += 1
            if theirs == ours:
                continue
            table = ONLY_LEEWAY_REFUSES if theirs[0] else ONLY_KUBERNETES_REFUSES
            known = [name for name in names if name in table] if theirs[0] != ours[0] else []
            differences.update(known)
            if not known:
                annotations = found.json["metadata"].get("annotations", {})
                unexpected.append(
                    f"{names}: {draft.chosen}: kube-apiserver {theirs}, Leeway {ours} {annotations}"
                )
    print(dict(verdicts), dict(differences))
    assert unexpected == [], "\n".join(unexpected)
    assert sum(verdicts.values()) >= count - count // 100
    # Each entry of the tables is still true.
    assert differences.keys() == ONLY_LEEWAY_REFUSES.keys() | ONLY_KUBERNETES_REFUSES.keys()
    assert min(verdicts[True, True], verdicts[False, False]) > count // 20
