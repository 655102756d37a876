"""Kubeconfig files that can and cannot be used, and what remains of them."""

import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fake_kube import HOST, FakeKube, fake_kube
from tests.support import JSONObject, wait_until
from webhook.errors import APIServerError, ConfigurationError
from webhook.objects import credential_plugin, kube_client
from webhook.objects.kube_client import KubeClient

HIDDEN = "bm90LWZvci10aGUtbG9n"
PRINTED = "cHJpbnRlZC1mb3Itbm9ib2R5"
UNSENT = "dGhpcy1pcy1uZXZlci1zZW50"
JSON = "application/json"


@pytest.fixture(scope="module")
def kube() -> Iterator[FakeKube]:
    with fake_kube() as running:
        yield running


_opened: list[KubeClient] = []


def connected(*where: Any) -> KubeClient:
    """Make a connection that is closed after the test."""
    connection = KubeClient(*where)
    _opened.append(connection)
    return connection


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def get(connection: KubeClient, path: str = "/api/v1/nodes") -> Any:
    with connection.get(path, {"limit": "1"}, JSON, 5.0, 1 << 20) as response:
        return json.loads(response.read())


@pytest.fixture
def path(kube: FakeKube, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_bytes(kube.kubeconfig())
    path.chmod(0o600)
    return path


def changed(path: Path, **user: object) -> None:
    """Give a kubeconfig another user."""
    document = yaml.safe_load(path.read_bytes())
    document["users"][0]["user"] = user
    path.write_text(yaml.safe_dump(document))


def test_a_client_certificate(kube: FakeKube, path: Path) -> None:
    assert get(connected(path))["kind"] == "NodeList"
    assert kube.requests[-1].user == "leeway"


def test_a_token(kube: FakeKube, path: Path) -> None:
    changed(path, token=HIDDEN)
    get(connected(path))
    assert kube.requests[-1].user == HIDDEN


def test_a_token_file_is_named_by_path(kube: FakeKube, path: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file")
    (tmp_path / "token").chmod(0o600)
    changed(path, tokenFile=str(tmp_path / "token"))
    get(connected(path))
    assert kube.requests[-1].user == "from-a-file"


def test_a_context(kube: FakeKube, path: Path) -> None:
    document = yaml.safe_load(path.read_bytes())
    document["contexts"].append({"name": "b", "context": {"cluster": "leeway", "user": "b"}})
    document["users"].append({"name": "b", "user": {"token": "of-b"}})
    path.write_text(yaml.safe_dump(document))
    get(connected(path, "b"))
    assert kube.requests[-1].user == "of-b"


def test_kubectls_own(kube: FakeKube, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    assert get(connected())["kind"] == "NodeList"


def test_in_a_pod(kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", HOST)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(kube.port))
    with pytest.raises(ConfigurationError, match="the service account of this Pod"):
        connected()
    module = "kubernetes.config.incluster_config"
    for name, data in (("TOKEN", b"of-the-pod"), ("CERT", kube.ca.certificate)):
        (tmp_path / name).write_bytes(data)
        monkeypatch.setattr(f"{module}.SERVICE_{name}_FILENAME", str(tmp_path / name))
    get(connected())
    assert kube.requests[-1].user.removeprefix("bearer ") == "of-the-pod"


def test_no_credentials_are_left_in_files(
    kube: FakeKube, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    connections = [connected(path) for _ in range(2)]
    assert list(folder.iterdir()) == []
    for connection in connections:
        get(connection)


BROKEN = [
    pytest.param(f"users: [{{token: {HIDDEN}", id="not-yaml"),
    pytest.param("", id="empty"),
    pytest.param("[]", id="list"),
    pytest.param("a: b", id="nothing-in-it"),
    pytest.param("\0", id="nul"),
]


@pytest.mark.parametrize("text", BROKEN)
def test_broken(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    path.chmod(0o600)
    assert_refused(path)
    # Not a kubeconfig to the search for secrets, which would find the token in it.
    path.unlink()


CHANGES = [
    pytest.param(("current-context",), "nope", id="context"),
    pytest.param(("contexts", 0, "context", "cluster"), "nope", id="cluster"),
    pytest.param(("clusters", 0, "cluster", "certificate-authority-data"), HIDDEN, id="ca"),
    pytest.param(
        ("clusters", 0, "cluster", "certificate-authority-data"), "%%%", id="ca-not-base64"
    ),
    pytest.param(("users", 0, "user", "client-certificate-data"), HIDDEN, id="certificate"),
    pytest.param(("users", 0, "user", "client-key-data"), HIDDEN, id="key"),
    pytest.param(("users", 0, "user"), HIDDEN, id="user-is-text"),
    pytest.param(("users", 0, "user"), {"client-certificate": "/nowhere/x"}, id="no-such-file"),
    pytest.param(("clusters",), None, id="no-clusters"),
]


@pytest.mark.parametrize(("where", "value"), CHANGES)
def test_wrong_in_one_place(path: Path, where: tuple[Any, ...], value: object) -> None:
    document = yaml.safe_load(path.read_bytes())
    place = document
    for part in where[:-1]:
        place = place[part]
    place[where[-1]] = value
    path.write_text(yaml.safe_dump(document))
    assert_refused(path)


def assert_refused(path: Path, context: str = "") -> None:
    with pytest.raises(ConfigurationError) as caught:
        connected(path, context)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert HIDDEN not in message
    assert caught.value.__cause__ is None


def test_no_such_context(path: Path) -> None:
    assert_refused(path, "nope")


def test_missing(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        connected(path)


def test_refused_credentials_are_read_again(
    kube: FakeKube, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "_FIRST_DELAY_SECONDS", 0.0)
    good = path.read_bytes()
    changed(path, token="refused")
    kube.answers["/api/v1/nodes"] = (401, b"")
    connection = connected(path)
    for broken, why in ((b"{", "HTTP 401"), (b"", "could not be read again")):
        with pytest.raises(APIServerError, match=why):
            get(connection)
        path.write_bytes(broken)
    with pytest.raises(APIServerError, match="its kubeconfig could not be read again"):
        get(connection)
    del kube.answers["/api/v1/nodes"]
    path.write_bytes(good)
    assert get(connection)["kind"] == "NodeList"


def test_another_ca(kube: FakeKube, path: Path) -> None:
    with fake_kube() as other:
        document = yaml.safe_load(path.read_bytes())
        document["clusters"][0]["cluster"]["server"] = f"https://{HOST}:{other.port}"
        path.write_text(yaml.safe_dump(document))
        connection = connected(path)
        with pytest.raises(APIServerError, match="its certificate is not accepted"):
            get(connection)
        assert other.requests == []


ANSWERS = [
    pytest.param(
        403,
        b'{"kind":"Status","reason":"Forbidden","message":"User x"}',
        "HTTP 403 Forbidden",
        id="status",
    ),
    pytest.param(
        404, b'{"kind":"Status","reason":"NotFound"}', "HTTP 404 NotFound", id="not-found"
    ),
    pytest.param(404, b"<html>", "HTTP 404", id="html"),
    pytest.param(500, b"", "HTTP 500", id="empty"),
    pytest.param(503, b'{"kind":"Status","reason":"a b\\n"}', "HTTP 503", id="words"),
    pytest.param(302, b"", "HTTP 302", id="redirect"),
    pytest.param(204, b"", "HTTP 204", id="no-content"),
]


@pytest.mark.parametrize(("code", "body", "text"), ANSWERS)
def test_failures(kube: FakeKube, path: Path, code: int, body: bytes, text: str) -> None:
    kube.answers["/fails"] = (code, body)
    with pytest.raises(APIServerError) as caught:
        get(connected(path), "/fails")
    assert (str(caught.value), caught.value.code) == (text, code)
    assert caught.value.is_not_found is (text == "HTTP 404 NotFound")


def test_no_request_is_retried(kube: FakeKube, path: Path) -> None:
    kube.answers["/fails"] = (503, b"")
    connection = connected(path)
    before = len(kube.asked("/fails"))
    with pytest.raises(APIServerError):
        get(connection, "/fails")
    assert len(kube.asked("/fails")) == before + 1


# Tokens -----------------------------------------------------------------------------------------


@pytest.mark.fault(25)
@pytest.mark.parametrize("token", ["of-a\n", " of-a ", "of-a\r\n\n", "\tof-a"])
@pytest.mark.parametrize("field", ["token", "tokenFile"])
def test_a_token_can_have_white_space_around_it(
    kube: FakeKube, path: Path, tmp_path: Path, token: str, field: str
) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o600)
    changed(path, **{field: token if field == "token" else str(file)})
    get(connected(path))
    assert kube.requests[-1].user == "of-a"


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    "token", ["a\nb", "a\r\nX-Remote-User: root", "a b c", "a\x00b", "é", "a\x7f"]
)
@pytest.mark.parametrize("field", ["token", "tokenFile"])
def test_a_token_that_cannot_be_sent(
    kube: FakeKube, path: Path, tmp_path: Path, token: str, field: str
) -> None:
    if field == "tokenFile":
        file = tmp_path / "token"
        file.write_text(f"{UNSENT[::-1]}{token}")
        file.chmod(0o600)
        changed(path, tokenFile=str(file))
    else:
        changed(path, token=f"{UNSENT}{token}")
    before = len(kube.requests)
    with pytest.raises(APIServerError) as caught:
        get(connected(path))
    assert str(caught.value) == (
        f"the token of {path} has a space or a character that is not printable ASCII; "
        "nothing was sent"
    )
    assert len(kube.requests) == before


# Credential plugins -----------------------------------------------------------------------------

VERSION = "client.authentication.k8s.io/v1"
FROM_PLUGIN = {"apiVersion": VERSION, "kind": "ExecCredential", "status": {"token": "of-plugin"}}


class Plugin:
    """A credential plugin that prints a text and exits with a code, and counts its runs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "plugin"
        self.runs_file = folder / "runs"
        self.runs_file.touch()

    def does(self, script: str) -> None:
        self.path.write_text(f"#!/bin/sh\necho >> {self.runs_file}\n{script}\n")
        self.path.chmod(0o700)

    def prints(self, document: object) -> None:
        self.does(f"cat <<'END'\n{json.dumps(document)}\nEND")

    @property
    def runs(self) -> int:
        return len(self.runs_file.read_text())


@pytest.fixture
def plugin(path: Path, tmp_path: Path) -> Plugin:
    made = Plugin(tmp_path)
    changed(path, exec={"apiVersion": VERSION, "command": str(made.path)})
    return made


def test_a_plugin_gives_a_token(kube: FakeKube, path: Path, plugin: Plugin) -> None:
    plugin.prints(FROM_PLUGIN)
    connection = connected(path)
    for _ in range(3):
        get(connection)
    assert kube.requests[-1].user == "of-plugin"
    assert plugin.runs == 1


def test_a_plugin_gives_a_certificate(kube: FakeKube, path: Path, plugin: Plugin) -> None:
    status = {
        "clientCertificateData": kube.client.certificate.decode(),
        "clientKeyData": kube.client.private_key.decode(),
    }
    plugin.prints(FROM_PLUGIN | {"status": status})
    get(connected(path))
    assert kube.requests[-1].user == "leeway"
    # The search for secrets would report this key.
    plugin.path.unlink()


def test_a_plugin_is_run_again_once_its_token_has_expired(
    kube: FakeKube, path: Path, plugin: Plugin
) -> None:
    status = {"token": "short", "expirationTimestamp": "2026-01-01T00:00:00Z"}
    plugin.prints(FROM_PLUGIN | {"status": status})
    connection = connected(path)
    plugin.prints(FROM_PLUGIN)
    get(connection)
    assert kube.requests[-1].user == "of-plugin"


def test_a_plugin_gets_the_cluster(kube: FakeKube, path: Path, plugin: Plugin) -> None:
    document = yaml.safe_load(path.read_bytes())
    document["users"][0]["user"]["exec"] |= {
        "provideClusterInfo": True,
        "args": ["a b"],
        "env": [{"name": "GIVEN", "value": "of-env"}],
    }
    config = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    document["clusters"][0]["cluster"]["extensions"] = [config]
    path.write_text(yaml.safe_dump(document))
    told = plugin.path.with_name("told")
    plugin.does(
        f'echo "$KUBERNETES_EXEC_INFO" > {told}\n'
        f"echo '{json.dumps(FROM_PLUGIN)}' | sed \"s/of-plugin/$GIVEN-$#/\""
    )
    get(connected(path))
    assert kube.requests[-1].user == "of-env-1"
    spec = json.loads(told.read_text())["spec"]
    assert spec["interactive"] is False
    assert spec["cluster"]["server"] == f"https://{HOST}:{kube.port}"
    assert spec["cluster"]["config"] == {"audience": "x"}


def printing(document: object) -> str:
    return f"cat <<'END'\n{json.dumps(document)}\nEND"


FAILING = [
    pytest.param(f"echo {PRINTED} >&2; echo {PRINTED}; exit 3", "exit code 3", id="exit-code"),
    pytest.param("kill -9 $$", "ended by a signal", id="signal"),
    pytest.param(f"echo {PRINTED}", "printed no ExecCredential", id="no-json"),
    pytest.param("", "printed no ExecCredential", id="nothing"),
    pytest.param(printing([PRINTED]), "printed no ExecCredential", id="a-list"),
    pytest.param(
        printing(FROM_PLUGIN | {"apiVersion": "client.authentication.k8s.io/v1beta1"}),
        "no ExecCredential of 'client.authentication.k8s.io/v1'", id="another-version",
    ),
    pytest.param(printing(FROM_PLUGIN | {"kind": "List"}), "no ExecCredential of", id="kind"),
    pytest.param(printing(FROM_PLUGIN | {"status": {}}), "no token", id="empty-status"),
    pytest.param(
        printing(FROM_PLUGIN | {"status": {"clientCertificateData": PRINTED}}), "no token",
        id="certificate-without-key",
    ),
    pytest.param("sleep 60", "took longer than 0.5s", id="hangs"),
    pytest.param("head -c 3000000 /dev/zero", "more than 1048576 bytes", id="prints-too-much"),
]  # fmt: skip


@pytest.mark.fault(26)
def test_processes_of_a_plugin_end_with_it(
    path: Path, plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential_plugin, "PLUGIN_SECONDS", 0.5)
    plugin.does(f"sleep 60 &\necho $! > {tmp_path / 'child'}\nwait")
    with pytest.raises(APIServerError, match=r"took longer than 0\.5s"):
        get(connected(path))
    status = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    # In a container nothing may reap it.
    wait_until(lambda: not status.exists() or status.read_text().split()[2] in "ZX")


@pytest.mark.fault(26)
@pytest.mark.parametrize(("script", "why"), FAILING)
def test_a_plugin_that_fails_is_named(
    kube: FakeKube,
    path: Path,
    plugin: Plugin,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    script: str,
    why: str,
) -> None:
    monkeypatch.setattr(credential_plugin, "PLUGIN_SECONDS", 0.5 if script == "sleep 60" else 30.0)
    plugin.does(script)
    before = len(kube.requests)
    connection = connected(path)
    messages = set()
    for _ in range(5):
        with pytest.raises(APIServerError) as caught:
            get(connection)
        messages.add(str(caught.value))
    (message,) = messages
    assert message.startswith(f"the credential plugin {str(plugin.path)!r} of {path} failed: ")
    assert why in message
    assert PRINTED not in message + caplog.text
    # No request is sent without credentials, and the plugin is not run again for a while.
    assert len(kube.requests) == before
    assert plugin.runs == 1


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"apiVersion": VERSION, "command": "/nowhere/plugin"}, "No such file or directory"),
        ({"apiVersion": VERSION, "command": "leeway-no-such-plugin"}, "No such file or directory"),
        ({"apiVersion": VERSION, "command": "/"}, "Permission denied"),
        ({"apiVersion": VERSION}, "its command or apiVersion is missing"),
        ({"command": "true"}, "its command or apiVersion is missing"),
    ],
)
def test_a_plugin_that_cannot_be_run(path: Path, section: JSONObject, why: str) -> None:
    changed(path, exec=section)
    with pytest.raises(APIServerError, match=why):
        get(connected(path))


@pytest.mark.fault(26)
def test_a_plugin_that_works_again(
    kube: FakeKube, path: Path, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "_FIRST_DELAY_SECONDS", 0.0)
    plugin.does("exit 1")
    connection = connected(path)
    with pytest.raises(APIServerError, match="exit code 1"):
        get(connection)
    plugin.prints(FROM_PLUGIN)
    assert get(connection)["kind"] == "NodeList"


@pytest.mark.fault(26)
def test_delays_grow(path: Path, plugin: Plugin, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(kube_client, "monotonic", lambda: now)
    plugin.does("exit 1")
    connection = connected(path)
    moments: list[float] = []
    while len(moments) < 9:
        runs = plugin.runs
        with pytest.raises(APIServerError):
            get(connection)
        if plugin.runs > runs:
            moments.append(now - 1000.0)
        now += 1.0
    assert moments == [1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 123.0, 183.0, 243.0]


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    "users",
    [None, [], [{"name": "other", "user": {"token": "x"}}], [{"name": "leeway", "user": None}],
     [{"name": "leeway", "user": {}}], [{"name": "leeway", "user": {"token": ""}}],
     [{"name": "leeway", "user": {"auth-provider": {"name": "azure"}}}]],
    ids=["null", "none", "another", "user-null", "empty", "empty-token", "auth-provider"],
)  # fmt: skip
def test_no_request_without_credentials(kube: FakeKube, path: Path, users: object) -> None:
    document = yaml.safe_load(path.read_bytes())
    document["users"] = users
    path.write_text(yaml.safe_dump(document))
    before = len(kube.requests)
    with pytest.raises(ConfigurationError, match=r"has no credentials for the user|cannot be used"):
        connected(path)
    assert len(kube.requests) == before


# Proxies ----------------------------------------------------------------------------------------


@contextmanager
def proxy(status: bytes = b"200 OK") -> Iterator[tuple[int, list[bytes]]]:
    """Run an HTTP proxy for CONNECT; return its port, and the heads that it received."""
    heads: list[bytes] = []

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            heads.append(head)
            client.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")
            if not status.startswith(b"200"):
                return
            host, _, port = head.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                thread = threading.Thread(target=copy, args=(server, client), daemon=True)
                thread.start()
                copy(client, server)
                thread.join()

    with socket.create_server((HOST, 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client = listener.accept()[0]
                    threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], heads
        listener.shutdown(socket.SHUT_RDWR)


def with_proxy(path: Path, url: str) -> None:
    document = yaml.safe_load(path.read_bytes())
    document["clusters"][0]["cluster"]["proxy-url"] = url
    path.write_text(yaml.safe_dump(document))


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("user", "header"),
    [("", b""), ("jane:p%40ss@", b"\r\nProxy-Authorization: Basic amFuZTpwQHNz\r\n")],
)
def test_a_proxy_is_used(kube: FakeKube, path: Path, user: str, header: bytes) -> None:
    with proxy() as (port, heads):
        with_proxy(path, f"http://{user}{HOST}:{port}")
        with closing(connected(path)) as connection:
            assert get(connection)["kind"] == "NodeList"
            get(connection)
    assert kube.requests[-1].user == "leeway"
    (head,) = heads
    assert head.startswith(f"CONNECT {HOST}:{kube.port} HTTP/1.1\r\n".encode())
    assert header in head


@pytest.mark.fault(27)
def test_a_proxy_that_does_not_connect(kube: FakeKube, path: Path) -> None:
    before = len(kube.requests)
    with proxy(b"407 Proxy Authentication Required") as (port, _):
        with_proxy(path, f"http://{HOST}:{port}")
        with pytest.raises(APIServerError, match="its proxy answered 407 to CONNECT"):
            get(connected(path))
    with_proxy(path, f"http://{HOST}:1")
    with pytest.raises(APIServerError, match="Connection refused"):
        get(connected(path))
    assert len(kube.requests) == before


@pytest.mark.fault(27)
@pytest.mark.parametrize(
    "url", ["socks5://a:1080", "https://a", "a:3128", "http://a/b", "http://a:0", "http://", 5]
)
def test_a_proxy_that_is_not_supported(path: Path, url: str) -> None:
    with_proxy(path, url)
    with pytest.raises(ConfigurationError, match="http://HOST:PORT is allowed"):
        connected(path)


def test_proxies_of_the_environment_are_not_used(
    kube: FakeKube, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:1")
    assert get(connected(path))["kind"] == "NodeList"


# Connections ------------------------------------------------------------------------------------


def test_a_connection_is_kept_for_the_next_request(kube: FakeKube, path: Path) -> None:
    with proxy() as (port, heads):
        with_proxy(path, f"http://{HOST}:{port}")
        with closing(connected(path)) as connection:
            for _ in range(5):
                get(connection)
        assert len(heads) == 1


def test_a_connection_that_was_closed_is_not_used_again(path: Path) -> None:
    with fake_kube() as kube, closing(connected(path_of(kube, path))) as connection:
        get(connection)
        kube.down()
        kube.up()
        assert get(connection)["kind"] == "NodeList"


def path_of(kube: FakeKube, path: Path) -> Path:
    path.write_bytes(kube.kubeconfig())
    return path


@pytest.mark.parametrize("server", ["http://127.0.0.1:1", "127.0.0.1:1", "https://u:p@a", ""])
def test_only_https(path: Path, server: str) -> None:
    document = yaml.safe_load(path.read_bytes())
    document["clusters"][0]["cluster"]["server"] = server
    path.write_text(yaml.safe_dump(document))
    assert_refused(path)
