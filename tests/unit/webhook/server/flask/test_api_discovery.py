"""API discovery: what is served here, and what is only known."""

import re
from itertools import groupby

import pytest

from webhook.kube.resources import KNOWN
from webhook.server.flask import api_discovery
from webhook.server.flask.api_discovery import GROUPS, Resource

CREATED = {
    "/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token": "TokenRequest",
    "/apis/authentication.k8s.io/v1/tokenreviews": "TokenReview",
    "/apis/authentication.k8s.io/v1beta1/tokenreviews": "TokenReview",
    "/apis/authentication.k8s.io/v1/selfsubjectreviews": "SelfSubjectReview",
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews": "SelfSubjectAccessReview",
    "/apis/authorization.k8s.io/v1/subjectaccessreviews": "SubjectAccessReview",
    "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews": "SelfSubjectRulesReview",
    "/apis/authorization.k8s.io/v1beta1/subjectaccessreviews": "SubjectAccessReview",
    "/apis/leeway.dev/v1/rangeaccessreviews": "RangeAccessReview",
}


def group_versions() -> list[tuple[str, str]]:
    return [(name, version) for name, versions in GROUPS.items() for version in versions]


def test_groups_and_versions_lead_to_each_other() -> None:
    listed = api_discovery.group_list()
    assert (listed["kind"], listed["apiVersion"]) == ("APIGroupList", "v1")
    for found in listed["groups"]:
        # A group by itself says what it is.
        assert api_discovery.group(found["name"]) == found | {
            "kind": "APIGroup",
            "apiVersion": "v1",
        }
        assert found["preferredVersion"] == found["versions"][0]
        for version in found["versions"]:
            resources = api_discovery.resource_list(found["name"], version["version"])
            assert resources is not None
            assert resources["groupVersion"] == version["groupVersion"]
    assert len(listed["groups"]) == len(GROUPS) - 1
    core = api_discovery.core_versions()
    assert (core["kind"], core["versions"]) == ("APIVersions", ["v1"])
    resources = api_discovery.resource_list("", "v1")
    assert resources is not None
    assert resources["groupVersion"] == "v1"


@pytest.mark.parametrize(
    ("name", "version"), [("", "v2"), ("no.such", "v1"), ("apps", "v2"), ("apps", "")]
)
def test_what_is_not_there(name: str, version: str) -> None:
    assert api_discovery.resource_list(name, version) is None
    assert api_discovery.openapi_document(name, version) is None
    assert api_discovery.group("") is None
    assert api_discovery.group("no.such") is None


def listed(name: str, version: str) -> list[dict[str, object]]:
    found = api_discovery.resource_list(name, version)
    assert found is not None
    resources = found["resources"]
    assert isinstance(resources, list)
    return resources


def test_what_can_be_created_and_what_is_only_known() -> None:
    created, known = set(), set()
    for name, version in group_versions():
        for resource in listed(name, version):
            # client-go needs all of these, empty or not.
            assert resource.keys() >= {"name", "singularName", "namespaced", "kind", "verbs"}
            if resource["verbs"]:
                assert resource["verbs"] == ["create"]
                created.add((name, version, resource["kind"]))
            else:
                known.add((name, version, resource["name"], resource["namespaced"]))
    assert {kind for _, _, kind in created} == set(CREATED.values())
    assert known == {(k.group, k.version, k.plural, k.namespaced) for k in KNOWN}


def test_no_resource_stands_twice_in_a_version() -> None:
    for name, version in group_versions():
        names = sorted(str(resource["name"]) for resource in listed(name, version))
        assert [name for name, same in groupby(names) if len(list(same)) > 1] == []


def test_a_token_request_is_of_another_group_than_its_resource() -> None:
    found = [r for r in listed("", "v1") if r["name"] == "serviceaccounts/token"]
    assert found == [
        {
            "name": "serviceaccounts/token",
            "singularName": "",
            "namespaced": True,
            "kind": "TokenRequest",
            "verbs": ["create"],
            "group": "authentication.k8s.io",
            "version": "v1",
        }
    ]


def test_short_names() -> None:
    found = {r["kind"]: r.get("shortNames") for r in listed("", "v1")}
    assert found["Pod"] == ["po"]
    assert found["Secret"] is None
    assert found["ServiceAccount"] == ["sa"]


def test_the_openapi_documents_are_of_what_can_be_created() -> None:
    paths: dict[str, str] = {}
    for index, entry in api_discovery.openapi_index()["paths"].items():
        assert entry == {"serverRelativeURL": f"/openapi/v3/{index}"}
        name, _, version = index.removeprefix("apis/").removeprefix("api/").rpartition("/")
        document = api_discovery.openapi_document(name, version)
        assert document is not None
        schemas = document["components"]["schemas"]
        for path, item in document["paths"].items():
            post = item["post"]
            kind = post["x-kubernetes-group-version-kind"]["kind"]
            paths[path] = kind
            reference = post["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            schema = schemas[reference.removeprefix("#/components/schemas/")]
            assert schema["x-kubernetes-group-version-kind"][0]["kind"] == kind
            assert [p["name"] for p in post.get("parameters", [])] == re.findall(r"{(\w+)}", path)
        assert len(schemas) == len(document["paths"])
    assert paths == CREATED


def test_a_review_without_spec_has_none_in_its_schema() -> None:
    for name, version, resource in api_discovery.served():
        schema = api_discovery.schema(name, version, resource)
        has_spec = resource.kind != "SelfSubjectReview"
        assert ("spec" in schema["properties"], "required" in schema) == (has_spec, has_spec)


def test_what_has_no_verbs_is_not_served() -> None:
    assert Resource("pods", "Pod").is_served
    assert not Resource("pods", "Pod", verbs=()).is_served
