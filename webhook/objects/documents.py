"""Parses objects from the output of ``kubectl get -o yaml`` or ``-o json``.

The text is YAML documents or one JSON object; a ``List``, or the list of one kind, is replaced by
its items. Other kinds are ignored.

Invariants:

1. Only what ObjectState holds is kept of an object, so nothing of a Secret's data.
2. Errors show nothing of the text but names, kinds and values in ``metadata``.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from sys import intern
from typing import Any, ClassVar, Final

import yaml

from keys.encoding import decode_json
from keys.errors import EncodingError
from keys.messages import shown
from webhook.config.yaml_text import YAML_ERRORS, PlainNumbers
from webhook.errors import ConfigurationError
from webhook.token.bound_objects import INVALID_SINCE_LABEL, Kind, ObjectKey, ObjectState
from webhook.token.claims import is_dns_label, is_dns_subdomain

_KINDS: Final = {str(kind): kind for kind in Kind}
_LISTS: Final = {"List": ""} | {f"{kind}List": str(kind) for kind in Kind}
_DEFAULT_ACCOUNT: Final = "default"
_TIMESTAMP: Final = "tag:yaml.org,2002:timestamp"
_Node = yaml.MappingNode

Objects = dict[ObjectKey, ObjectState]


class _Loader(PlainNumbers, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A SafeLoader that loads timestamps as text and rejects duplicate fields."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: _Node, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            raise yaml.constructor.ConstructorError(
                problem="a field appears twice", problem_mark=node.start_mark
            )
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def parse_objects(data: bytes, source: str) -> Objects:
    """Return the objects in a text; ``source`` is its name in errors.

    Raises ConfigurationError, which names the document and the field, also for a text without any
    object: with it every token would be refused.

    >>> text = b"{apiVersion: v1, kind: Node, metadata: {name: n1, uid: u1}}"
    >>> [str(key) for key in parse_objects(b"--- " + text, "objects.yaml")]
    ['node n1']
    """
    found: Objects = {}
    for place, document in enumerate(_documents(data, source), 1):
        for where, members in _items(document, f"{source}: document {place}"):
            _add(found, members, where)
    if not found:
        raise ConfigurationError(
            f"{source} has no ServiceAccount, Pod, Secret or Node, so that every token would be "
            "refused; write some with `kubectl get serviceaccounts -A -o yaml`"
        )
    return found


def _documents(data: bytes, source: str) -> list[object]:
    try:
        text = data.decode("utf-8")
        if text.lstrip().startswith("{"):
            return [decode_json(data)]
        return [item for item in yaml.load_all(text, Loader=_Loader) if item is not None]
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{source} is not UTF-8; save it as UTF-8") from error
    except EncodingError as error:
        raise ConfigurationError(f"{source} is {error}") from error
    except YAML_ERRORS as error:
        # Its message may show the text (invariant 2).
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        twice = getattr(error, "problem", "") == "a field appears twice"
        what = "has a field that appears twice" if twice else "is not YAML"
        raise ConfigurationError(f"{source} {what}{where}; correct it") from None


def _items(document: object, where: str) -> Iterator[tuple[str, dict[str, object]]]:
    members = _mapping(document, where)
    kind, version = _text(members, "kind", where), _text(members, "apiVersion", where)
    if version != "v1" or kind not in _LISTS:
        yield where, members
        return
    items = members.get("items")
    if not isinstance(items, list):
        raise ConfigurationError(f"{where}: items must be a list")
    for place, item in enumerate(items, 1):
        inner = f"{where}, item {place}"
        found = _mapping(item, inner)
        if _LISTS[kind]:
            # The items in a response of the API server have neither.
            found = {"kind": _LISTS[kind], "apiVersion": "v1", **found}
        yield inner, found


def _add(found: Objects, members: dict[str, object], where: str) -> None:
    name = _text(members, "kind", where)
    kind = _KINDS.get(name)
    if kind is None or _text(members, "apiVersion", where) != "v1":
        return
    where = f"{where} ({kind})"
    metadata = _mapping(members.get("metadata"), f"{where}: metadata")
    key = _key(kind, metadata, where)
    if key in found:
        raise ConfigurationError(f"{where}: {key} appears twice; remove one of them")
    spec = members.get("spec")
    pod = _mapping(spec, f"{where}: spec") if kind is Kind.POD and spec is not None else {}
    account = _optional(pod, "serviceAccountName", f"{where}: spec")
    found[key] = ObjectState(  # invariant 1
        _text(metadata, "uid", where, "metadata."),
        _deleted_at(metadata, where),
        (account or _DEFAULT_ACCOUNT) if kind is Kind.POD else "",
        intern(_optional(pod, "nodeName", f"{where}: spec")),
        kind is Kind.SECRET and _is_marked_invalid(metadata, where),
    )


def _key(kind: Kind, metadata: dict[str, object], where: str) -> ObjectKey:
    name = _text(metadata, "name", where, "metadata.")
    if not is_dns_subdomain(name):
        raise ConfigurationError(
            f"{where}: metadata.name is {shown(name, 64)}, which Kubernetes does not allow"
        )
    if kind is Kind.NODE:
        if metadata.get("namespace"):
            raise ConfigurationError(f"{where}: metadata.namespace must be absent for a Node")
        return ObjectKey(kind, "", name)
    namespace = _text(metadata, "namespace", where, "metadata.")
    if not is_dns_label(namespace):
        raise ConfigurationError(
            f"{where}: metadata.namespace is {shown(namespace, 64)}, which Kubernetes does not "
            "allow"
        )
    return ObjectKey(kind, intern(namespace), name)


def _is_marked_invalid(metadata: dict[str, object], where: str) -> bool:
    labels = metadata.get("labels")
    if labels is None:
        return False
    where = f"{where}: metadata.labels"
    return bool(_optional(_mapping(labels, where), INVALID_SINCE_LABEL, where))


def _deleted_at(metadata: dict[str, object], where: str) -> float | None:
    text = _optional(metadata, "deletionTimestamp", f"{where}: metadata")
    if not text:
        return None
    try:
        return unix_seconds(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{where}: metadata.deletionTimestamp is {shown(text, 64)}; write it like "
            "2026-01-31T12:00:00Z"
        ) from error


def unix_seconds(text: str) -> float:
    """Return the Unix seconds of an RFC 3339 time. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{shown(text, 64)} has no time zone")
    try:
        return moment.astimezone(UTC).timestamp()
    except OverflowError as error:
        raise ValueError(f"{shown(text, 64)} is before the year 1 or after 9999") from error


def _mapping(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where} must be a mapping of fields")
    return value


def _text(members: dict[str, object], field: str, where: str, path: str = "") -> str:
    value = members.get(field)
    if not isinstance(value, str) or not value:
        missing = value is None or value == ""
        problem = "is missing" if missing else "must be text; quote it"
        raise ConfigurationError(f"{where}: {path}{field} {problem}")
    return value


def _optional(members: dict[str, object], field: str, where: str) -> str:
    value = members.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigurationError(f"{where}.{field} must be text; quote it")
    return value
