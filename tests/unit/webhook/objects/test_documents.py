"""Objects as kubectl writes them, and texts that are refused."""

import json
import re
from pathlib import Path

import pytest
import yaml

from webhook.config.load import load_configuration
from webhook.errors import ConfigurationError
from webhook.objects.api_server import _PLURALS
from webhook.objects.documents import Objects, parse_objects, unix_seconds
from webhook.token.bound_objects import Kind, ObjectKey, ObjectState

SA = ObjectKey(Kind.SERVICE_ACCOUNT, "argo-run", "loofah")
POD = ObjectKey(Kind.POD, "argo-run", "loofah-0")
SECRET = ObjectKey(Kind.SECRET, "argo-run", "loofah-token")
NODE = ObjectKey(Kind.NODE, "", "node-1")
HIDDEN = "c2VjcmV0LWRhdGE"


def document(kind: str, name: str, namespace: str = "", **metadata: object) -> dict[str, object]:
    place = {"namespace": namespace} if namespace else {}
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": name, "uid": f"u-{name}"} | place | metadata,
    }


def pod(**spec: object) -> dict[str, object]:
    return document("Pod", "loofah-0", "argo-run") | {"spec": {"containers": []} | spec}


INVALID_SINCE = "kubernetes.io/legacy-token-invalid-since"
ACCOUNT = document("ServiceAccount", "loofah", "argo-run", labels={"a": "b"})
ITEMS: list[dict[str, object]] = [
    ACCOUNT,
    pod(serviceAccountName="loofah", nodeName="node-1"),
    document("Secret", "loofah-token", "argo-run") | {"data": {"token": HIDDEN}},
    document("Node", "node-1") | {"spec": {"podCIDR": "10.0.0.0/24"}},
]
ALL: Objects = {
    SA: ObjectState("u-loofah"),
    POD: ObjectState("u-loofah-0", None, "loofah", "node-1"),
    SECRET: ObjectState("u-loofah-token"),
    NODE: ObjectState("u-node-1"),
}
ANY_LIST: dict[str, object] = {"apiVersion": "v1", "kind": "List", "items": ITEMS}


def as_yaml(*documents: object) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False)


GOOD = [
    pytest.param(as_yaml(*ITEMS), ALL, id="documents"),
    pytest.param(as_yaml(ANY_LIST), ALL, id="list-in-yaml"),
    pytest.param(json.dumps(ANY_LIST), ALL, id="list-in-json"),
    pytest.param("\n  " + json.dumps(ANY_LIST, indent=2), ALL, id="spaced-json"),
    pytest.param(json.dumps(ACCOUNT), {SA: ALL[SA]}, id="one-in-json"),
    pytest.param(
        json.dumps(
            {
                "kind": "ServiceAccountList",
                "apiVersion": "v1",
                "items": [{"metadata": ACCOUNT["metadata"]}],
            }
        ),
        {SA: ALL[SA]},
        id="what-an-api-server-answers",
    ),
    pytest.param(as_yaml(None, ACCOUNT, None), {SA: ALL[SA]}, id="empty-documents"),
    pytest.param(
        as_yaml(
            document("ConfigMap", "x", "y"),
            ACCOUNT,
            {"kind": "Deployment", "apiVersion": "apps/v1"},
        ),
        {SA: ALL[SA]},
        id="other-kinds-are-passed-over",
    ),
    pytest.param(
        as_yaml(pod()), {POD: ObjectState("u-loofah-0", None, "default", "")}, id="bare-pod"
    ),
    pytest.param(
        as_yaml(document("Pod", "loofah-0", "argo-run")),
        {POD: ObjectState("u-loofah-0", None, "default", "")},
        id="pod-without-spec",
    ),
    pytest.param(
        as_yaml(document("Node", "node-1", deletionTimestamp="1970-01-01T00:01:30Z")),
        {NODE: ObjectState("u-node-1", 90.0)},
        id="deleted",
    ),
    pytest.param(
        # Unquoted, which YAML takes for a time of its own.
        as_yaml(document("Node", "node-1")).replace(
            "uid:", "deletionTimestamp: 1970-01-01T00:01:30Z\n  uid:"
        ),
        {NODE: ObjectState("u-node-1", 90.0)},
        id="deleted-unquoted",
    ),
    *[
        pytest.param(
            as_yaml(document("Secret", "loofah-token", "argo-run", labels=labels)),
            {SECRET: ObjectState("u-loofah-token", is_marked_invalid=marked)},
            id=f"labels-{labels}",
            marks=pytest.mark.fault(6),
        )
        for labels, marked in (
            ({INVALID_SINCE: "2026-01-01"}, True),
            ({INVALID_SINCE: "x", "a": "b"}, True),
            ({INVALID_SINCE: ""}, False),
            ({"a": "b"}, False),
            ({}, False),
            (None, False),
        )
    ],
    pytest.param(
        as_yaml(document("Secret", "loofah-token", "argo-run")).replace(
            "metadata:", f"metadata:\n  labels: {{{INVALID_SINCE}: 2026-01-01}}"
        ),
        {SECRET: ObjectState("u-loofah-token", is_marked_invalid=True)},
        id="label-without-quotes",
        marks=pytest.mark.fault(6),
    ),
    pytest.param(
        as_yaml(document("Node", "node-1", labels={INVALID_SINCE: "2026-01-01"})),
        {NODE: ObjectState("u-node-1")},
        id="label-of-a-node",
        marks=pytest.mark.fault(6),
    ),
    pytest.param(
        as_yaml(document("Node", "a.b-c")),
        {ObjectKey(Kind.NODE, "", "a.b-c"): ObjectState("u-a.b-c")},
        id="dots",
    ),
]


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_good(text: str, expected: Objects) -> None:
    assert parse_objects(text.encode(), "objects.yaml") == expected


TWICE = as_yaml(ACCOUNT).replace("kind:", "kind: Pod\nkind:")
BAD = [
    pytest.param("", ("has no ServiceAccount", "kubectl get"), id="empty"),
    pytest.param(
        as_yaml(document("Secret", "s", "argo-run", labels=["a"])),
        ("document 1 (Secret): metadata.labels must be a mapping",),
        id="labels-list",
    ),
    pytest.param(
        as_yaml(document("Secret", "s", "argo-run", labels={INVALID_SINCE: True})),
        (f"metadata.labels.{INVALID_SINCE} must be text; quote it",),
        id="label-no-text",
    ),
    pytest.param("# nothing\n---\n", ("has no ServiceAccount",), id="comments"),
    pytest.param(
        as_yaml(document("ConfigMap", "x", "y")), ("has no ServiceAccount",), id="no-kind-of-ours"
    ),
    pytest.param(as_yaml(ANY_LIST | {"items": []}), ("has no ServiceAccount",), id="empty-list"),
    pytest.param("a: [1", ("is not YAML at line",), id="not-yaml"),
    pytest.param(f"password: {HIDDEN}\n\tx: y", ("is not YAML at line 2",), id="tab"),
    pytest.param("!!python/object:os.system {}", ("is not YAML",), id="tags"),
    pytest.param("[" * 3000, ("is not YAML",), id="deep"),
    pytest.param("a: !!bool x", ("is not YAML",), id="tagged-bool"),
    pytest.param("a: !!int ''", ("is not YAML",), id="tagged-number"),
    pytest.param("a: !!timestamp x", ("is not YAML",), id="tagged-time"),
    pytest.param('{"a": ', ("objects.yaml is ",), id="not-json"),
    pytest.param('{"kind": "Pod", "kind": "Node"}', ("objects.yaml is ",), id="twice-in-json"),
    pytest.param(TWICE, ("a field that appears twice",), id="twice-in-yaml"),
    pytest.param("just text", ("document 1 must be a mapping",), id="text"),
    pytest.param("- kind: Pod", ("document 1 must be a mapping",), id="bare-list"),
    pytest.param("apiVersion: v1", ("document 1: kind is missing",), id="no-kind"),
    pytest.param("kind: Pod", ("document 1: apiVersion is missing",), id="no-version"),
    pytest.param(
        "kind: 7\napiVersion: v1", ("document 1: kind must be text",), id="kind-is-a-number"
    ),
    pytest.param(
        "kind: Pod\napiVersion: 1", ("apiVersion must be text; quote it",), id="version-is-a-number"
    ),
    pytest.param("kind: List\napiVersion: v1", ("items must be a list",), id="no-items"),
    pytest.param(
        "kind: List\napiVersion: v1\nitems: {}", ("items must be a list",), id="items-is-a-mapping"
    ),
    pytest.param(
        "kind: List\napiVersion: v1\nitems: [7]",
        ("document 1, item 1 must be a mapping",),
        id="item-is-a-number",
    ),
    pytest.param(
        as_yaml(ANY_LIST | {"items": [ACCOUNT, {"kind": "Pod", "apiVersion": "v1"}]}),
        ("item 2 (Pod): metadata must be a mapping",),
        id="no-metadata",
    ),
    pytest.param(
        as_yaml(ACCOUNT, ACCOUNT),
        ("document 2", "service account argo-run/loofah appears twice"),
        id="twice",
    ),
    pytest.param(
        as_yaml(ACCOUNT, ANY_LIST),
        ("document 2, item 1", "appears twice"),
        id="twice-across-documents",
    ),
    pytest.param(
        as_yaml(document("Secret", "", "ns")), ("(Secret): metadata.name is missing",), id="no-name"
    ),
    pytest.param(
        as_yaml(document("Secret", "A b", "ns")),
        ("metadata.name is 'A b', which Kubernetes does not allow",),
        id="name",
    ),
    pytest.param(
        as_yaml(document("Secret", "a")), ("metadata.namespace is missing",), id="no-namespace"
    ),
    pytest.param(
        as_yaml(document("Secret", "a", "a.b")), ("metadata.namespace is 'a.b'",), id="namespace"
    ),
    pytest.param(
        as_yaml(document("Node", "a", "ns")),
        ("metadata.namespace must be absent",),
        id="node-with-namespace",
    ),
    pytest.param(as_yaml(document("Node", "a", uid="")), ("metadata.uid is missing",), id="no-uid"),
    pytest.param(
        as_yaml(document("Node", "a", uid=12)),
        ("metadata.uid must be text; quote it",),
        id="uid-is-a-number",
    ),
    pytest.param(
        as_yaml(document("Node", "a", deletionTimestamp="now")),
        ("deletionTimestamp is 'now'; write it like",),
        id="timestamp",
    ),
    pytest.param(
        as_yaml(document("Node", "a", deletionTimestamp="2026-01-31T12:00:00")),
        ("deletionTimestamp is '2026-",),
        id="timestamp-without-zone",
    ),
    pytest.param(
        as_yaml(document("Node", "a", deletionTimestamp=5)),
        ("deletionTimestamp must be text",),
        id="timestamp-is-a-number",
    ),
    pytest.param(
        as_yaml(pod(serviceAccountName=5)),
        ("spec.serviceAccountName must be text",),
        id="account-is-a-number",
    ),
    pytest.param(as_yaml(pod(nodeName=[])), ("spec.nodeName must be text",), id="node-is-a-list"),
    pytest.param(as_yaml(pod() | {"spec": 5}), ("spec must be a mapping",), id="spec-is-a-number"),
]


@pytest.mark.parametrize(("text", "parts"), BAD)
def test_bad(text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_objects(text.encode(), "objects.yaml")
    message = str(caught.value)
    for part in ("objects.yaml", *parts):
        assert part in message
    assert "\n" not in message
    assert len(message) < 300
    assert HIDDEN not in message


def test_not_utf_8() -> None:
    for encoding in ("utf-16", "latin-1"):
        with pytest.raises(ConfigurationError, match="is not UTF-8"):
            parse_objects("kind: é".encode(encoding), "objects.yaml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T02:00:01+02:00", 1.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
    ],
)
def test_unix_seconds(text: str, seconds: float) -> None:
    assert unix_seconds(text) == seconds


def blocks_of_the_page() -> list[str]:
    page = Path(__file__).parents[4] / "docs" / "objects.md"
    return re.findall(r"^```yaml\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def test_the_file_in_the_documents() -> None:
    (text,) = [block for block in blocks_of_the_page() if "kind: ServiceAccount\n" in block]
    assert parse_objects(text.encode(), "objects.md") == {
        SA: ObjectState("66bff4eb-5231-4bfa-b116-b20312443c46"),
        POD: ObjectState("0d2f5ac2-55a8-4b02-8b31-f8a90e3fbcb5", None, "loofah", "node-1"),
    }


def test_the_role_in_the_documents_is_what_is_asked_for() -> None:
    (text,) = [block for block in blocks_of_the_page() if "kind: ClusterRole\n" in block]
    role, binding = yaml.safe_load_all(text)
    (rule,) = role["rules"]
    assert set(rule["resources"]) == set(_PLURALS.values())
    assert set(rule["verbs"]) == {"get", "list", "watch"}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_the_sections_in_the_documents_are_configurations(tmp_path: Path) -> None:
    sources = []
    for text in blocks_of_the_page():
        if "source:" in text:
            (tmp_path / "leeway.yaml").write_text(text)
            sources.append(load_configuration(tmp_path, {}, {}).objects.source)
    assert sources == ["file", "kubernetes"]
