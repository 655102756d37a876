"""kubectl as people run it, with the kubeconfig that ``init`` made."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.secrets_made import printed

from .harness import RunningServer


class Printed(NamedTuple):
    """The result of a run of kubectl."""

    code: int
    out: str
    err: str


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


class Kubectl:
    """kubectl as ``root``."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self.folder = folder
        # One for all tests: discovery does not change.
        self.cache = server.data_dir.parent / "kubectl-cache"
        self.command = [program("kubectl"), "--cache-dir", str(self.cache)]
        self.command += ["--kubeconfig", str(server.data_dir / "kubeconfig" / "root.yaml")]

    def prints(self, *arguments: str) -> Printed:
        """Run kubectl, without checking its exit code."""
        command = [*self.command, *arguments]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
        printed(("kubectl", *arguments), done.stdout, done.stderr)
        return Printed(done.returncode, done.stdout, done.stderr)

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run kubectl and return its output: that of stderr if it is expected to fail."""
        code, out, err = self.prints(*arguments)
        assert (code != 0) is fails, err
        return err if fails else out

    def file(self, value: object) -> str:
        """Write a manifest."""
        path = self.folder / "manifest.yaml"
        path.write_text(yaml.safe_dump(value))
        return str(path)
