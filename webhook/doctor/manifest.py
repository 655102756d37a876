"""A static Pod manifest of kube-apiserver: its flags, and which files of the machine it sees.

Sources: ``k8s.io/apiserver/pkg/server/options``, ``pkg/kubeapiserver/options`` (v1.36), and
spf13/pflag, which kube-apiserver's flags are parsed with.
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from webhook.doctor.kubeconfigs import parse_yaml
from webhook.errors import ConfigurationError

_PROGRAM: Final = "kube-apiserver"
_FLAG = re.compile(r"--([A-Za-z0-9_.-]+)(?:=(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mount:
    """A path in the container, and the path of the machine, empty where it is none of it."""

    path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The flags of kube-apiserver, each with its values in order, and what is mounted."""

    flags: Mapping[str, Sequence[str]]
    mounts: Sequence[Mount]

    def value(self, flag: str) -> str:
        """Return the value of a flag, empty where it is not set; of several the last counts."""
        return self.flags.get(flag, ("",))[-1]

    def values(self, flag: str) -> list[str]:
        """Return the entries of a flag that is a list: its values add up."""
        texts = self.flags.get(flag, ())
        return [entry.strip() for text in texts for entry in text.split(",") if entry.strip()]

    def host_path(self, path: str) -> str:
        """Return the path on the machine of a file in the container, empty where it is on none."""
        wanted = posixpath.normpath(path)
        if not wanted.startswith("/"):
            return ""
        found = [
            mount
            for mount in self.mounts
            if posixpath.commonpath((wanted, mount.path)) == mount.path
        ]
        if not found:
            return ""
        # The deepest one hides the others.
        mount = max(found, key=lambda mount: len(mount.path))
        if not mount.host_path:
            return ""
        below = posixpath.relpath(wanted, mount.path)
        return posixpath.normpath(posixpath.join(mount.host_path, below))


def parse_manifest(data: bytes, name: str) -> Manifest:
    """Parse a manifest; ``name`` is what errors call it.

    Raises ConfigurationError where it is no Pod with a container that runs kube-apiserver.
    """
    document = parse_yaml(data, name)
    spec = _mapping(document.get("spec"))
    if document.get("kind") != "Pod":
        kind = str(document.get("kind"))[:64]
        raise ConfigurationError(f"{name} is a manifest of kind {kind!r}, not of a Pod")
    for container in _mappings(spec.get("containers")):
        words = [str(w) for f in ("command", "args") for w in _list(container.get(f))]
        if any(posixpath.basename(word) == _PROGRAM for word in words[:1]):
            return Manifest(_flags(words[1:]), _mounts(container, spec))
    raise ConfigurationError(f"{name} has no container whose command is {_PROGRAM}")


def _flags(words: Sequence[str]) -> dict[str, list[str]]:
    flags: dict[str, list[str]] = {}
    waiting = ""
    for word in words:
        match = _FLAG.fullmatch(word)
        if match is None:
            if waiting:
                flags[waiting][-1] = word
            waiting = ""
            continue
        # As kube-apiserver does (``k8s.io/component-base/cli/flag``, WordSepNormalizeFunc).
        flag = match[1].replace("_", "-")
        flags.setdefault(flag, []).append(match[2] or "")
        waiting = flag if match[2] is None else ""
    return flags


def _mounts(container: dict[Any, Any], spec: dict[Any, Any]) -> list[Mount]:
    host_paths = {
        str(volume.get("name")): str(_mapping(volume.get("hostPath")).get("path") or "")
        for volume in _mappings(spec.get("volumes"))
    }
    mounts = []
    for mount in _mappings(container.get("volumeMounts")):
        host_path = host_paths.get(str(mount.get("name")), "")
        if host_path and mount.get("subPath"):
            host_path = posixpath.join(host_path, str(mount["subPath"]))
        path = posixpath.normpath(str(mount.get("mountPath")))
        if path.startswith("/"):
            mounts.append(Mount(path, host_path))
    return mounts


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[dict[Any, Any]]:
    return [entry for entry in _list(value) if isinstance(entry, dict)]
