"""Kubernetes requests as ranges of keys, and what grants on keys allow."""

import re
from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory_backend import MemoryBackend
from webhook.kube.request_keys import (
    NonResourceAttributes,
    RequiredAccess,
    ResourceAttributes,
    required_access,
    resource_of,
)
from webhook.kube.resources import KNOWN
from webhook.rbac import changes
from webhook.rbac.access import explain_access, granting_roles
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.ranges import Range, merge, prefix_end, to_wire

READ, WRITE, READWRITE = PermissionType
BOTH = (READ, WRITE)

# What a verb needs on a resource, and whether it is about all objects whatever their name.
VERBS: dict[str, tuple[tuple[PermissionType, ...], bool]] = {
    "get": ((READ,), False),
    "list": ((READ,), True),
    "watch": ((READ,), True),
    "create": ((WRITE,), False),
    "update": ((WRITE,), False),
    "patch": ((WRITE,), False),
    "delete": ((WRITE,), False),
    "deletecollection": ((WRITE,), True),
    # Verbs are lower case: another case is an unknown verb.
    "GET": ((WRITE,), False),
    "*": (BOTH, True),
    "": (BOTH, True),
}

# A role each: the type of its grants, and the key and range_end of each, as etcd has them.
GRANTS: dict[str, tuple[PermissionType, list[tuple[str, str]]]] = {
    "everything": (READWRITE, [("\0", "\0")]),
    "registry-read": (READ, [("/registry/", "/registry0")]),
    "registry-write": (WRITE, [("/registry/", "/registry0")]),
    "pods": (READWRITE, [("/registry/pods/", "/registry/pods0")]),
    "pods-read": (READ, [("/registry/pods/", "/registry/pods0")]),
    # Without the slash: any key with that prefix, pods:exec and podsecuritypolicies too.
    "pods-no-slash": (READWRITE, [("/registry/pods", "/registry/podt")]),
    "pods-key": (READWRITE, [("/registry/pods", "")]),
    "exec": (READWRITE, [("/registry/pods:exec/", "/registry/pods:exec0")]),
    "subresources": (READWRITE, [("/registry/pods:", "/registry/pods;")]),
    "team": (READWRITE, [("/registry/pods/team/", "/registry/pods/team0")]),
    # team, team-b and anything else with that prefix.
    "team-no-slash": (READWRITE, [("/registry/pods/team", "/registry/pods/tean")]),
    "each-namespace": (
        READWRITE,
        [
            ("/registry/pods/other/", "/registry/pods/other0"),
            ("/registry/pods/team/", "/registry/pods/team0"),
        ],
    ),
    # Together they are all of pods/, one after the other.
    "halves": (
        READWRITE,
        [("/registry/pods/", "/registry/pods/m"), ("/registry/pods/m", "/registry/pods0")],
    ),
    "pod": (READWRITE, [("/registry/pods/team/p-0", "")]),
    "apps": (READWRITE, [("/registry/apps/", "/registry/apps0")]),
    "deployments": (READWRITE, [("/registry/apps/deployments/", "/registry/apps/deployments0")]),
    "nodes": (READWRITE, [("/registry/nodes/", "/registry/nodes0")]),
    "node": (READWRITE, [("/registry/nodes/n-1", "")]),
    "namespace": (READWRITE, [("/registry/namespaces/team", "")]),
    "crd": (READWRITE, [("/registry/dev.example/widgets/", "/registry/dev.example/widgets0")]),
    "paths": (READWRITE, [("/healthz", ""), ("/metrics/", "/metrics0")]),
    "health-read": (READ, [("/healthz", "")]),
    "health-write": (WRITE, [("/healthz", "")]),
}
NO_ONE: set[str] = set()


def a_store() -> AuthStore:
    store = AuthStore.loaded(MemoryBackend())
    for role, (kind, spans) in GRANTS.items():
        store.change(changes.add_role, role)
        store.change(changes.add_user, role)
        store.change(changes.grant_role, role, role)
        for key, end in spans:
            store.change(
                changes.grant_permission, role, Permission(key.encode(), end.encode(), kind)
            )
    return store


STORE = a_store()


def allowed(question: RequiredAccess) -> set[str]:
    """Return the roles that allow a request, found in both ways."""
    kinds, spans = question
    found = {role for role in GRANTS if granting_roles(STORE.state, role, (), kinds, *spans)}
    assert found == {
        role
        for role in GRANTS
        if all(
            explain_access(STORE.state, role, (), *both).allowed for both in product(kinds, spans)
        )
    }
    return found


def wire(span: Range) -> tuple[str, str]:
    key, end = to_wire(span)
    return key.decode(), end.decode()


def pods(**members: str) -> dict[str, str]:
    return {"resource": "pods"} | members


def deployments(**members: str) -> dict[str, str]:
    return {"group": "apps", "resource": "deployments"} | members


def nodes(**members: str) -> dict[str, str]:
    return {"resource": "nodes"} | members


def widgets(**members: str) -> dict[str, str]:
    """An unknown resource, which may have a namespace or not."""
    return {"group": "dev.example", "resource": "widgets"} | members


EVERYTHING = ("/registry/", "/registry0")
ALL_PODS = ("/registry/pods/", "/registry/pods0")
OF_TEAM = ("/registry/pods/team/", "/registry/pods/team0")
EXEC_OF_TEAM = ("/registry/pods:exec/team/", "/registry/pods:exec/team0")
ALL_EXEC = ("/registry/pods:exec/", "/registry/pods:exec0")
ALL_DEPLOYMENTS = ("/registry/apps/deployments/", "/registry/apps/deployments0")
DEPLOYMENTS_OF_TEAM = ("/registry/apps/deployments/team/", "/registry/apps/deployments/team0")
ALL_NODES = ("/registry/nodes/", "/registry/nodes0")
ALL_WIDGETS = ("/registry/dev.example/widgets/", "/registry/dev.example/widgets0")
WHOLE = {"pods", "halves", "pods-no-slash"}
IN_TEAM = WHOLE | {"team", "team-no-slash", "each-namespace"}
# Attributes; key and range_end; the same for a verb that is about all objects, None where it is no
# other; the roles that open the first; those that open the second. "everything", and the roles of
# one type on all of the registry, stand in no row: they open all rows, as far as their type goes.
SHAPES = {
    "named": (pods(namespace="team", name="p-0"), ("/registry/pods/team/p-0", ""), OF_TEAM,
              IN_TEAM | {"pod"}, IN_TEAM),
    "named-elsewhere": (pods(namespace="prod", name="p-0"), ("/registry/pods/prod/p-0", ""),
                        ("/registry/pods/prod/", "/registry/pods/prod0"), WHOLE, WHOLE),
    "namespace-with-longer-name": (pods(namespace="team-b", name="p-0"),
                                   ("/registry/pods/team-b/p-0", ""),
                                   ("/registry/pods/team-b/", "/registry/pods/team-b0"),
                                   WHOLE | {"team-no-slash"}, WHOLE | {"team-no-slash"}),
    "unnamed": (pods(namespace="team"), OF_TEAM, None, IN_TEAM, None),
    # Grants on every existing namespace do not cover future ones.
    "all-namespaces": (pods(), ALL_PODS, None, WHOLE, None),
    "all-namespaces-as-a-star": (pods(namespace="*"), ALL_PODS, None, WHOLE, None),
    # With any verb it may be in any of them.
    "named-in-all-namespaces": (pods(name="team"), ALL_PODS, None, WHOLE, None),
    "named-in-star-namespaces": (pods(namespace="*", name="p-0"), ALL_PODS, None, WHOLE, None),
    "star-name": (pods(namespace="team", name="*"), OF_TEAM, None, IN_TEAM, None),
    "subresource-named": (pods(subresource="exec", namespace="team", name="p-0"),
                          ("/registry/pods:exec/team/p-0", ""), EXEC_OF_TEAM,
                          {"exec", "subresources", "pods-no-slash"},
                          {"exec", "subresources", "pods-no-slash"}),
    "subresource-unnamed": (pods(subresource="exec", namespace="team"), EXEC_OF_TEAM, None,
                            {"exec", "subresources", "pods-no-slash"}, None),
    "subresource-everywhere": (pods(subresource="exec"), ALL_EXEC, None,
                               {"exec", "subresources", "pods-no-slash"}, None),
    "other-subresource": (pods(subresource="log", namespace="team", name="p-0"),
                          ("/registry/pods:log/team/p-0", ""),
                          ("/registry/pods:log/team/", "/registry/pods:log/team0"),
                          {"subresources", "pods-no-slash"}, {"subresources", "pods-no-slash"}),
    "star-subresource": (pods(subresource="*", namespace="team", name="p-0"),
                         ("/registry/pods:", "/registry/pods;"), None,
                         {"subresources", "pods-no-slash"}, None),
    "same-beginning": ({"resource": "podsecuritypolicies", "name": "p"},
                       ("/registry/podsecuritypolicies/p", ""),
                       ("/registry/podsecuritypolicies/", "/registry/podsecuritypolicies0"),
                       {"pods-no-slash"}, {"pods-no-slash"}),
    "podtemplates": ({"resource": "podtemplates", "namespace": "team", "name": "p"},
                     ("/registry/podtemplates/team/p", ""),
                     ("/registry/podtemplates/team/", "/registry/podtemplates/team0"),
                     NO_ONE, NO_ONE),
    "group-named": (deployments(namespace="team", name="d"),
                    ("/registry/apps/deployments/team/d", ""), DEPLOYMENTS_OF_TEAM,
                    {"apps", "deployments"}, {"apps", "deployments"}),
    "group-unnamed": (deployments(namespace="team"), DEPLOYMENTS_OF_TEAM, None,
                      {"apps", "deployments"}, None),
    "group-everywhere": (deployments(), ALL_DEPLOYMENTS, None, {"apps", "deployments"}, None),
    "group-subresource": (deployments(subresource="scale", namespace="team", name="d"),
                          ("/registry/apps/deployments:scale/team/d", ""),
                          ("/registry/apps/deployments:scale/team/",
                           "/registry/apps/deployments:scale/team0"), {"apps"}, {"apps"}),
    "group-that-begins-so": ({"group": "apps.example", "resource": "deployments",
                              "namespace": "team", "name": "d"},
                             ("/registry/apps.example/deployments/team/d", ""),
                             ("/registry/apps.example/deployments/team/",
                              "/registry/apps.example/deployments/team0"), NO_ONE, NO_ONE),
    "star-resource": ({"group": "apps", "resource": "*", "namespace": "team"},
                      ("/registry/apps/", "/registry/apps0"), None, {"apps"}, None),
    "no-resource": ({"group": "apps"}, ("/registry/apps/", "/registry/apps0"), None,
                    {"apps"}, None),
    "star-resource-of-the-core": ({"resource": "*"}, EVERYTHING, None, NO_ONE, None),
    "star-group": (pods(group="*", namespace="team", name="p-0"), EVERYTHING, None, NO_ONE, None),
    "star-star": ({"group": "*", "resource": "*"}, EVERYTHING, None, NO_ONE, None),
    "nothing": ({}, EVERYTHING, None, NO_ONE, None),
    "cluster-scoped-named": (nodes(name="n-1"), ("/registry/nodes/n-1", ""), ALL_NODES,
                             {"nodes", "node"}, {"nodes"}),
    "cluster-scoped-unnamed": (nodes(), ALL_NODES, None, {"nodes"}, None),
    "cluster-scoped-star-name": (nodes(name="*"), ALL_NODES, None, {"nodes"}, None),
    # kubectl auth can-i says in which namespace one is, for nodes as well.
    "cluster-scoped-in-a-namespace": (nodes(namespace="default", name="n-1"),
                                      ("/registry/nodes/n-1", ""), ALL_NODES,
                                      {"nodes", "node"}, {"nodes"}),
    "cluster-scoped-unnamed-in-a-namespace": (nodes(namespace="default"), ALL_NODES, None,
                                              {"nodes"}, None),
    "cluster-scoped-subresource": (nodes(subresource="proxy", name="n-1"),
                                   ("/registry/nodes:proxy/n-1", ""),
                                   ("/registry/nodes:proxy/", "/registry/nodes:proxy0"),
                                   NO_ONE, NO_ONE),
    # An API server says of a Namespace that it is in itself.
    "namespace": ({"resource": "namespaces", "namespace": "team", "name": "team"},
                  ("/registry/namespaces/team", ""),
                  ("/registry/namespaces/", "/registry/namespaces0"), {"namespace"}, NO_ONE),
    "namespace-subresource": ({"resource": "namespaces", "subresource": "finalize",
                               "namespace": "team", "name": "team"},
                              ("/registry/namespaces:finalize/team", ""),
                              ("/registry/namespaces:finalize/", "/registry/namespaces:finalize0"),
                              NO_ONE, NO_ONE),
    "unknown-in-a-namespace": (widgets(namespace="team", name="w"),
                               ("/registry/dev.example/widgets/team/w", ""),
                               ("/registry/dev.example/widgets/team/",
                                "/registry/dev.example/widgets/team0"), {"crd"}, {"crd"}),
    "unknown-without-namespace": (widgets(name="w"), ("/registry/dev.example/widgets/w", ""),
                                  ALL_WIDGETS, {"crd"}, {"crd"}),
    "unknown-in-star-namespaces": (widgets(namespace="*", name="w"), ALL_WIDGETS, None,
                                   {"crd"}, None),
    "colons-in-a-name": ({"group": "rbac.authorization.k8s.io", "resource": "clusterroles",
                          "name": "system:node"},
                         ("/registry/rbac.authorization.k8s.io/clusterroles/system:node", ""),
                         ("/registry/rbac.authorization.k8s.io/clusterroles/",
                          "/registry/rbac.authorization.k8s.io/clusterroles0"), NO_ONE, NO_ONE),
    # Any name is one segment and no subresource.
    "name-like-a-subresource": (pods(namespace="team", name="p-0:exec"),
                                ("/registry/pods/team/p-0:exec", ""), OF_TEAM,
                                IN_TEAM, IN_TEAM),
    "letters-of-any-kind": (pods(namespace="team", name="é\0"), ("/registry/pods/team/é\0", ""),
                            OF_TEAM, IN_TEAM, IN_TEAM),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("shape", SHAPES)
def test_resources(verb: str, shape: str) -> None:
    attributes, span, collection_span, roles, collection_roles = SHAPES[shape]
    kinds, is_collection = VERBS[verb]
    if is_collection and collection_span is not None:
        assert collection_roles is not None
        span, roles = collection_span, collection_roles
    question = required_access(ResourceAttributes(verb, **attributes))
    if verb == "get" and attributes.get("subresource") in ("exec", "proxy", "*"):
        kinds = BOTH
    assert (question.kinds, wire(question.spans[0])) == (kinds, span)
    expected = {"everything"} | roles
    if len(question.spans) > 1:
        # Any verb: those that have keys of their own as well.
        assert verb in ("", "*")
        (of_verbs,) = question.spans[1:]
        found = STEM.match(span[0])
        assert found is not None
        stem = found[0]
        assert wire(of_verbs) == (f"{stem}:", f"{stem};")
        expected &= {role for role in GRANTS if covers(role, of_verbs)}
    if kinds == (READ,):
        expected |= {"registry-read"}
        # Of the roles above, the one with a read-only twin.
        expected |= {"pods-read"} & {f"{role}-read" for role in roles}
    if kinds == (WRITE,):
        expected |= {"registry-write"}
    assert allowed(question) == expected


STEM = re.compile(r"/registry/(?:[a-z.0-9]*\.[a-z.0-9]*/|apps/)?[a-z:]+")


def covers(role: str, span: Range) -> bool:
    return bool(granting_roles(STORE.state, role, (), BOTH, span))


HEALTHZ = ("/healthz", "")
EVERY_PATH = ("/", "0")
READS_PATHS, WRITES_PATHS = {"paths", "health-read"}, {"paths", "health-write"}


@pytest.mark.parametrize(
    ("verb", "path", "kinds", "span", "roles"),
    [
        pytest.param("get", "/healthz", (READ,), HEALTHZ, READS_PATHS, id="get"),
        pytest.param("head", "/healthz", (READ,), HEALTHZ, READS_PATHS, id="head"),
        pytest.param("post", "/healthz", (WRITE,), HEALTHZ, WRITES_PATHS, id="post"),
        pytest.param("put", "/healthz", (WRITE,), HEALTHZ, WRITES_PATHS, id="put"),
        pytest.param("patch", "/healthz", (WRITE,), HEALTHZ, WRITES_PATHS, id="patch"),
        pytest.param("delete", "/healthz", (WRITE,), HEALTHZ, WRITES_PATHS, id="delete"),
        # These read objects; their effect on a path is unknown.
        pytest.param("list", "/healthz", (WRITE,), HEALTHZ, WRITES_PATHS, id="list"),
        pytest.param("watch", "/healthz", (WRITE,), HEALTHZ, WRITES_PATHS, id="watch"),
        pytest.param("*", "/healthz", BOTH, HEALTHZ, {"paths"}, id="star-verb"),
        pytest.param("", "/healthz", BOTH, HEALTHZ, {"paths"}, id="no-verb"),
        pytest.param("get", "/healthz/", (READ,), ("/healthz/", ""), NO_ONE, id="slash"),
        pytest.param("get", "/healthz/*", (READ,), ("/healthz/", "/healthz0"), NO_ONE, id="below"),
        pytest.param("get", "/healthz*", (READ,), ("/healthz", "/health{"), NO_ONE, id="prefix"),
        pytest.param("get", "/metrics/a", (READ,), ("/metrics/a", ""), {"paths"}, id="a-metric"),
        pytest.param("get", "/metrics", (READ,), ("/metrics", ""), NO_ONE, id="metrics"),
        pytest.param("get", "/metrics/*", (READ,), ("/metrics/", "/metrics0"), {"paths"}, id="all"),
        pytest.param("get", "*", (READ,), EVERY_PATH, NO_ONE, id="every-path"),
        pytest.param("get", "/*", (READ,), EVERY_PATH, NO_ONE, id="every-path-with-slash"),
        pytest.param("get", "", (READ,), EVERY_PATH, NO_ONE, id="no-path"),
        pytest.param("*", "*", BOTH, EVERY_PATH, NO_ONE, id="star-star"),
        # Only at the end it is a wildcard.
        pytest.param("get", "/*/a", (READ,), ("/*/a", ""), NO_ONE, id="star-within"),
    ],
)
def test_paths(
    verb: str, path: str, kinds: tuple[PermissionType, ...], span: tuple[str, str], roles: set[str]
) -> None:
    question = required_access(NonResourceAttributes(verb, path))
    assert (question.kinds, wire(question.spans[0])) == (kinds, span)
    assert allowed(question) == {"everything"} | roles


CERTIFICATES = {"group": "certificates.k8s.io", "resource": "signers"}
RBAC = {"group": "rbac.authorization.k8s.io"}
EXTRAS = {"group": "authentication.k8s.io", "resource": "userextras"}
SIGNERS = "/registry/certificates.k8s.io/signers"
ROLES = "/registry/rbac.authorization.k8s.io/roles"
AUDIENCE = "request-serviceaccounts-token-audience"
# The attributes that a real API server sends, the key, and a prefix that a grant covers it with.
KEYS: dict[str, tuple[str, dict[str, str], str, str]] = {
    "approve": ("approve", CERTIFICATES | {"name": "kubernetes.io/kubelet-serving"},
                f"{SIGNERS}:approve/kubernetes.io%2Fkubelet-serving", f"{SIGNERS}:approve/"),
    "sign-all": ("sign", CERTIFICATES | {"name": "kubernetes.io/*"},
                 f"{SIGNERS}:sign/kubernetes.io%2F*", f"{SIGNERS}:sign/"),
    "attest": ("attest", CERTIFICATES | {"name": "a.b/c"}, f"{SIGNERS}:attest/a.b%2Fc",
               "/registry/certificates.k8s.io/"),
    "impersonate-group": ("impersonate", {"resource": "groups", "name": "/platform/admins"},
                          "/registry/groups:impersonate/%2Fplatform%2Fadmins",
                          "/registry/groups:impersonate/"),
    "impersonate-user": ("impersonate",
                         {"resource": "users", "name": "https://idp.example.com#jane"},
                         "/registry/users:impersonate/https:%2F%2Fidp.example.com#jane",
                         "/registry/users:impersonate/"),
    "impersonate-percent": ("impersonate", {"resource": "users", "name": "50%2F"},
                            "/registry/users:impersonate/50%252F", "/registry/users:impersonate/"),
    "impersonate-service-account": (
        "impersonate", {"resource": "serviceaccounts", "namespace": "a", "name": "app"},
        "/registry/serviceaccounts:impersonate/a/app", "/registry/serviceaccounts:impersonate/a/"),
    "impersonate-extra": (
        "impersonate", EXTRAS | {"subresource": "acme.com/project", "name": "x"},
        "/registry/authentication.k8s.io/userextras:acme.com%2Fproject:impersonate/x",
        "/registry/authentication.k8s.io/userextras:acme.com%2Fproject:"),
    "impersonate-in-a-mode": ("impersonate:user-info", {"resource": "users", "name": "jane"},
                              "/registry/users:impersonate:user-info/jane",
                              "/registry/users:impersonate:"),
    "impersonate-on": ("impersonate-on:user-info:list", pods(namespace="team"),
                       "/registry/pods:impersonate-on:user-info:list/team/",
                       "/registry/pods:impersonate-on:user-info:"),
    "impersonate-on-exec": (
        "impersonate-on:serviceaccount:create",
        pods(subresource="exec", namespace="team", name="p-0"),
        "/registry/pods:exec:impersonate-on:serviceaccount:create/team/p-0",
        "/registry/pods:exec:"),
    "escalate": ("escalate", RBAC | {"resource": "roles", "namespace": "a", "name": "r"},
                 f"{ROLES}:escalate/a/r", f"{ROLES}:escalate/a/"),
    "escalate-in-all": ("escalate", RBAC | {"resource": "roles"}, f"{ROLES}:escalate/",
                        f"{ROLES}:escalate/"),
    "bind": ("bind", RBAC | {"resource": "clusterroles", "name": "system:node"},
             "/registry/rbac.authorization.k8s.io/clusterroles:bind/system:node",
             "/registry/rbac.authorization.k8s.io/clusterroles:bind/"),
    "use": ("use", {"group": "policy", "resource": "podsecuritypolicies", "name": "p"},
            "/registry/policy/podsecuritypolicies:use/p", "/registry/policy/"),
    "audience-url": (
        AUDIENCE, {"resource": "https://vault.example.com", "name": "app", "namespace": "a"},
        "/registry/https%3A%2F%2Fvault.example.com/a/app",
        "/registry/https%3A%2F%2Fvault.example.com/"),
    "audience-word": (AUDIENCE, {"resource": "vault", "name": "app", "namespace": "a"},
                      "/registry/vault/a/app", "/registry/vault/"),
    # Otherwise it would be the object `a/app` of that API group.
    "audience-like-a-group": (
        AUDIENCE, {"resource": "vault.example.com", "name": "app", "namespace": "a"},
        "/registry//vault.example.com/a/app", "/registry//vault.example.com/"),
    "audience-that-ends-in-a-dot": (
        AUDIENCE, {"resource": "pods.", "name": "app", "namespace": "a"},
        "/registry//pods./a/app", "/registry//pods./"),
    "group-like-a-core-resource": ("get", {"group": "pods", "resource": "team", "name": "p-0"},
                                   "/registry/pods./team/p-0", "/registry/pods./"),
    "group-that-ends-in-a-dot": ("get", {"group": "pods.", "resource": "team", "name": "p-0"},
                                 "/registry/pods../team/p-0", "/registry/pods../"),
    "old-group-without-dot": ("get", {"group": "extensions", "resource": "ingresses",
                                      "namespace": "a", "name": "i"},
                              "/registry/extensions/ingresses/a/i", "/registry/extensions/"),
    "odd-path": ("get", {"group": "a:b.c", "resource": "x:y", "namespace": "n:/%", "name": ".."},
                 "/registry/a%3Ab.c./x%3Ay/n:%2F%25/..", "/registry/a%3Ab.c./x%3Ay/"),
    # Not the verb `approve` on certificatesigningrequests.
    "subresource-like-a-verb": (
        "update", {"group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                   "subresource": "approve", "name": "c"},
        "/registry/certificates.k8s.io/certificatesigningrequests:%61pprove/c",
        "/registry/certificates.k8s.io/certificatesigningrequests:"),
}  # fmt: skip


@pytest.mark.fault(11, 52)
@pytest.mark.parametrize(("verb", "attributes", "key", "prefix"), KEYS.values(), ids=KEYS)
def test_every_request_has_a_key_that_a_grant_covers(
    verb: str, attributes: dict[str, str], key: str, prefix: str
) -> None:
    kinds, (span,) = required_access(ResourceAttributes(verb, **attributes))
    assert kinds == ((READ,) if verb == "get" else (WRITE,))
    assert span == (
        prefix_of(key) if key.endswith("/") else Range(key.encode(), key.encode() + NUL)
    )
    for granted in ("/registry/", prefix):
        bounds = prefix_of(granted)
        assert merge([bounds, span]) == merge([bounds])


def prefix_of(text: str) -> Range:
    return Range(text.encode(), prefix_end(text.encode()))


NUL = b"\0"
GRANTING = ("escalate", "bind", "approve", "sign", "attest", "use", "impersonate",
            "impersonate:user-info", "impersonate:arbitrary-node",
            "impersonate-on:user-info:get")  # fmt: skip


@pytest.mark.fault(52)
@pytest.mark.parametrize("verb", GRANTING)
@pytest.mark.parametrize(
    ("group", "resource"),
    [("rbac.authorization.k8s.io", "clusterroles"), ("rbac.authorization.k8s.io", "roles"),
     ("", "users"), ("", "groups"), ("", "serviceaccounts"), ("", "nodes"),
     ("certificates.k8s.io", "signers")],
)  # fmt: skip
def test_a_write_grant_does_not_allow_verbs_that_grant_more(
    verb: str, group: str, resource: str
) -> None:
    written = required_access(ResourceAttributes("update", group, resource))
    for name in ("", "n", "*"):
        question = required_access(ResourceAttributes(verb, group, resource, name=name))
        (span,) = question.spans
        assert merge([*written.spans, span]) != merge(written.spans)
        # A star requests all verbs.
        stars = required_access(ResourceAttributes("*", group, resource))
        assert merge([*stars.spans, span]) == merge(stars.spans)


@pytest.mark.fault(52)
@pytest.mark.parametrize("subresource", ["exec", "attach", "portforward", "proxy"])
@pytest.mark.parametrize("resource", ["pods", "services", "nodes"])
def test_get_on_an_acting_subresource_needs_both(subresource: str, resource: str) -> None:
    """Before Kubernetes 1.35 a WebSocket exec asked for `get` alone."""
    request = ResourceAttributes("get", "", resource, subresource, "team", "x")
    assert required_access(request).kinds == BOTH
    create = msgspec.structs.replace(request, verb="create")
    assert required_access(create) == ((WRITE,), required_access(request).spans)
    log = msgspec.structs.replace(request, subresource="log")
    assert required_access(log).kinds == (READ,)


# Few words, so that words of one attribute appear in another.
SEGMENTS = ("a", "pods", "exec", "pods:exec", "apps", "a.b", "use", "%61")
WORDS = st.sampled_from((*SEGMENTS, "a.", "use:a", "%2F", "impersonate")) | st.text(
    st.sampled_from("abu:.*/-%2F\0é"), max_size=4
)
VIRTUAL = [("", "users"), ("", "groups"), ("", "bindings")]
KINDS_OF_OBJECTS = st.one_of(
    st.sampled_from([(known.group, known.plural) for known in KNOWN] + VIRTUAL),
    st.tuples(WORDS, WORDS),
)
RESOURCE_REQUESTS = st.builds(
    lambda verb, kind, subresource, namespace, name: ResourceAttributes(
        verb, kind[0], kind[1], subresource, namespace, name
    ),
    st.sampled_from([*VERBS, *GRANTING, "use:a", "impersonate:%"]),
    KINDS_OF_OBJECTS,
    WORDS,
    WORDS,
    WORDS,
)
PATH_REQUESTS = st.builds(
    NonResourceAttributes, st.sampled_from(list(VERBS)), WORDS.map("/".__add__) | WORDS
)
CLUSTER_SCOPED = {(known.group, known.plural) for known in KNOWN if not known.namespaced}
CLUSTER_SCOPED |= {("", "users"), ("", "groups"), ("certificates.k8s.io", "signers")}


def spell(request: ResourceAttributes) -> tuple[str, ...]:
    """Return what identifies the object of a request, and a verb with its own key."""
    kind = (request.group, request.resource)
    namespace = "" if kind in CLUSTER_SCOPED else request.namespace
    is_granting = request.verb.startswith("impersonate") or request.verb in GRANTING
    verb = request.verb if is_granting else ""
    return (*kind, request.subresource, namespace, request.name, verb)


@pytest.mark.fault(11, 52)
def test_each_object_of_few_words_has_its_own_key() -> None:
    kinds = [("", "pods"), ("", "nodes"), *VIRTUAL, *product(("", *SEGMENTS), ("*", *SEGMENTS))]
    found: dict[Range, set[tuple[str, ...]]] = {}
    for kind, verb, *rest in product(
        kinds, ("get", "use", "impersonate:use"), ("", *SEGMENTS), ("", "a", "pods"), SEGMENTS
    ):
        request = ResourceAttributes(verb, *kind, *rest)
        for span in required_access(request).spans:
            if is_single(span):
                found.setdefault(span, set()).add(spell(request))
    assert len(found) > 10_000
    assert [spellings for spellings in found.values() if len(spellings) > 1] == []


def is_single(span: Range) -> bool:
    return span.end == span.start + b"\0"


@pytest.mark.fault(11, 52)
@given(RESOURCE_REQUESTS, RESOURCE_REQUESTS)
def test_two_objects_never_have_one_key(one: ResourceAttributes, other: ResourceAttributes) -> None:
    ours, theirs = required_access(one).spans[0], required_access(other).spans[0]
    if is_single(ours) and is_single(theirs):
        assert (ours == theirs) == (spell(one) == spell(other))


@given(RESOURCE_REQUESTS)
def test_a_key_names_the_object_of_its_request(request: ResourceAttributes) -> None:
    for span in required_access(request).spans:
        if is_single(span):
            found = resource_of(span.start)
            assert found is not None
            assert spell(found) == spell(request)


@pytest.mark.parametrize(
    "key",
    ["", "/", "/registry", "/registry//", "/registry//*", "/other/pods/a/b",
     "registry/pods/a/b", "/registry/pods/a", "/registry/pods/a/b/c", "/registry/apps",
     "/registry/nodes/a/b",
     "/registry/pods:/a/b", "/registry/pods/a/%62", "/registry/pods:exec:get/a/b"],
)  # fmt: skip
def test_keys_that_are_not_of_a_request(key: str) -> None:
    assert resource_of(key.encode()) is None
    assert resource_of(key.encode() + b"\xff") is None


@pytest.mark.fault(11)
@given(RESOURCE_REQUESTS, RESOURCE_REQUESTS, st.sampled_from(["update", "use"]))
def test_all_of_a_resource_holds_no_object_of_another(
    one: ResourceAttributes, other: ResourceAttributes, verb: str
) -> None:
    """Any name, also one with an escape, stays under the prefix of its resource."""
    one = msgspec.structs.replace(one, verb=verb)
    whole = msgspec.structs.replace(other, verb=verb, namespace="", name="")
    (key,), (span,) = required_access(one).spans, required_access(whole).spans
    is_one_resource = "*" not in (whole.group, whole.subresource) and whole.resource not in (
        "",
        "*",
    )
    if is_one_resource and is_single(key):
        assert (merge([span, key]) == merge([span])) == (spell(one)[:3] == spell(whole)[:3])


FIELDS = ("verb", "group", "resource", "subresource", "namespace", "name")


@given(RESOURCE_REQUESTS, RESOURCE_REQUESTS, st.sets(st.sampled_from(FIELDS), min_size=1))
def test_permission_for_all_covers_each(
    request: ResourceAttributes, other: ResourceAttributes, starred: set[str]
) -> None:
    """The range of a request with stars contains that with anything in their place."""
    values = {field: getattr(request, field) for field in FIELDS}
    # Without a subresource an object is asked about: a star is about subresources only.
    starred -= set() if request.subresource else {"subresource"}
    stars = required_access(ResourceAttributes(**values | dict.fromkeys(starred, "*")))
    meant = {field: getattr(other, field) for field in starred}
    if not meant.get("subresource", "x"):
        return
    one = required_access(ResourceAttributes(**values | meant))
    assert set(stars.kinds) >= set(one.kinds)
    assert merge([*stars.spans, *one.spans]) == merge(stars.spans)


@given(PATH_REQUESTS, WORDS)
def test_permission_for_all_paths_covers_each(request: NonResourceAttributes, rest: str) -> None:
    stars = required_access(NonResourceAttributes(request.verb, request.path + "*"))
    one = required_access(NonResourceAttributes(request.verb, request.path + rest))
    assert stars.kinds == one.kinds
    # A path that ends with a star is a prefix itself, and a larger one.
    if request.path and not (request.path + rest).endswith("*"):
        assert merge([*stars.spans, *one.spans]) == merge(stars.spans)
