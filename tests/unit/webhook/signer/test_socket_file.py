"""The file of the socket: who can connect, and what is never replaced."""

import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from webhook.errors import ConfigurationError, DataDirectoryError
from webhook.signer import socket_file
from webhook.signer.socket_file import SocketFile, group_id

pytestmark = pytest.mark.bad_input(72)


@contextmanager
def listening(file: SocketFile) -> Iterator[socket.socket]:
    """Listen as a signer does."""
    with closing(socket.socket(socket.AF_UNIX)) as server:
        with file.claimed() as name:
            server.bind(str(name))
            server.listen()
        yield server


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "signer.sock"


def test_owner_alone(path: Path) -> None:
    file = SocketFile(path)
    with listening(file):
        assert (mode(path.parent), mode(path)) == (0o750, 0o600)
        assert list(path.parent.iterdir()) == [path]
        assert file.problem() == ""
        file.remove()
    assert not path.exists()
    file.remove()
    assert file.problem() == f"{path}: No such file or directory; restart the signer"


def test_a_group(path: Path) -> None:
    with listening(SocketFile(path, 12345)):
        assert (mode(path.parent), mode(path)) == (0o750, 0o660)
        assert {found.stat().st_gid for found in (path.parent, path)} == {12345}


def test_a_folder_that_exists_stays_as_it_is(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with listening(SocketFile(path)):
        assert mode(path.parent) == 0o700


@pytest.mark.parametrize(
    ("group", "folder_mode", "warns"),
    [(12345, 0o750, False), (0, 0o755, False), (0, 0o750, True), (12345, 0o700, True)],
)
def test_a_folder_that_the_group_cannot_enter(
    path: Path, group: int, folder_mode: int, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    os.chown(path.parent, -1, group)
    path.parent.chmod(folder_mode)
    with listening(SocketFile(path, 12345)):
        assert (f"run `chgrp 12345 {path.parent}`" in caplog.text) is warns


def test_nobody_can_connect_before_the_mode_is_right(path: Path) -> None:
    """Whatever the umask of the process, which is its own again afterwards."""
    before = os.umask(0)
    try:
        file = SocketFile(path)
        with closing(socket.socket(socket.AF_UNIX)) as server, file.claimed() as name:
            server.bind(str(name))
            assert mode(name) == 0o600
            assert not path.exists()
        assert os.umask(0) == 0
        assert mode(path) == 0o600
    finally:
        os.umask(before)


def test_a_stale_socket_is_replaced(path: Path) -> None:
    with listening(SocketFile(path)):
        pass
    assert path.exists()
    with listening(SocketFile(path)), closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(path))


def test_a_live_socket_is_not_replaced(path: Path) -> None:
    with listening(SocketFile(path)) as server:
        inode = path.stat().st_ino
        with (
            pytest.raises(DataDirectoryError, match=r"another process listens on .*; stop it"),
            SocketFile(path).claimed(),
        ):
            pass
        assert path.stat().st_ino == inode
        assert list(path.parent.iterdir()) == [path]
        server.accept()[0].close()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_not_a_socket_is_not_replaced(path: Path, kind: str) -> None:
    path.parent.mkdir(mode=0o750)
    if kind == "file":
        path.write_text("important")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("elsewhere")
    with (
        pytest.raises(DataDirectoryError, match="exists and is not a socket; remove it"),
        SocketFile(path).claimed(),
    ):
        pass
    assert os.path.lexists(path)


@pytest.mark.parametrize("open_mode", [0o770, 0o757, 0o1777])
def test_a_folder_in_which_others_can_write(path: Path, open_mode: int) -> None:
    path.parent.mkdir()
    path.parent.chmod(open_mode)
    with (
        pytest.raises(DataDirectoryError, match=rf"mode {open_mode:04o}\).*mode 0750 is right"),
        SocketFile(path).claimed(),
    ):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user(path: Path) -> None:
    path.parent.mkdir(mode=0o750)
    os.chown(path.parent, 12345, -1)
    with (
        pytest.raises(DataDirectoryError, match=r"belongs to user 12345.*running already"),
        SocketFile(path).claimed(),
    ):
        pass


def test_a_folder_that_cannot_be_created(path: Path) -> None:
    with (
        pytest.raises(DataDirectoryError, match="No such file or directory; create it, owned by"),
        SocketFile(path / "deep" / "signer.sock").claimed(),
    ):
        pass


def test_a_start_that_fails_leaves_nothing(path: Path) -> None:
    def fail() -> None:
        with closing(socket.socket(socket.AF_UNIX)) as server, SocketFile(path).claimed() as name:
            server.bind(str(name))
            raise RuntimeError("after the bind")

    with pytest.raises(RuntimeError, match="after the bind"):
        fail()
    assert list(path.parent.iterdir()) == []


def test_the_socket_of_another_process_is_not_removed(path: Path) -> None:
    first = SocketFile(path)
    with listening(first):
        path.unlink()
        with listening(SocketFile(path)):
            first.remove()
            assert path.exists()
            assert "is not this signer's any more" in first.problem()


@pytest.mark.parametrize("name", ["s", "12", "a" * 40])
def test_the_longest_path(name: str) -> None:
    # pytest's own folders have long names.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "d" * (107 - len(folder) - len(name) - 2), name)
        with listening(SocketFile(path)):
            assert len(str(path)) == 107
            assert path.is_socket()


def test_a_lock_that_another_process_keeps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_file, "_LOCK_SECONDS", 0.1)
    path.parent.mkdir()
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with (
            pytest.raises(DataDirectoryError, match="is locked by another process"),
            SocketFile(path).claimed(),
        ):
            raise AssertionError
    finally:
        os.close(descriptor)
    with listening(SocketFile(path)):
        assert path.exists()


def test_groups() -> None:
    assert group_id("") is None
    assert group_id("12345") == 12345
    assert group_id("root") == 0
    for group in ("nobodys", str(2**32 - 1), "9" * 30):
        with pytest.raises(
            ConfigurationError, match=rf"signer\.group is '{group}', which is not a"
        ):
            group_id(group)
