import os
from pathlib import Path

import pytest

DEFAULT_VECTORS = Path(__file__).resolve().parents[1] / ".." / "shared" / "vectors"


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Return the folder of frozen test vectors."""
    folder = Path(os.environ.get("LEEWAY_VECTORS") or DEFAULT_VECTORS)
    if not folder.is_dir():
        pytest.skip(f"no test vectors in {folder}; set LEEWAY_VECTORS")
    return folder.resolve()
