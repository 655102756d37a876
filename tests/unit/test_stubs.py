"""The generated modules are what their ``.proto`` files say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "webhook").rglob("*.proto"))


@pytest.mark.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])
def test_generated_modules_are_up_to_date(source: Path, tmp_path: Path) -> None:
    name = source.relative_to(ROOT)
    options = ["-I", ".", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", *options, str(name)]
    subprocess.run(command, cwd=ROOT, check=True)
    for made in (tmp_path / name.parent).iterdir():
        kept = source.with_name(made.name).read_bytes()
        assert kept == made.read_bytes(), f"run `make stubs`: {made.name} differs"


def test_there_is_something_to_generate() -> None:
    assert SOURCES
