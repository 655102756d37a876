import io
import os
import shutil
import sys
from pathlib import Path

import pytest

from keys.jws import SigningKey
from tests.secrets_made import printed
from tests.support import NOW
from tests.unit.webhook.cli.cli_support import Leeway, Ran
from webhook.assembly import keyring_of
from webhook.cli.main import main
from webhook.setup.init import InitOptions, initialise


@pytest.fixture
def leeway(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Leeway:
    """Run the command line in this process, with nothing of ours in the environment."""
    for name in [name for name in os.environ if name.startswith("LEEWAY_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str | Path, stdin: str = "") -> Ran:
        monkeypatch.setattr(sys, "argv", ["leeway", *map(str, arguments)])
        data = io.BytesIO(stdin.encode("utf-8", "surrogateescape"))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data, "utf-8", "surrogateescape"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        written = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        printed(("leeway", *arguments), written.out, written.err)
        return Ran(stop.value.code, written.out, written.err)

    return run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data directory that no test changes."""
    folder = tmp_path_factory.mktemp("cli") / "data"
    initialise(folder, InitOptions(algorithm="ES256"), NOW - 1000)
    return folder


@pytest.fixture
def data_dir(made: Path, tmp_path: Path) -> Path:
    """Return a data directory for one test."""
    copied = Path(shutil.copytree(made, tmp_path / "data"))
    # Without the tokens that other tests have had signed.
    (copied / "audit.log").unlink(missing_ok=True)
    return copied


@pytest.fixture(scope="session")
def own_key(made: Path) -> SigningKey:
    """Return the key that the data directory signs with."""
    return keyring_of(made).signing_key()
