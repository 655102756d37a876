"""Parses a manifest of kube-apiserver or kube-controller-manager: its flags, and its mounts.

Sources: ``k8s.io/apiserver/pkg/server/options``, ``pkg/kubeapiserver/options`` (v1.36), and
spf13/pflag, which parses kube-apiserver's flags. kube-apiserver is started directly (kubeadm), by a
program that writes its log (kops: ``/go-runner``), by a shell (kube-up), or as a part of hyperkube.
"""

import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from keys.messages import shown
from webhook.config.yaml_text import parse_yaml
from webhook.errors import ConfigurationError

API_SERVER: Final = "kube-apiserver"
CONTROLLER_MANAGER: Final = "kube-controller-manager"
_LONGEST_IMAGE: Final = 512
_HYPERKUBE: Final = "hyperkube"
_SHELLS: Final = frozenset({"sh", "ash", "bash", "dash"})
_SCRIPT_OPTION = re.compile(r"-[a-z]*c")
_REDIRECTION = re.compile(r"(?<!\S)\d*(?:>>?|<)(?:&\d|\s*[^\s;&|]+)")
_OPERATOR = re.compile(r"[();<>|&]+")
_FLAG = re.compile(r"--([A-Za-z0-9_.-]+)(?:=(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mount:
    """A path in the container, and its path on the machine, empty if it is not from there."""

    path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The flags of a program, each with its values in order, its mounts, and its image."""

    flags: Mapping[str, Sequence[str]]
    mounts: Sequence[Mount]
    image: str = ""

    def value(self, flag: str) -> str:
        """Return the last value of a flag, empty if it is not set."""
        return self.flags.get(flag, ("",))[-1]

    def values(self, flag: str) -> list[str]:
        """Return the entries of a list flag, from all its values."""
        texts = self.flags.get(flag, ())
        return [entry.strip() for text in texts for entry in text.split(",") if entry.strip()]

    def version(self) -> tuple[int, int] | None:
        """Return the major and minor version in the tag of the image, None if it has none."""
        tag = self.image.partition("@")[0].rpartition("/")[2].partition(":")[2]
        major, _, rest = tag.removeprefix("v").partition(".")
        minor = rest.partition(".")[0]
        found = [int(part) for part in (major, minor) if part.isascii() and part.isdecimal()]
        return (found[0], found[1]) if len(found) == 2 else None

    def host_path(self, path: str) -> str:
        """Return the path on the machine of a file in the container, empty if it has none."""
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


def parse_manifest(data: bytes, name: str, program: str = API_SERVER) -> Manifest:
    """Parse a manifest; ``name`` is its name in errors.

    Raises ConfigurationError unless it is a Pod with a container that runs the program.
    """
    document = parse_yaml(data, name)
    spec = _mapping(document.get("spec"))
    if document.get("kind") != "Pod":
        raise ConfigurationError(
            f"{name} is a manifest of kind {shown(document.get('kind'))}, not of a Pod"
        )
    for container in _mappings(spec.get("containers")):
        words = [str(w) for f in ("command", "args") for w in _list(container.get(f))]
        arguments = _arguments(_script_words(words, name, program) or words, program)
        if arguments is not None:
            image = str(container.get("image") or "")[:_LONGEST_IMAGE]
            return Manifest(_flags(arguments), _mounts(container, spec), image)
    raise ConfigurationError(f"{name} has no container that runs {program}")


def _arguments(words: Sequence[str], program: str) -> Sequence[str] | None:
    """Return what follows the program in a command line, None if it is not in it."""
    names = [posixpath.basename(word) for word in words]
    for index, name in enumerate(names):
        is_part = f"kube-{name}" == program and names[:index][-1:] == [_HYPERKUBE]
        if name == program or is_part:
            return words[index + 1 :]
    return None


def _script_words(words: Sequence[str], name: str, program: str) -> list[str]:
    """Return the words of the command in a shell script that runs the program.

    Empty if no shell runs a script, or the script does not run it. Raises ConfigurationError.
    """
    if not words or posixpath.basename(words[0]) not in _SHELLS:
        return []
    options = [index for index, word in enumerate(words) if _SCRIPT_OPTION.fullmatch(word)]
    if not options:
        return []
    script = " ".join(words[options[0] + 1 : options[0] + 2]).replace("\\\n", " ")
    script = _REDIRECTION.sub(" ", script).replace("\n", " ; ")
    lexer = shlex.shlex(script, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    command: list[str] = []
    try:
        for word in lexer:
            if not _OPERATOR.fullmatch(word):
                command.append(word)
            elif _arguments(command, program) is None:
                command.clear()
            else:
                break  # another command follows
    except ValueError as error:
        raise ConfigurationError(
            f"{name} has a shell script with a quote that is not closed"
        ) from error
    return command


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
