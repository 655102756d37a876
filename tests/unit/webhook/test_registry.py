"""Kubernetes requests as ranges of keys, and what grants on keys open."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhook.backends.memory import MemoryBackend
from webhook.known_resources import KNOWN
from webhook.rbac.access import explain_access, granting_roles
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.ranges import Range, merge, prefix_end, to_wire
from webhook.registry import (
    PathRequest,
    Question,
    Request,
    ResourceRequest,
    UnmappableRequestError,
    question_of,
)

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
    "use": ((WRITE,), False),
    "impersonate": ((WRITE,), False),
    # Verbs are lower case: another case is a verb that nobody knows.
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
    # Without the slash: whatever begins so, pods:exec and podsecuritypolicies too.
    "pods-no-slash": (READWRITE, [("/registry/pods", "/registry/podt")]),
    "pods-key": (READWRITE, [("/registry/pods", "")]),
    "exec": (READWRITE, [("/registry/pods:exec/", "/registry/pods:exec0")]),
    "subresources": (READWRITE, [("/registry/pods:", "/registry/pods;")]),
    "team": (READWRITE, [("/registry/pods/team/", "/registry/pods/team0")]),
    # team, team-b and whatever else begins so.
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
    store = AuthStore(MemoryBackend())
    for role, (kind, spans) in GRANTS.items():
        store.add_role(role)
        store.add_user(role)
        store.grant_role(role, role)
        for key, end in spans:
            store.grant_permission(role, Permission(key.encode(), end.encode(), kind))
    return store


STORE = a_store()


def allowed(question: Question) -> set[str]:
    """Return the roles that open what is asked, asked in both ways that there are."""
    found = {role for role in GRANTS if granting_roles(STORE, role, (), *question)}
    kinds, span = question
    assert found == {
        role
        for role in GRANTS
        if all(explain_access(STORE, role, (), kind, span).allowed for kind in kinds)
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
    """Something that is not known here, and so may have a namespace or not."""
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
    # A grant of each namespace that there is does not open those that there may be.
    "all-namespaces": (pods(), ALL_PODS, None, WHOLE, None),
    "all-namespaces-as-a-star": (pods(namespace="*"), ALL_PODS, None, WHOLE, None),
    # Whatever its verb, it may be in any of them.
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
    # A name is one segment and no subresource, whatever is in it.
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
    question = question_of(ResourceRequest(verb, **attributes))
    assert (question.kinds, wire(question.span)) == (kinds, span)
    expected = {"everything"} | roles
    if kinds == (READ,):
        expected |= {"registry-read"}
        # Of the roles above, the one that has a twin that may only read.
        expected |= {"pods-read"} & {f"{role}-read" for role in roles}
    if kinds == (WRITE,):
        expected |= {"registry-write"}
    assert allowed(question) == expected


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
        # These read objects; of a path nobody knows what they do.
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
    question = question_of(PathRequest(verb, path))
    assert (question.kinds, wire(question.span)) == (kinds, span)
    assert allowed(question) == {"everything"} | roles


@pytest.mark.parametrize("field", ["group", "resource", "subresource", "namespace", "name"])
@pytest.mark.parametrize("text", ["a/b", "/", "../secrets", "team/p-0", "a:b", ":exec"])
def test_what_separates_keys_is_in_no_attribute(field: str, text: str) -> None:
    attributes = pods(subresource="exec", namespace="team", name="p-0") | {field: text}
    request = ResourceRequest("get", **attributes)
    if ":" in text and field in ("namespace", "name"):
        assert wire(question_of(request).span)[0].count("/") == 4
        return
    with pytest.raises(UnmappableRequestError) as caught:
        question_of(request)
    assert f"{field} {text!r} stands for no key" in str(caught.value)
    long = ResourceRequest("get", **attributes | {field: text * 10_000})
    with pytest.raises(UnmappableRequestError) as caught:
        question_of(long)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("group", "resource"),
    [("pods", "team"), ("secrets", "team"), ("users", "a"), ("bindings", "*"), ("nodes", "")],
)
def test_a_group_called_like_a_core_resource_stands_for_no_key(group: str, resource: str) -> None:
    """Its objects would have the keys of pods in namespaces."""
    with pytest.raises(UnmappableRequestError, match=f"group '{group}' stands for no key"):
        question_of(ResourceRequest("get", group, resource, name="p-0"))


# Few words, so that those of one attribute turn up in another.
SEGMENTS = ("a", "pods", "exec", "pods:exec", "apps")
WORDS = st.sampled_from(SEGMENTS) | st.text(st.sampled_from("ab:.*/-\0é"), max_size=4)
VIRTUAL = [("", "users"), ("", "groups"), ("", "bindings")]
KINDS_OF_OBJECTS = st.one_of(
    st.sampled_from([(known.group, known.plural) for known in KNOWN] + VIRTUAL),
    st.tuples(WORDS.filter(bool), WORDS),
)
RESOURCE_REQUESTS = st.builds(
    lambda verb, kind, subresource, namespace, name: ResourceRequest(
        verb, *kind, subresource, namespace, name
    ),
    st.sampled_from(list(VERBS)),
    KINDS_OF_OBJECTS,
    WORDS,
    WORDS,
    WORDS,
)
PATH_REQUESTS = st.builds(PathRequest, st.sampled_from(list(VERBS)), WORDS.map("/".__add__) | WORDS)
CLUSTER_SCOPED = {(known.group, known.plural) for known in KNOWN if not known.namespaced}


def spell(request: ResourceRequest) -> tuple[str, ...]:
    """Return what tells the object of a request from all others."""
    kind = (request.group, request.resource)
    namespace = "" if kind in CLUSTER_SCOPED else request.namespace
    return (*kind, request.subresource, namespace, request.name)


def mapped(request: Request) -> Question | None:
    try:
        return question_of(request)
    except UnmappableRequestError:
        return None


def test_objects_of_few_words_have_a_key_each() -> None:
    kinds = [("", "pods"), ("", "nodes"), *VIRTUAL, *product(SEGMENTS, ("*", *SEGMENTS))]
    found: dict[Range, set[tuple[str, ...]]] = {}
    for kind, *rest in product(kinds, ("", *SEGMENTS), ("", *SEGMENTS), SEGMENTS):
        request = ResourceRequest("get", *kind, *rest)
        question = mapped(request)
        if question is not None and is_of_one(question):
            found.setdefault(question.span, set()).add(spell(request))
    assert len(found) > 500
    assert [spellings for spellings in found.values() if len(spellings) > 1] == []


def is_of_one(question: Question) -> bool:
    return question.span.end == question.span.start + b"\0"


@given(RESOURCE_REQUESTS, RESOURCE_REQUESTS)
def test_two_objects_never_have_one_key(one: ResourceRequest, other: ResourceRequest) -> None:
    ours, theirs = mapped(one), mapped(other)
    if ours and theirs and is_of_one(ours) and is_of_one(theirs):
        assert (ours.span == theirs.span) == (spell(one) == spell(other))


@given(RESOURCE_REQUESTS)
def test_a_request_never_leaves_the_registry_or_its_resource(request: ResourceRequest) -> None:
    question = mapped(request)
    if question is None:
        return
    assert question.span.end is not None
    stem = "/registry/"
    if request.group != "*" and request.resource not in ("", "*"):
        stem += (f"{request.group}/" if request.group else "") + request.resource
        stem += ":" if request.subresource else "/"
    elif request.group not in ("", "*"):
        stem += f"{request.group}/"
    bounds = Range(stem.encode(), prefix_end(stem.encode()))
    assert merge([bounds, question.span]) == bounds


FIELDS = ("verb", "group", "resource", "subresource", "namespace", "name")


@given(RESOURCE_REQUESTS, RESOURCE_REQUESTS, st.sets(st.sampled_from(FIELDS), min_size=1))
def test_who_may_all_may_each(
    request: ResourceRequest, other: ResourceRequest, starred: set[str]
) -> None:
    """What a request with stars needs holds what it needs with anything in their place."""
    values = {field: getattr(request, field) for field in FIELDS}
    # Without a subresource an object is asked about: a star is about subresources only.
    starred -= set() if request.subresource else {"subresource"}
    stars = mapped(ResourceRequest(**values | dict.fromkeys(starred, "*")))
    meant = {field: getattr(other, field) for field in starred}
    if not meant.get("subresource", "x"):
        return
    one = mapped(ResourceRequest(**values | meant))
    if stars is None or one is None:
        return
    assert set(stars.kinds) >= set(one.kinds)
    assert merge([stars.span, one.span]) == merge([stars.span])


@given(PATH_REQUESTS, WORDS)
def test_who_may_all_paths_may_each(request: PathRequest, rest: str) -> None:
    stars = question_of(PathRequest(request.verb, request.path + "*"))
    one = question_of(PathRequest(request.verb, request.path + rest))
    assert stars.kinds == one.kinds
    # A path that ends with a star is a prefix itself, and a larger one.
    if request.path and not (request.path + rest).endswith("*"):
        assert merge([stars.span, one.span]) == merge([stars.span])
