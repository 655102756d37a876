"""SelfSubjectRulesReview: grants as rules, none of which claims too much."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory_backend import MemoryBackend
from tests.support import as_json
from webhook.errors import InvalidReviewError
from webhook.kube.access_review import AUTHORIZATION_GROUP
from webhook.kube.protobuf import json_of
from webhook.kube.request_access import decide
from webhook.kube.request_keys import NonResourceAttributes, ResourceAttributes
from webhook.kube.rules_review import (
    KIND,
    MAX_RULES,
    MESSAGE,
    Rules,
    parse_rules_review,
    render_rules_review,
    rules_of,
)
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import Permission, PermissionType

READ, WRITE, READWRITE = PermissionType
Grant = tuple[PermissionType, str, str]
READS = ["get", "list", "watch"]
WRITES = ["create", "update", "patch", "delete", "deletecollection"]


def store_with(*grants: Grant) -> AuthStore:
    store = AuthStore.loaded(MemoryBackend())
    store.change(changes.add_role, "r")
    store.change(changes.add_user, "u")
    store.change(changes.grant_role, "u", "r")
    for kind, key, end in grants:
        store.change(changes.grant_permission, "r", Permission(key.encode(), end.encode(), kind))
    return store


def prefix(kind: PermissionType, key: str) -> Grant:
    return kind, key, key[:-1] + chr(ord(key[-1]) + 1)


def rule(verbs: list[str], group: str, resource: str, *names: str) -> dict[str, list[str]]:
    found = {"verbs": verbs, "apiGroups": [group], "resources": [resource]}
    return found | ({"resourceNames": list(names)} if names else {})


def paths(verbs: list[str], path: str) -> dict[str, list[str]]:
    return {"verbs": verbs, "nonResourceURLs": [path]}


CASES: dict[str, tuple[list[Grant], Rules]] = {
    "nothing": ([], Rules()),
    "namespace": ([prefix(READ, "/registry/pods/team/")], Rules([rule(READS, "", "pods")])),
    "another-namespace": ([prefix(READ, "/registry/pods/other/")], Rules()),
    "resource": ([prefix(WRITE, "/registry/apps/deployments/")],
                 Rules([rule(WRITES, "apps", "deployments")])),
    "cluster-scoped": ([prefix(READWRITE, "/registry/nodes/")],
                       Rules([rule(READS + WRITES, "", "nodes")])),
    "every-verb": ([prefix(READWRITE, "/registry/pods/"), prefix(READWRITE, "/registry/pods:")],
                   Rules([rule(["*"], "", "pods"), rule(["*"], "", "pods/*")])),
    "group": ([prefix(READ, "/registry/apps/")], Rules([rule(READS, "apps", "*")])),
    "everything": ([prefix(READ, "/registry/")], Rules([rule(READS, "*", "*")])),
    "subresource": ([prefix(READ, "/registry/pods:log/team/")],
                    Rules([rule(READS, "", "pods/log")])),
    # A get on it acts.
    "exec": ([prefix(READ, "/registry/pods:exec/team/")],
             Rules([rule(["list", "watch"], "", "pods/exec")])),
    "unknown-resource": ([prefix(READ, "/registry/dev.example/widgets/team/")],
                         Rules([rule(READS, "dev.example", "widgets")])),
    "one-object": ([(READ, "/registry/pods/team/p-0", "")],
                   Rules([rule(["get"], "", "pods", "p-0")])),
    "one-object-of-all-allowed": (
        [prefix(READ, "/registry/pods/team/"), (READWRITE, "/registry/pods/team/p-0", "")],
        Rules([rule(READS, "", "pods"), rule(["update", "patch", "delete"], "", "pods", "p-0")]),
    ),
    "one-node": ([(READ, "/registry/nodes/n-0", "")], Rules([rule(["get"], "", "nodes", "n-0")])),
    "verb": ([(WRITE, "/registry/users:impersonate/a%2Fb", "")],
             Rules([rule(["impersonate"], "", "users", "a/b")])),
    "verb-for-all": ([prefix(WRITE, "/registry/certificates.k8s.io/signers:approve/")],
                     Rules([rule(["approve"], "certificates.k8s.io", "signers")])),
    "paths": ([(READ, "/metrics", ""), prefix(WRITE, "/x/"), prefix(READWRITE, "/leeway/")],
              Rules([], [paths(["*"], "/leeway/*"), paths(["get", "head"], "/metrics"),
                         paths(["delete", "patch", "post", "put"], "/x/*")])),
    "all-paths": ([prefix(READ, "/")],
                  Rules([rule(READS, "*", "*")], [paths(["get", "head"], "/*")])),
    # Ranges that no rule can express.
    "names": ([(READ, "/registry/pods/team/a", "/registry/pods/team/c")], Rules([], [], True)),
    "no-slash": ([prefix(READ, "/registry/pods")], Rules([rule(READS, "", "pods")], [], True)),
    "no-object": ([(READ, "/registry/pods/team", "")], Rules([], [], True)),
    "path-range": ([(READ, "/a", "/c")], Rules([], [], True)),
    "not-for-kubernetes": ([prefix(READ, "app/"), (READ, "z", "\0")], Rules()),
}  # fmt: skip


@pytest.mark.parametrize(("grants", "expected"), CASES.values(), ids=CASES)
def test_rules(grants: list[Grant], expected: Rules) -> None:
    store = store_with(*grants)
    assert rules_of(store.state, "u", (), "team") == expected
    assert rules_of(store.state, "another", (), "team") == Rules()
    store.change(changes.grant_group_role, "g", "r")
    assert rules_of(store.state, "another", ("g",), "team") == expected


def test_the_role_root() -> None:
    store = AuthStore.loaded(MemoryBackend())
    store.change(changes.add_role, "root")
    store.change(changes.grant_group_role, "admins", "root")
    assert rules_of(store.state, "x", ("admins",), "team") == Rules(
        [rule(["*"], "*", "*")], [paths(["*"], "*")]
    )


def test_more_grants_than_the_limit() -> None:
    store = store_with(*((READ, f"/p{n}", "") for n in range(MAX_RULES + 1)))
    found = rules_of(store.state, "u", (), "team")
    assert (len(found.paths), found.incomplete) == (MAX_RULES, True)


@pytest.mark.fault(52)
@pytest.mark.parametrize(
    "grant",
    [
        pytest.param((READ, "/logs*", ""), id="asterisk"),
        pytest.param(prefix(READ, "/logs*"), id="prefix-that-ends-in-an-asterisk"),
    ],
)
def test_a_grant_on_a_path_with_an_asterisk_is_not_a_rule(
    grant: tuple[PermissionType, str, str],
) -> None:
    """In a rule it would stand for all paths that begin with what is before it."""
    found = rules_of(store_with(grant).state, "u", (), "team")
    assert (found.paths, found.incomplete) == ([], True)


@pytest.mark.fault(52)
@pytest.mark.parametrize(
    "grant",
    [
        pytest.param(prefix(READWRITE, "/registry/pods%2Fexec/"), id="resource"),
        pytest.param(prefix(READWRITE, "/registry/%2F:"), id="subresources"),
        pytest.param((READWRITE, "/registry/pods%2Fexec/team/p", ""), id="one-object"),
    ],
)
def test_a_resource_with_a_slash_is_not_listed_as_a_subresource(
    grant: tuple[PermissionType, str, str],
) -> None:
    found = rules_of(store_with(grant).state, "u", (), "team")
    assert (found.resources, found.incomplete) == ([], True)


def test_the_audience_of_a_token_is_listed() -> None:
    grant = prefix(READWRITE, "/registry/https%3A%2F%2Fvault.example.com/")
    found = rules_of(store_with(grant).state, "u", (), "team")
    assert [each["resources"] for each in found.resources] == [["https://vault.example.com"]]


KEYS = st.sampled_from(
    ["/", "/registry/", "/registry/pods", "/registry/pods/", "/registry/pods/team/",
     "/registry/pods/team/p", "/registry/pods:", "/registry/pods:exec/", "/registry/pods:use/team/",
     "/registry/apps/", "/registry/apps/deployments/team/", "/registry/nodes/n", "/registry/nodes/",
     "/registry//a.b/x/y", "/registry/use./x/y", "/metrics", "/registry/pods/other/", "/logs*",
     "/logs/*"]
)  # fmt: skip
GRANTS = st.tuples(st.sampled_from([READ, WRITE, READWRITE]), KEYS, st.booleans())


@given(st.lists(GRANTS, max_size=4))
def test_no_rule_claims_more_than_is_allowed(
    grants: list[tuple[PermissionType, str, bool]],
) -> None:
    store = store_with(*(prefix(k, key) if wide else (k, key, "") for k, key, wide in grants))
    found = rules_of(store.state, "u", (), "team")
    for each in found.resources:
        (group,), (resource,) = each["apiGroups"], each["resources"]
        resource, _, subresource = resource.partition("/")
        for verb in each["verbs"]:
            for name in each.get("resourceNames", ["", "x"]):
                request = ResourceAttributes(verb, group, resource, subresource, "team", name)
                assert decide(store.state, "u", (), request).roles, (each, request)
    for each in found.paths:
        for verb in each["verbs"]:
            assert decide(
                store.state, "u", (), NonResourceAttributes(verb, *each["nonResourceURLs"])
            ).roles


def test_request_and_answer() -> None:
    version = f"{AUTHORIZATION_GROUP}/v1"
    review = {"kind": KIND, "apiVersion": version, "spec": {"namespace": "team", "more": 1}}
    assert parse_rules_review(as_json(review)) == "team"
    # What kubectl 1.32 sends for `auth can-i --list -n team`.
    sent = bytes([10, 4]) + b"team"
    kind = b"\x0a\x17authorization.k8s.io/v1\x12\x16" + KIND.encode()
    raw = bytes([18, len(sent)]) + sent
    body = b"k8s\0" + bytes([10, len(kind)]) + kind + bytes([18, len(raw)]) + raw
    assert parse_rules_review(json_of(body, MESSAGE)) == "team"
    answer = json.loads(render_rules_review(Rules()))
    assert (answer["kind"], answer["apiVersion"]) == (KIND, version)
    assert answer["status"] == {"resourceRules": [], "nonResourceRules": [], "incomplete": False}


@pytest.mark.bad_input(27, 28, 29, 30, 31)
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "not JSON"),
        (b"{}", "no namespace on request"),
        (b'{"spec":null}', "no namespace on request"),
        (b'{"spec":{"namespace":""}}', "no namespace on request"),
        (b'{"spec":[1]}', "spec must be an object"),
        (b'{"spec":{"Namespace":"a"}}', "written spec.namespace"),
        (b'{"spec":{"namespace":1}}', "must be a string"),
        (b'{"kind":"SelfSubjectAccessReview"}', f"serves '{KIND}'"),
    ],
)
def test_bodies_that_are_not_a_rules_review(value: bytes, why: str) -> None:
    with pytest.raises(InvalidReviewError, match=why):
        parse_rules_review(value)
