"""API discovery and OpenAPI, as far as kubectl and client generators ask for it.

Source: kubernetes ``apimachinery/pkg/apis/meta/v1`` (APIVersions, APIGroupList, APIGroup,
APIResourceList) and ``kube-openapi/pkg/handler3``.
"""

from dataclasses import dataclass
from typing import Any, Final

from webhook.reviews import AUTHENTICATION_GROUP, AUTHENTICATION_VERSIONS


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource that can only be created, as all reviews are."""

    plural: str
    kind: str

    def discovery(self) -> dict[str, Any]:
        """Render the APIResource."""
        return {
            "name": self.plural,
            "singularName": self.plural.removesuffix("s"),
            "namespaced": False,
            "kind": self.kind,
            "verbs": ["create"],
        }


_TOKEN_REVIEW: Final = Resource("tokenreviews", "TokenReview")
# Group, then version with the preferred one first, then resources.
GROUPS: Final[dict[str, dict[str, tuple[Resource, ...]]]] = {
    AUTHENTICATION_GROUP: dict.fromkeys(AUTHENTICATION_VERSIONS, (_TOKEN_REVIEW,))
}


def core_versions() -> dict[str, Any]:
    """Render ``GET /api``: the versions of the core group, which has an empty name.

    kubectl takes a version without resources for a fault, so one that serves none is not named.
    """
    return {
        "kind": "APIVersions",
        "versions": list(GROUPS.get("", ())),
        "serverAddressByClientCIDRs": [],
    }


def group_list() -> dict[str, Any]:
    """Render ``GET /apis``."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in GROUPS]}


def group(name: str) -> dict[str, Any] | None:
    """Render ``GET /apis/GROUP``, or None where there is no such group."""
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name) if name in GROUPS else None


def resource_list(name: str, version: str) -> dict[str, Any] | None:
    """Render ``GET /apis/GROUP/VERSION``, or ``GET /api/v1`` with an empty group."""
    resources = GROUPS.get(name, {}).get(version)
    if resources is None and (name, version) != ("", "v1"):
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{name}/{version}".lstrip("/"),
        "resources": [resource.discovery() for resource in resources or ()],
    }


def openapi_index() -> dict[str, Any]:
    """Render ``GET /openapi/v3``: where the document of each group version is."""
    paths = [f"apis/{name}/{version}" for name, versions in GROUPS.items() for version in versions]
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def openapi_document(name: str, version: str) -> dict[str, Any] | None:
    """Render the OpenAPI v3 document of a group version."""
    resources = GROUPS.get(name, {}).get(version)
    if resources is None:
        return None
    return {
        "openapi": "3.0.0",
        "info": {"title": "Leeway", "version": version},
        "paths": {
            f"/apis/{name}/{version}/{resource.plural}": {"post": _create(name, version, resource)}
            for resource in resources
        },
        "components": {
            "schemas": {f"{version}.{r.kind}": schema(name, version, r) for r in resources}
        },
    }


def _group(name: str) -> dict[str, Any]:
    versions = [{"groupVersion": f"{name}/{v}", "version": v} for v in GROUPS[name]]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _group_version_kind(name: str, version: str, resource: Resource) -> dict[str, str]:
    return {"group": name, "version": version, "kind": resource.kind}


def _create(name: str, version: str, resource: Resource) -> dict[str, Any]:
    content = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{version}.{resource.kind}"}}
    }
    return {
        "operationId": f"create{resource.kind}",
        "requestBody": {"required": True, "content": content},
        "responses": {"201": {"description": "Created", "content": content}},
        "x-kubernetes-action": "post",
        "x-kubernetes-group-version-kind": _group_version_kind(name, version, resource),
    }


def schema(name: str, version: str, resource: Resource) -> dict[str, Any]:
    """Render the schema of a kind, the same in OpenAPI v2 and v3."""
    return {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {
                "type": "object",
                "properties": {
                    "token": {"type": "string"},
                    "audiences": {"type": "array", "items": {"type": "string"}},
                },
            },
            "status": {"type": "object"},
        },
        "x-kubernetes-group-version-kind": [_group_version_kind(name, version, resource)],
    }
