"""Claims: state does not slow a server's answers, and a permission check costs as much as a token.

One server has only its keys; the other has users, roles, groups, revocations and the
objects of a cluster, and the review of its token needs all of them. Both are measured in turn,
each started again. Then the second one answers SubjectAccessReviews and TokenReviews in turn.
"""

import json
import tempfile
import time
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.load_client import Load, Plan, ToolMissingError, build, review_target, run_load
from benchmarks.report import Row, rate_row
from benchmarks.servers import leeway_server, make_data_dir
from benchmarks.tokens import token_review
from webhook.assembly import keyring_of, policy_of, store_of
from webhook.config.load import load_configuration
from webhook.kube.access_review import ACCESS_REVIEW_PATH
from webhook.kube.token_review import TOKEN_REVIEW_PATH
from webhook.rbac.model import Group, Permission, PermissionType, User
from webhook.rbac.ranges import prefix_end
from webhook.rbac.records import (
    REVOKED_JTI,
    Record,
    Revocation,
    group_record,
    permission_record,
    revocation_record,
    role_record,
    user_record,
)
from webhook.token.claims import ObjectReference
from webhook.token.issuer import TokenSpec, issue_token

CONNECTIONS: Final = 16
REVOCATIONS: Final = 100_000
PODS: Final = 10_000
USERS: Final = 10_000
ROLES: Final = 1_000
GRANTS: Final = 10
_REVIEWS_FLOOR: Final = 0.85
_ACCESS_FLOOR: Final = 0.80
_CLAIMS: Final = (
    f"TokenReview, {REVOCATIONS:,} revocations, {PODS:,} Pods, {USERS:,} users",
    "SubjectAccessReview",
)
_NAMESPACE, _ACCOUNT, _NODE = "shop", "checkout", "node-0"
_NODE_UID, _ACCOUNT_UID = str(uuid.uuid4()), str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class _Effort:
    rounds: int
    seconds: float
    warm_up_seconds: float


_FULL: Final = _Effort(5, 4.0, 2.0)
_QUICK: Final = _Effort(3, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Question:
    """The requests to a server: the path, the file with the body, and a part of the answer."""

    path: str
    body: Path
    expected: str


def run(*, quick: bool) -> list[Row]:
    """Measure both claims."""
    effort = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory(prefix="leeway-bench-") as name:
        folder = Path(name)
        try:
            client = build(folder)
        except ToolMissingError as error:
            return [Row(claim, skipped=str(error)) for claim in _CLAIMS]
        bare, loaded = (_data_dir(folder / kind) for kind in ("bare", "loaded"))
        _fill(loaded)
        return [
            _measure_loaded(client, bare, loaded, effort),
            _measure_access(client, loaded, effort),
        ]


def _data_dir(folder: Path) -> Path:
    folder.mkdir()
    return make_data_dir(folder)


def _measure_loaded(client: Path, bare: Path, loaded: Path, effort: _Effort) -> Row:
    rates: dict[str, list[float]] = {"loaded": [], "bare": []}
    questions = {"loaded": (loaded, token_question(loaded)), "bare": (bare, token_question(bare))}
    for _ in range(effort.rounds):
        for name, (data_dir, question) in questions.items():
            with leeway_server(data_dir) as port:
                load_of(client, data_dir, port, question, effort.warm_up_seconds)
                load = load_of(client, data_dir, port, question, effort.seconds)
            rates[name].append(load.requests_per_second)
    ours, baseline = rates.items()
    return rate_row(_CLAIMS[0], _REVIEWS_FLOOR, ours, baseline, "requests/s")


def _measure_access(client: Path, data_dir: Path, effort: _Effort) -> Row:
    questions = {"SubjectAccessReview": access_question(data_dir)}
    questions["TokenReview"] = token_question(data_dir)
    loads: dict[str, list[Load]] = {name: [] for name in questions}
    with leeway_server(data_dir) as port:
        for question in questions.values():
            load_of(client, data_dir, port, question, effort.warm_up_seconds)
        for _ in range(effort.rounds):
            for name, question in questions.items():
                loads[name].append(load_of(client, data_dir, port, question, effort.seconds))
    rates = {name: [load.requests_per_second for load in runs] for name, runs in loads.items()}
    ours, baseline = rates.items()
    notes = [
        f"{name}: p50 {median(load.p50_ms for load in runs):.2f} ms, "
        f"p99 {median(load.p99_ms for load in runs):.2f} ms"
        for name, runs in loads.items()
    ]
    return rate_row(_CLAIMS[1], _ACCESS_FLOOR, ours, baseline, "requests/s", notes)


def load_of(client: Path, data_dir: Path, port: int, question: Question, seconds: float) -> Load:
    """Send the requests as fast as they are answered. Raises LoadError for a wrong answer."""
    target = review_target(port, question.path, data_dir, question.expected)
    return run_load(client, target, Plan(question.body, CONNECTIONS, seconds))


def token_question(data_dir: Path) -> Question:
    """Return the review of a token bound to a Pod on a node."""
    configuration = load_configuration(data_dir, {}, {})
    request = TokenSpec(
        namespace=_NAMESPACE,
        name=_ACCOUNT,
        uid=_ACCOUNT_UID,
        pod=ObjectReference(_pod_name(0), _pod_uid(0)),
        node=ObjectReference(_NODE, _NODE_UID),
    )
    policy = policy_of(configuration)
    token = issue_token(request, policy, keyring_of(data_dir), time.time()).token
    file = data_dir / "token-review"
    file.write_text(token_review(token, configuration.audiences[0]) + "\n", "ascii")
    return Question(TOKEN_REVIEW_PATH, file, '"authenticated":true')


def access_question(data_dir: Path) -> Question:
    """Return the review that an API server sends before that service account lists its Pods."""
    members = {
        "kind": "SubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {"creationTimestamp": None},
        "spec": {
            "resourceAttributes": {
                "namespace": _NAMESPACE,
                "verb": "list",
                "version": "v1",
                "resource": "pods",
            },
            "user": f"system:serviceaccount:{_NAMESPACE}:{_ACCOUNT}",
            "groups": [
                "system:serviceaccounts",
                f"system:serviceaccounts:{_NAMESPACE}",
                "system:authenticated",
            ],
            "extra": {"authentication.kubernetes.io/pod-name": [_pod_name(0)]},
            "uid": _ACCOUNT_UID,
        },
        "status": {"allowed": False},
    }
    file = data_dir / "access-review"
    file.write_text(json.dumps(members, separators=(",", ":")) + "\n", "ascii")
    return Question(ACCESS_REVIEW_PATH, file, '"allowed":true')


def _fill(data_dir: Path) -> None:
    configuration = load_configuration(data_dir, {}, {})
    with closing(store_of(data_dir, configuration)) as store:
        store.change(lambda _: records_of_cluster(time.time()))
    objects = {"apiVersion": "v1", "kind": "List", "items": _objects()}
    (data_dir / "objects.json").write_text(json.dumps(objects), "ascii")
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write("objects: {source: file, file: {path: objects.json}}\n")


def records_of_cluster(now: float) -> list[Record]:
    """Return the users, roles, groups and revocations of the loaded server."""
    records = []
    for number in range(ROLES):
        role = f"role-{number:04}"
        records.append(role_record(role))
        for place in range(GRANTS):
            key = f"/registry/{'pods' if place == 0 else f'kind-{place}'}/ns-{number}/".encode()
            permission = Permission(key, prefix_end(key), PermissionType.READ)
            records.append(permission_record(role, permission))
    own = f"/registry/pods/{_NAMESPACE}/".encode()
    granted = Permission(own, prefix_end(own), PermissionType.READWRITE)
    records += [role_record("shop"), permission_record("shop", granted)]
    roles = [f"role-{number:04}" for number in range(ROLES)]
    for number in range(USERS):
        records.append(user_record(User(f"user-{number}", b"", (roles[number % ROLES],), 1)))
    records.append(group_record(Group(f"system:serviceaccounts:{_NAMESPACE}", ("shop",))))
    records += [
        revocation_record(REVOKED_JTI, str(uuid.uuid4()), Revocation(int(now), now + 86_400))
        for _ in range(REVOCATIONS)
    ]
    return records


def _objects() -> list[dict[str, object]]:
    account = {"name": _ACCOUNT, "namespace": _NAMESPACE, "uid": _ACCOUNT_UID}
    items: list[dict[str, object]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": _NODE, "uid": _NODE_UID}},
    ]
    items += [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": _pod_name(n), "namespace": _NAMESPACE, "uid": _pod_uid(n)},
            "spec": {"serviceAccountName": _ACCOUNT, "nodeName": _NODE},
        }
        for n in range(PODS)
    ]
    return items


def _pod_name(number: int) -> str:
    return f"checkout-5d4f8c7b9-{number:05}"


def _pod_uid(number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, _pod_name(number)))
