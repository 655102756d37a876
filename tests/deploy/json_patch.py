"""The four operations of JSON Patch that the patches for kubeadm have (RFC 6902)."""

from copy import deepcopy
from typing import Any


class PatchError(Exception):
    """A ``test`` found another value, or a path leads nowhere."""


def patched(document: Any, operations: list[dict[str, Any]]) -> Any:
    """Return a document with all operations applied. Raises PatchError if one does not apply."""
    result = deepcopy(document)
    for operation in operations:
        try:
            _apply(result, operation)
        except (KeyError, IndexError) as error:
            raise PatchError(f"{operation['path']} is not there") from error
    return result


def _apply(document: Any, operation: dict[str, Any]) -> None:
    *parents, last = operation["path"].removeprefix("/").split("/")
    for name in parents:
        document = document[int(name) if isinstance(document, list) else name]
    if operation["op"] == "add":
        assert (type(document), last) == (list, "-"), "other places to add to are not needed"
        document.append(operation["value"])
        return
    place = int(last) if isinstance(document, list) else last
    found = document[place]
    match operation["op"]:
        case "test":
            if found != operation["value"]:
                raise PatchError(f"{operation['path']} is {found!r}")
        case "replace":
            document[place] = operation["value"]
        case "remove":
            del document[place]
        case other:
            raise AssertionError(other)
