"""The client of etcd with etcd's own auth: tokens that expire, passwords that change."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.etcd_cluster import PASSWORD, ROOT_PASSWORD, EtcdCluster, memory_folder
from tests.etcd_member import USER
from tests.integration.etcd_clients import (
    ALL,
    END,
    client_of,
    revisions,
    take,
)
from tests.secrets_made import password_made
from webhook.etcd.credentials import EtcdLogin
from webhook.etcd.errors import (
    Code,
    LoginRefusedError,
    PermissionDeniedError,
    RefusedError,
)
from webhook.etcd.operations import (
    Put,
)

OTHER_PASSWORD = "etcd-other-9bNqXv3K"


@pytest.fixture
def password_file(tmp_path: Path) -> Iterator[Path]:
    password_made(PASSWORD)
    password_made(OTHER_PASSWORD)
    path = tmp_path / "password"
    path.touch(0o600)
    path.write_text(PASSWORD)
    yield path
    path.unlink()


@pytest.fixture(scope="module", params=["simple", "jwt"])
def auth(request: pytest.FixtureRequest) -> Iterator[EtcdCluster]:
    """One member whose tokens live for a second, or two: JWTs end with a whole second."""
    with memory_folder() as folder:
        flags: dict[str, object] = {"auth-token-ttl": 1}
        if request.param == "jwt":
            key, public = folder / "jwt.key", folder / "jwt.pub"
            make: list[str | Path] = ["openssl", "genrsa", "-out", key, "2048"]
            subprocess.run(make, check=True, capture_output=True)
            make = ["openssl", "rsa", "-in", key, "-pubout", "-out", public]
            subprocess.run(make, check=True, capture_output=True)
            flags = {"auth-token": f"jwt,pub-key={public},priv-key={key},sign-method=RS256,ttl=2s"}
        with EtcdCluster(folder / "etcd", 1, auth=True, flags=flags) as cluster:
            yield cluster


def test_nothing_fails_when_tokens_expire(auth: EtcdCluster, password_file: Path) -> None:
    client = client_of(auth, EtcdLogin(USER, str(password_file)))
    watch = client.watch(ALL, END)
    start = watch.next_revision
    for pause in (0.0, 1.5, 0.0, 2.2):
        time.sleep(pause)
        assert client.txn([], [Put(b"/leeway/t", b"")]).succeeded
        time.sleep(pause)
        client.range(ALL, END)
        client.range(ALL, END, hedge=0.1)
        with client.watch(ALL, END, start_revision=start) as other:
            take(other, 1)
    # The stream was permitted when it was opened.
    assert revisions(take(watch, 4)) == [start + n for n in range(4)]
    watch.close()
    client.close()


def test_who_is_not_permitted(auth: EtcdCluster, password_file: Path) -> None:
    client = client_of(auth, EtcdLogin(USER, str(password_file)))
    for call in (
        lambda: client.range(b"/other"),
        lambda: client.put(b"/other", b""),
        lambda: client.txn([], [Put(b"/leeway/a", b""), Put(b"/other", b"")]),
        lambda: next(client.watch(b"/other")),
        lambda: client.role_permissions("root"),
    ):
        with pytest.raises(PermissionDeniedError) as caught:
            call()
        assert caught.value.code is Code.PERMISSION_DENIED
    assert client.user_roles(USER) == (USER,)
    (granted,) = client.role_permissions(USER)
    assert (granted.permission, granted.key, granted.range_end) == ("READWRITE", ALL, END)
    with pytest.raises(PermissionDeniedError):
        client.auth_status()
    client.close()
    password_file.write_text(ROOT_PASSWORD)
    root = client_of(auth, EtcdLogin("root", str(password_file)))
    assert root.auth_status().enabled
    assert root.user_roles("root") == ("root",)
    root.close()
    anybody = client_of(auth)
    with pytest.raises(RefusedError, match="user name is empty") as refused:
        anybody.put(b"/leeway/a", b"")
    assert refused.value.is_definite
    assert refused.value.is_auth
    anybody.close()


def test_the_password_changes(auth: EtcdCluster, password_file: Path) -> None:
    client = client_of(auth, EtcdLogin(USER, str(password_file)))
    client.put(b"/leeway/a", b"")
    auth.change_password(OTHER_PASSWORD)
    try:
        # A change of etcd's users ends all its tokens.
        with pytest.raises(LoginRefusedError) as caught:
            client.put(b"/leeway/a", b"")
        assert PASSWORD not in str(caught.value)
        password_file.write_text(f"{OTHER_PASSWORD}\n")
        client.put(b"/leeway/a", b"")
    finally:
        auth.change_password(PASSWORD)
        client.close()


def test_auth_is_enabled_and_disabled_while_a_client_runs(
    auth: EtcdCluster, password_file: Path
) -> None:
    client = client_of(auth, EtcdLogin(USER, str(password_file)))
    client.put(b"/leeway/a", b"")
    auth.disable_auth()
    client.put(b"/leeway/a", b"")
    client.range(b"/leeway/a")
    auth.enable_auth()
    client.put(b"/leeway/a", b"")
    client.close()
    assert ROOT_PASSWORD not in repr(client)
