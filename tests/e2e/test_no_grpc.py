"""gRPC costs 18 MiB and 0.16 s: only what speaks it loads it, and never ``leeway serve``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .harness import RunningServer

_IMPORTS_OF = """\
import importlib, json, pkgutil, sys
names = sys.argv[1:]
for name in names:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", ()), name + "."):
        importlib.import_module(found.name)
print(json.dumps(sorted(sys.modules)))
"""


def modules_loaded_by(*names: str) -> list[str]:
    """Import modules, with all below them, in a process of its own."""
    command = [sys.executable, "-c", _IMPORTS_OF, *names]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [name for name in json.loads(done.stdout) if is_of_grpc(name)]


def is_of_grpc(name: str) -> bool:
    return name.startswith(("grpc", "google.protobuf", "google._upb", "webhook.signer"))


def test_the_search_finds_it() -> None:
    assert {"grpc", "google.protobuf", "webhook.signer"} <= set(modules_loaded_by("webhook.signer"))


@pytest.mark.parametrize(
    "names",
    [("webhook.server",), ("webhook.cli.main", "webhook.cli.serve"), ("webhook.doctor",)],
    ids=["the server", "the command line", "the doctor"],
)
def test_modules_load_no_grpc(names: tuple[str, ...]) -> None:
    assert modules_loaded_by(*names) == []


def test_a_running_server_has_no_grpc(server: RunningServer) -> None:
    server.both_workers()
    assert server.post_review(server.sign()).json["status"]["authenticated"]
    for pid in [server.process.pid, *server.workers()]:
        maps = Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
        libraries = {line.split(maxsplit=5)[-1] for line in maps.splitlines()}
        assert any("cryptography" in library for library in libraries)
        assert [name for name in libraries if "grpc" in name or "_upb" in name] == []
