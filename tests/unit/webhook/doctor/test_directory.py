"""Owners and modes of files, given as facts, as the user of the tests may own all of them."""

from pathlib import Path

import pytest

from webhook.doctor.directory import FileFacts, check_modes
from webhook.doctor.findings import Status

KEY = Path("/d/keys/a b.pem")


@pytest.mark.parametrize(
    ("mode", "owner", "status", "fix"),
    [
        (0o600, 7, Status.OK, ""),
        (0o400, 7, Status.OK, ""),
        (0o640, 7, Status.FAILURE, "chmod 600 '/d/keys/a b.pem'"),
        (0o601, 7, Status.FAILURE, "chmod 600 '/d/keys/a b.pem'"),
        (0o600, 0, Status.FAILURE, "chown 7 '/d/keys/a b.pem'"),
    ],
)
def test_private_files(mode: int, owner: int, status: Status, fix: str) -> None:
    other = FileFacts(Path("/d/keys/b.pem"), 0o600, 7)
    verdict = check_modes([other, FileFacts(KEY, mode, owner)], 7)
    assert (verdict.status, verdict.fix) == (status, fix)
    assert status is Status.OK or "keys/a b.pem" in verdict.finding


def test_many_are_counted() -> None:
    files = [FileFacts(Path(f"/d/keys/{n}.pem"), 0o644, 7) for n in range(9)]
    assert "keys/2.pem and 6 more are of mode 0644" in check_modes(files, 7).finding
