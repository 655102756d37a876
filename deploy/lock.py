"""Write the locks of the image: what it is built with and what it installs, by hash.

``make lock`` runs this with the pip of the virtual environment. It asks the package index that pip
is configured with for wheels, of each Python and architecture below, and writes names, versions and
hashes; no index is named.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
"""The image's is among them; tests build it with the one that they run with."""
ARCHITECTURES = ("x86_64", "aarch64")
# Up to the C library of Debian 12. The oldest first: its wheel runs on all of them.
_GLIBC = (5, 12, 17, 24, 26, 27, 28, 31, 34)
_HEAD = f"""\
# For the Dockerfile: Python {" ".join(PYTHONS)} on Linux, {" ".join(ARCHITECTURES)}.
# Made by `make lock`; do not edit.
"""


class Wheel(NamedTuple):
    """A file, and what it needs."""

    file: str
    sha256: str
    name: str
    version: str
    requires: tuple[str, ...]


def locks() -> dict[Path, list[str]]:
    """Return each lock with the requirements that it is for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {
        ROOT / "requirements.lock": project["project"]["dependencies"],
        ROOT / "requirements-build.lock": project["build-system"]["requires"],
    }


def environment(python: str, architecture: str) -> dict[str, str]:
    """Return the markers of the image (PEP 508)."""
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": architecture,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
        "extra": "",
    }


def resolve(requirements: list[str], python: str, architecture: str) -> dict[str, Wheel]:
    """Have pip choose the wheels for a Python and an architecture, by their names."""
    platforms = [f"manylinux_2_{minor}_{architecture}" for minor in _GLIBC]
    if architecture == "x86_64":
        platforms += [f"manylinux{year}_{architecture}" for year in ("1", "2010")]
    platforms.append(f"manylinux2014_{architecture}")
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
        "--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp",
        f"--python-version={python}", "--target=unused", "--report=-",
        *(f"--platform={platform}" for platform in platforms), *requirements,
    ]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own pip
    report = json.loads(done.stdout)
    wheels: dict[str, Wheel] = {}
    for item in report["install"]:
        wheel = _wheel(item)
        wheels[canonicalize_name(wheel.name)] = wheel
    return _needed(requirements, wheels, environment(python, architecture))


def _wheel(item: dict[str, Any]) -> Wheel:
    info, metadata = item["download_info"], item["metadata"]
    return Wheel(
        info["url"].partition("#")[0].rpartition("/")[2],
        info["archive_info"]["hashes"]["sha256"],
        metadata["name"],
        metadata["version"],
        tuple(metadata.get("requires_dist", ())),
    )


def _needed(
    requirements: list[str], wheels: dict[str, Wheel], markers: dict[str, str]
) -> dict[str, Wheel]:
    """Return what one Python needs: pip judges markers by the Python that it runs with."""
    needed: dict[str, Wheel] = {}
    waiting = list(requirements)
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.marker is not None and not requirement.marker.evaluate(markers):
            continue
        name = canonicalize_name(requirement.name)
        if name not in wheels:
            sys.exit(
                f"{name} is needed by Python {markers['python_version']} only; run this with it"
            )
        if name not in needed:
            needed[name] = wheels[name]
            waiting += wheels[name].requires
    return needed


def render(found: dict[tuple[str, str], dict[str, Wheel]]) -> str:
    """Render a lock: each version once, with the hashes of its files.

    ``found`` are the wheels of each Python and architecture.
    """
    lines = [_HEAD]
    for name in sorted({name for wheels in found.values() for name in wheels}):
        users = sorted(key for key, wheels in found.items() if name in wheels)
        wheels = sorted({found[key][name] for key in users})
        versions = {wheel.version for wheel in wheels}
        if len(versions) > 1:
            sys.exit(f"{name}: {' and '.join(sorted(versions))}, not one version for all")
        pythons = sorted({python for python, _ in users})
        marker = " or ".join(f'python_version == "{python}"' for python in pythons)
        line = f"{name}=={versions.pop()}" + (f" ; {marker}" if pythons != [*PYTHONS] else "")
        hashes = [f"    --hash=sha256:{wheel.sha256}" for wheel in wheels]
        lines += [f"# {wheel.file}\n" for wheel in wheels]
        lines.append(" \\\n".join([line, *hashes]) + "\n")
    return "".join(lines)


def main() -> None:
    """Write the locks."""
    for path, requirements in locks().items():
        found = {
            (python, architecture): resolve(requirements, python, architecture)
            for python in PYTHONS
            for architecture in ARCHITECTURES
        }
        path.write_text(render(found))


if __name__ == "__main__":
    main()
