"""API discovery and OpenAPI, as far as kubectl and client generators ask for it.

Source: kubernetes ``apimachinery/pkg/apis/meta/v1`` (APIVersions, APIGroupList, APIGroup,
APIResourceList) and ``kube-openapi/pkg/handler3``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from webhook.kube import range_review as range_reviews
from webhook.kube import rules_review as rules_reviews
from webhook.kube.access_review import AUTHORIZATION_GROUP, SUBJECT_KIND
from webhook.kube.resources import KNOWN
from webhook.kube.token_review import AUTHENTICATION_GROUP, AUTHENTICATION_VERSIONS

Schema = Mapping[str, Any]
_TEXT: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "integer"}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_OBJECT: Final[Schema] = {"type": "object"}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _texts(*names: str) -> Schema:
    return _object(**dict.fromkeys(names, _TEXT))


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource. One that is served can only be created, as all reviews are.

    ``spec`` is the schema of that member, None where there is none. ``group_version`` is that of
    the kind where the resource's is another, ``path`` where it is not the usual one.
    """

    plural: str
    kind: str
    spec: Schema | None = None
    namespaced: bool = False
    verbs: tuple[str, ...] = ("create",)
    short_names: tuple[str, ...] = ()
    group_version: tuple[str, str] | None = None
    path: str = ""

    @property
    def is_served(self) -> bool:
        """Whether it can be created here."""
        return bool(self.verbs)

    def discovery(self) -> dict[str, Any]:
        """Render the APIResource."""
        rendered: dict[str, Any] = {
            "name": self.plural,
            "singularName": "" if "/" in self.plural else self.kind.lower(),
            "namespaced": self.namespaced,
            "kind": self.kind,
            "verbs": list(self.verbs),
        }
        if self.group_version is not None:
            rendered["group"], rendered["version"] = self.group_version
        if self.short_names:
            rendered["shortNames"] = list(self.short_names)
        return rendered


_RESOURCE_ATTRIBUTES: Final = _texts(
    "namespace", "verb", "group", "version", "resource", "subresource", "name"
)
_ATTRIBUTES: Final = {
    "resourceAttributes": _object(
        **_RESOURCE_ATTRIBUTES["properties"], fieldSelector=_OBJECT, labelSelector=_OBJECT
    ),
    "nonResourceAttributes": _texts("path", "verb"),
}
_TOKEN_REVIEW: Final = Resource(
    "tokenreviews", "TokenReview", _object(token=_TEXT, audiences=_TEXTS)
)
_WHO_AM_I: Final = Resource("selfsubjectreviews", "SelfSubjectReview")


def _subject_access_review(groups: str) -> Resource:
    subject = {"user": _TEXT, groups: _TEXTS, "extra": _OBJECT, "uid": _TEXT}
    return Resource("subjectaccessreviews", SUBJECT_KIND, _object(**_ATTRIBUTES, **subject))


_ACCESS_REVIEWS: Final[dict[str, tuple[Resource, ...]]] = {
    "v1": (
        Resource("selfsubjectaccessreviews", "SelfSubjectAccessReview", _object(**_ATTRIBUTES)),
        _subject_access_review("groups"),
        Resource("selfsubjectrulesreviews", rules_reviews.KIND, _texts("namespace")),
    ),
    "v1beta1": (_subject_access_review("group"),),
}
_RANGE_REVIEW: Final = Resource(
    "rangeaccessreviews",
    range_reviews.KIND,
    _object(user=_TEXT, groups=_TEXTS, token=_TEXT, permission=_TEXT, key=_TEXT, rangeEnd=_TEXT),
)
_TOKEN_REQUEST: Final = Resource(
    "serviceaccounts/token",
    "TokenRequest",
    _object(
        audiences=_TEXTS,
        boundObjectRef=_texts("kind", "apiVersion", "name", "uid"),
        expirationSeconds=_NUMBER,
    ),
    namespaced=True,
    group_version=(AUTHENTICATION_GROUP, "v1"),
    path="/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
)
_Versions = dict[str, tuple[Resource, ...]]


def _all_groups() -> dict[str, _Versions]:
    groups: dict[str, _Versions] = {
        "": {"v1": (_TOKEN_REQUEST,)},
        AUTHENTICATION_GROUP: dict.fromkeys(AUTHENTICATION_VERSIONS, (_TOKEN_REVIEW,)),
        AUTHORIZATION_GROUP: dict(_ACCESS_REVIEWS),
    }
    groups[AUTHENTICATION_GROUP]["v1"] += (_WHO_AM_I,)
    group, _, version = range_reviews.API_VERSION.rpartition("/")
    groups[group] = {version: (_RANGE_REVIEW,)}
    for known in KNOWN:
        resource = Resource(
            known.plural,
            known.kind,
            namespaced=known.namespaced,
            verbs=(),
            short_names=known.short_names,
        )
        versions = groups.setdefault(known.group, {})
        versions[known.version] = (*versions.get(known.version, ()), resource)
    return groups


# Group, then version with the preferred one first, then resources.
GROUPS: Final = _all_groups()


def served() -> list[tuple[str, str, Resource]]:
    """Return group, version and resource of everything that can be created here."""
    return [
        (name, version, resource)
        for name, versions in GROUPS.items()
        for version, resources in versions.items()
        for resource in resources
        if resource.is_served
    ]


def core_versions() -> dict[str, Any]:
    """Render ``GET /api``: the versions of the core group, which has an empty name."""
    return {
        "kind": "APIVersions",
        "versions": list(GROUPS[""]),
        "serverAddressByClientCIDRs": [],
    }


def group_list() -> dict[str, Any]:
    """Render ``GET /apis``."""
    groups = [_group(name) for name in GROUPS if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(name: str) -> dict[str, Any] | None:
    """Render ``GET /apis/GROUP``, or None where there is no such group."""
    if not name or name not in GROUPS:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name)


def resource_list(name: str, version: str) -> dict[str, Any] | None:
    """Render ``GET /apis/GROUP/VERSION``, or ``GET /api/v1`` with an empty group."""
    resources = GROUPS.get(name, {}).get(version)
    if resources is None:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{name}/{version}".lstrip("/"),
        "resources": [resource.discovery() for resource in resources],
    }


def openapi_index() -> dict[str, Any]:
    """Render ``GET /openapi/v3``: where the document of each group version is."""
    paths = dict.fromkeys(
        f"apis/{name}/{version}" if name else f"api/{version}" for name, version, _ in served()
    )
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def openapi_document(name: str, version: str) -> dict[str, Any] | None:
    """Render the OpenAPI v3 document of a group version."""
    resources = [r for group, v, r in served() if (group, v) == (name, version)]
    if not resources:
        return None
    return {
        "openapi": "3.0.0",
        "info": {"title": "Leeway", "version": version},
        "paths": {
            r.path or f"/apis/{name}/{version}/{r.plural}": {"post": _create(name, version, r)}
            for r in resources
        },
        "components": {
            "schemas": {f"{version}.{r.kind}": schema(name, version, r) for r in resources}
        },
    }


def _group(name: str) -> dict[str, Any]:
    versions = [{"groupVersion": f"{name}/{v}", "version": v} for v in GROUPS[name]]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _group_version_kind(name: str, version: str, resource: Resource) -> dict[str, str]:
    own_name, own_version = resource.group_version or (name, version)
    return {"group": own_name, "version": own_version, "kind": resource.kind}


def _create(name: str, version: str, resource: Resource) -> dict[str, Any]:
    content = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{version}.{resource.kind}"}}
    }
    operation: dict[str, Any] = {
        "operationId": f"create{resource.kind}",
        "requestBody": {"required": True, "content": content},
        "responses": {"201": {"description": "Created", "content": content}},
        "x-kubernetes-action": "post",
        "x-kubernetes-group-version-kind": _group_version_kind(name, version, resource),
    }
    names = [part[1:-1] for part in resource.path.split("/") if part.startswith("{")]
    if names:
        operation["parameters"] = [
            {"name": part, "in": "path", "required": True, "schema": _TEXT} for part in names
        ]
    return operation


def schema(name: str, version: str, resource: Resource) -> dict[str, Any]:
    """Render the schema of a kind, the same in OpenAPI v2 and v3."""
    properties: dict[str, Schema] = {
        "apiVersion": _TEXT,
        "kind": _TEXT,
        "metadata": _OBJECT,
        "status": _OBJECT,
    }
    rendered: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "x-kubernetes-group-version-kind": [_group_version_kind(name, version, resource)],
    }
    if resource.spec is not None:
        properties["spec"] = resource.spec
        rendered["required"] = ["spec"]
    return rendered
