"""``leeway demo``, as the README's first command runs it."""

import re
from pathlib import Path

from tests.unit.webhook.cli.cli_support import run_process

SKEWED = (
    "service account token is not valid yet: nbf is 92s ahead of this server's clock "
    "(leeway 60s, 32s short)"
)


def test_demo(tmp_path: Path) -> None:
    out = run_process(
        "demo",
        folder=tmp_path,
        environment={
            "TMPDIR": str(tmp_path),
            "LEEWAY_DATA_DIR": "",
            # For another server: neither is used.
            "LEEWAY_ISSUER": "https://another.example",
            "LEEWAY_STORE_SQLITE_PATH": str(tmp_path / "other.db"),
        },
    ).assert_done()
    assert [line for line in out.splitlines() if SKEWED in line] == [
        f"REFUSED (NotYetValid): {SKEWED}"
    ]
    assert '"authenticated": true' in out
    assert '"username": "system:serviceaccount:argo-run:loofah"' in out
    titles = re.findall(r"^== (.*)$", out, re.M)
    assert len(titles) == 5
    assert "\x1b" not in out
    # Neither the token nor a key is shown, and no file is left.
    assert not re.search(r"[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}", out)
    assert "PRIVATE KEY" not in out
    assert list(tmp_path.iterdir()) == []


def test_demo_takes_no_data_directory(tmp_path: Path) -> None:
    ran = run_process("demo", "--data-dir", tmp_path)
    ran.assert_failed(2, "--data-dir", "see `leeway demo --help`")
