"""Kubeconfig files that can be used, those that cannot, and what stays of them."""

import json
import tempfile
from pathlib import Path

import pytest
import yaml
from fake_kube import HOST, FakeKube, fake_kube

from webhook.errors import APIServerError, ConfigurationError
from webhook.objects.kube_client import Connection

HIDDEN = "bm90LWZvci10aGUtbG9n"
JSON = "application/json"


@pytest.fixture(scope="module")
def kube() -> FakeKube:
    with fake_kube() as running:
        yield running


def get(connection: Connection, path: str = "/api/v1/nodes") -> object:
    with connection.get(path, {"limit": "1"}, JSON, 5.0) as response:
        return json.loads(response.read())


@pytest.fixture
def path(kube: FakeKube, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_bytes(kube.kubeconfig())
    return path


def changed(path: Path, **user: object) -> None:
    """Give a kubeconfig another user."""
    document = yaml.safe_load(path.read_bytes())
    document["users"][0]["user"] = user
    path.write_text(yaml.safe_dump(document))


def test_a_client_certificate(kube: FakeKube, path: Path) -> None:
    assert get(Connection(path))["kind"] == "NodeList"
    assert kube.requests[-1].user == "leeway"


def test_a_token(kube: FakeKube, path: Path) -> None:
    changed(path, token=HIDDEN)
    get(Connection(path))
    assert kube.requests[-1].user == HIDDEN


def test_a_token_file_is_named_by_path(kube: FakeKube, path: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-a-file")
    changed(path, tokenFile=str(tmp_path / "token"))
    get(Connection(path))
    assert kube.requests[-1].user == "from-a-file"


def test_a_context(kube: FakeKube, path: Path) -> None:
    document = yaml.safe_load(path.read_bytes())
    document["contexts"].append({"name": "b", "context": {"cluster": "leeway", "user": "b"}})
    document["users"].append({"name": "b", "user": {"token": "of-b"}})
    path.write_text(yaml.safe_dump(document))
    get(Connection(path, "b"))
    assert kube.requests[-1].user == "of-b"


def test_kubectls_own(kube: FakeKube, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    assert get(Connection())["kind"] == "NodeList"


def test_in_a_pod(kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", HOST)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(kube.port))
    with pytest.raises(ConfigurationError, match="the service account of this Pod"):
        Connection()
    module = "kubernetes.config.incluster_config"
    for name, data in (("TOKEN", b"of-the-pod"), ("CERT", kube.ca.certificate)):
        (tmp_path / name).write_bytes(data)
        monkeypatch.setattr(f"{module}.SERVICE_{name}_FILENAME", str(tmp_path / name))
    get(Connection())
    assert kube.requests[-1].user.removeprefix("bearer ") == "of-the-pod"


def test_nothing_stays_in_a_file(
    kube: FakeKube, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    connections = [Connection(path) for _ in range(2)]
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
    assert_refused(path)
    # No kubeconfig to the search for secrets, which would find the token in it.
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
def test_wrong_in_one_place(path: Path, where: tuple, value: object) -> None:
    document = yaml.safe_load(path.read_bytes())
    place = document
    for part in where[:-1]:
        place = place[part]
    place[where[-1]] = value
    path.write_text(yaml.safe_dump(document))
    assert_refused(path)


def assert_refused(path: Path, context: str = "") -> None:
    with pytest.raises(ConfigurationError) as caught:
        Connection(path, context)
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
        Connection(path)


def test_refused_credentials_are_read_again(kube: FakeKube, path: Path) -> None:
    good = path.read_bytes()
    changed(path)
    connection = Connection(path)
    for broken in (None, b"{", None):
        with pytest.raises(APIServerError) as caught:
            get(connection)
        text = str(caught.value)
        assert text in ("HTTP 401 Unauthorized", "its kubeconfig could not be read again")
        if broken:
            path.write_bytes(broken)
    path.write_bytes(good)
    assert get(connection)["kind"] == "NodeList"


def test_another_ca(kube: FakeKube, path: Path) -> None:
    with fake_kube() as other:
        document = yaml.safe_load(path.read_bytes())
        document["clusters"][0]["cluster"]["server"] = f"https://{HOST}:{other.port}"
        path.write_text(yaml.safe_dump(document))
        connection = Connection(path)
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
        get(Connection(path), "/fails")
    assert (str(caught.value), caught.value.code) == (text, code)
    assert caught.value.is_not_found is (text == "HTTP 404 NotFound")


def test_nothing_is_tried_twice(kube: FakeKube, path: Path) -> None:
    kube.answers["/fails"] = (503, b"")
    connection = Connection(path)
    before = len(kube.asked("/fails"))
    with pytest.raises(APIServerError):
        get(connection, "/fails")
    assert len(kube.asked("/fails")) == before + 1
