"""The dependencies of the image: pinned by hash, for both architectures, without known faults."""

import importlib.util
import re
import tomllib
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

pytestmark = pytest.mark.fault(61)
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# The first release without the newest vulnerability that is known of each, in November 2026.
FIXED = {
    "cryptography": ("50.0.0", "CVE-2026-69247"),
    "flask": ("3.1.3", "CVE-2026-27205"),
    "gunicorn": ("23.0.0", "CVE-2024-6827"),
    "pyjwt": ("2.15.0", "CVE-2026-101918"),
    "pyyaml": ("5.4", "CVE-2020-14343"),
    "urllib3": ("2.8.0", "CVE-2026-97689"),
    "werkzeug": ("3.1.6", "CVE-2026-27199"),
}
_ENTRY = re.compile(
    r"((?:# [^\n]+\.whl\n)+)([a-z0-9-]+)==([^ ;\\\n]+)(?: ; ([^\\\n]+))? \\\n"
    r"((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)"
)


class Entry:
    """The entry of one project in a lock."""

    def __init__(self, match: re.Match[str]) -> None:
        self.files = [line.removeprefix("# ") for line in match[1].splitlines()]
        self.name, self.version = match[2], Version(match[3])
        self.marker = Marker(match[4]) if match[4] else None
        self.hashes = match[5].count("--hash=")

    def is_for(self, python: str) -> bool:
        return self.marker is None or self.marker.evaluate({"python_version": python})


def lock_module() -> ModuleType:
    """Import ``deploy/lock.py``, which is not in a package."""
    specification = importlib.util.spec_from_file_location("lock", ROOT / "deploy" / "lock.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


LOCK = lock_module()
LOCKS = {path.name: requirements for path, requirements in LOCK.locks().items()}


def entries(name: str) -> dict[str, Entry]:
    text = "".join((ROOT / name).read_text().splitlines(keepends=True)[2:])
    found = [Entry(match) for match in _ENTRY.finditer(text)]
    # It holds no other option, and no requirement without a hash.
    assert _ENTRY.sub("", text) == ""
    return {entry.name: entry for entry in found}


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_is_within_the_projects_ranges(name: str) -> None:
    locked = entries(name)
    for text in LOCKS[name]:
        requirement = Requirement(text)
        entry = locked.get(canonicalize_name(requirement.name))
        assert entry is not None, f"{name} has no {requirement.name}; run `make lock`"
        assert requirement.specifier.contains(entry.version), f"{text}; run `make lock`"
        assert entry.marker is None


@pytest.mark.parametrize("name", LOCKS)
def test_each_requirement_has_a_wheel(name: str) -> None:
    for entry in entries(name).values():
        assert entry.hashes == len(set(entry.files))
        for python, architecture in product(LOCK.PYTHONS, LOCK.ARCHITECTURES):
            fitting = [file for file in entry.files if fits(file, entry, python, architecture)]
            is_needed = entry.is_for(python)
            assert fitting or not is_needed, f"{entry.name}, Python {python}, {architecture}"


def fits(file: str, entry: Entry, python: str, architecture: str) -> bool:
    name, version, _, tags = parse_wheel_filename(file)
    assert (name, version) == (entry.name, entry.version)
    minor = int(python.partition(".")[2])
    return any(
        (
            tag.interpreter in ("py3", f"py3{minor}", f"cp3{minor}")
            or (tag.abi == "abi3" and int(tag.interpreter.removeprefix("cp3")) <= minor)
        )
        and tag.abi in ("none", "abi3", f"cp3{minor}")
        and (
            tag.platform == "any"
            or (tag.platform.startswith("manylinux") and tag.platform.endswith(architecture))
        )
        for tag in tags
    )


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_names_no_index(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"://|@|--(?!hash=)|localhost|/opt/|index", text)


def test_no_floor_has_a_known_vulnerability() -> None:
    requirements = map(Requirement, PROJECT["project"]["dependencies"])
    ranges = {canonicalize_name(found.name): found.specifier for found in requirements}
    locked = entries("requirements.lock")
    for name, (fixed, identifier) in FIXED.items():
        (floor,) = [
            Version(part.version)
            for part in ranges[canonicalize_name(name)]
            if part.operator == ">="
        ]
        assert floor >= Version(fixed), f"{name}: {identifier}"
        assert locked[name].version >= floor, name


def test_the_image_installs_what_is_locked_and_nothing_else() -> None:
    installs = re.findall(r"pip (?:install|wheel) ([^&\n\\]+)", DOCKERFILE)
    assert len(installs) == 4
    for options in installs:
        locked = "--require-hashes --only-binary :all: -r requirements" in options
        assert locked or "--no-deps" in options
    assert "--no-build-isolation" in DOCKERFILE


def test_the_base_image_is_named_once_and_can_be_pinned() -> None:
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.M)
    match = re.fullmatch(r"python:(3\.\d+)-slim(@sha256:[0-9a-f]{64})?", default)
    assert match is not None
    assert match[1] in LOCK.PYTHONS
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.M) == ["${PYTHON_IMAGE}"] * 2
