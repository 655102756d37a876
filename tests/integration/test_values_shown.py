"""Secrets in place of a path, a URL or a name appear in no message."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
import yaml

from keys.errors import KeysError
from tests.fake_kube import FakeKube, fake_kube
from webhook.assembly import authenticator_of, issuer_keys_of, keyring_of, source_of, store_of
from webhook.config.load import load_configuration
from webhook.config.model import Configuration, IssuerKeysSection
from webhook.doctor.diagnosis import Options, examine
from webhook.doctor.remote import Targets
from webhook.errors import APIServerError, LeewayError
from webhook.objects.kube_client import KubeClient
from webhook.setup.init import InitOptions, initialise

SECRET = "hunter2hunter2"
CLAIMS = "eyJzdWIiOiJodW50ZXIyIn0"
KINDS = {
    "jwt": f"eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.{SECRET}",
    "pem": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n",
    "user": f"https://jane:{SECRET}@127.0.0.1:1/keys",
    "query": f"https://127.0.0.1:1/keys?sig={SECRET}",
    "fragment": f"https://127.0.0.1:1/keys#{SECRET}",
    "random": f"q83vEjRW{SECRET}",
}
MARKS = (SECRET, CLAIMS, "jane")


def text_fields() -> Iterator[tuple[str, ...]]:
    """Return the way to each field of a configuration that is text, or a list of texts."""

    def walk(section: type, way: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for field in msgspec.structs.fields(section):
            name = field.encode_name
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                yield from walk(field.type, (*way, name))
            elif name == "trustedIssuers":
                yield from walk(field.type.__args__[0], (*way, name))
            else:
                yield (*way, name)

    yield from walk(Configuration, ())


def with_value(way: tuple[str, ...], value: object) -> dict[str, object]:
    """Return a configuration in which only one field is wrong."""
    keys: dict[str, object] = {"jwksFile": "a.json"}
    if way[-1] in IssuerKeysSection.__struct_encode_fields__:
        keys = {"jwksURL": "https://127.0.0.1:1/"} if way[-1] in ("caFile", "tokenFile") else {}
    issuer = {"url": "https://127.0.0.1:1", "keys": keys}
    document: dict[str, object] = {"trustedIssuers": [issuer]}
    if "file" in way:
        document["objects"] = {"source": "file"}
    if "kubernetes" in way:
        document["objects"] = {"source": "kubernetes"}
    place: Any = document
    for part in way[:-1]:
        place = issuer if part == "trustedIssuers" else place.setdefault(part, {})
    place[way[-1]] = value
    return document


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("values") / "data"
    initialise(folder, InitOptions(algorithm="ES256"), time.time())
    # The doctor reads each of them; all are shown in the same way.
    for name in ("tokenreview.yaml", "subjectaccessreview.yaml"):
        (folder / "kubeconfig" / name).unlink()
    return folder


@pytest.fixture
def data_dir(made: Path) -> Iterator[Path]:
    """Return a data directory whose files can be changed."""
    files = [made / "leeway.yaml", made / "kubeconfig" / "root.yaml"]
    before = [file.read_bytes() for file in files]
    yield made
    for file, data in zip(files, before, strict=True):
        file.write_bytes(data)


def said_by(*readers: Callable[[], object]) -> str:
    """Return the errors and the results of calls as text."""
    said = []
    for reader in readers:
        try:
            said.append(str(reader()))
        except (LeewayError, KeysError, OSError) as error:
            said.append(str(error))
    return "\n".join(said)


def assert_hidden(said: str, what: object) -> None:
    found = [mark for mark in MARKS if mark in said]
    assert not found, (what, said)


def fetch(data_dir: Path, configuration: Configuration) -> str:
    """Fetch the keys of all issuers, and return what health pages report."""
    with closing(issuer_keys_of(data_dir, configuration)) as found:
        for issuer in found.issuers:
            found.fetch_now(issuer.url)
        problems = [issuer.keys_problem for issuer in found.issuers]
        return "\n".join([found.problem(), found.warning(), found.broken_files(), *problems])


def look(data_dir: Path, configuration: Configuration) -> str:
    source = source_of(data_dir, configuration)
    if source is None:
        return ""
    with closing(source):
        return f"{source.problem()} {source.warning()}"


def readers_of(data_dir: Path, configuration: Configuration) -> list[Callable[[], object]]:
    return [
        lambda: fetch(data_dir, configuration),
        lambda: look(data_dir, configuration),
        lambda: store_of(data_dir, configuration, read_only=True).close(),
        lambda: authenticator_of(data_dir, configuration, keyring_of(data_dir)),
    ]


def issuer_in(data_dir: Path, environment: dict[str, str]) -> str:
    return load_configuration(data_dir, environment, {}).issuer


@pytest.mark.bad_input(61)
@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["file", "list", "environment"])
def test_in_each_field_of_leeway_yaml(
    data_dir: Path, caplog: pytest.LogCaptureFixture, kind: str, source: str
) -> None:
    caplog.set_level(logging.DEBUG)
    path = data_dir / "leeway.yaml"
    refused = 0
    for way in text_fields():
        value: object = [KINDS[kind]] if source == "list" else KINDS[kind]
        environment: dict[str, str] = {}
        if source == "environment":
            if "trustedIssuers" in way or len(way) < 2:
                continue
            words = "_".join("".join(f"_{c}" if c.isupper() else c for c in part) for part in way)
            environment = {f"LEEWAY_{words.upper()}": str(value)}
            path.write_text(yaml.safe_dump(with_value(("objects", "source"), "none")))
        else:
            path.write_text(yaml.safe_dump(with_value(way, value)))
        said = ""
        with suppress(LeewayError):
            configuration = load_configuration(data_dir, environment, {})
            said = said_by(*readers_of(data_dir, configuration))
        said += said_by(partial(issuer_in, data_dir, environment))
        refused += "holds " in said
        said += str(
            examine(Options(data_dir, MappingProxyType(environment), Targets()), time.time())
        )
        # An issuer may be any text but a token, and is public in every token.
        if way != ("trustedIssuers", "url"):
            assert_hidden(said, way)
    assert_hidden(caplog.text, "the log")
    if kind in ("jwt", "pem", "user"):
        assert refused


TEXTS = [
    pytest.param("a: [{value}", id="not-closed"),
    pytest.param("a: *{value}", id="alias"),
    pytest.param("a: !{value} b", id="tag"),
    pytest.param("a: !!int {value}", id="no-integer"),
    pytest.param("a: '{value}", id="quote"),
    pytest.param("{value}", id="text"),
    pytest.param("? '{value}'\n: 1", id="name"),
    pytest.param("'{value}': 1\n'{value}': 2", id="name-twice"),
    pytest.param("leeway: {{'{value}': 1s}}", id="unknown-field"),
    pytest.param("leeway: '{value}'", id="section"),
    pytest.param("server: {{workers: '{value}'}}", id="number"),
    pytest.param("a: @{value}", id="reserved"),
    pytest.param("a: %{value}", id="directive"),
]


@pytest.mark.bad_input(61)
@pytest.mark.fault(16)
@pytest.mark.parametrize("text", TEXTS)
def test_in_invalid_text(data_dir: Path, text: str) -> None:
    path = data_dir / "leeway.yaml"
    for kind, value in KINDS.items():
        path.write_text(text.format(value=value))
        said = said_by(lambda: load_configuration(data_dir, {}, {}))
        assert said.startswith(str(path))
        assert_hidden(said, kind)


@pytest.fixture(scope="module")
def kube() -> Iterator[FakeKube]:
    with fake_kube() as running:
        yield running


PLACES = [
    ("current-context",),
    ("clusters", 0, "name"),
    ("clusters", 0, "cluster", "server"),
    ("clusters", 0, "cluster", "proxy-url"),
    ("clusters", 0, "cluster", "tls-server-name"),
    ("clusters", 0, "cluster", "certificate-authority"),
    ("clusters", 0, "cluster", "certificate-authority-data"),
    ("users", 0, "name"),
    ("users", 0, "user"),
    ("users", 0, "user", "tokenFile"),
    ("users", 0, "user", "token"),
    ("users", 0, "user", "client-certificate"),
    ("users", 0, "user", "client-key"),
    ("users", 0, "user", "client-key-data"),
    ("users", 0, "user", "username"),
    ("users", 0, "user", "exec"),
    ("users", 0, "user", "exec", "command"),
    ("users", 0, "user", "auth-provider"),
]


@pytest.mark.bad_input(61)
@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", PLACES, ids=lambda way: str(way[-1]))
def test_in_a_kubeconfig(
    kube: FakeKube,
    data_dir: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    way: tuple[str | int, ...],
) -> None:
    caplog.set_level(logging.DEBUG)
    document = yaml.safe_load(kube.kubeconfig())
    if way[-1] in ("tokenFile", "token", "username", "exec", "command", "auth-provider"):
        document["users"][0]["user"] = {}
    if way[-1] == "command":
        document["users"][0]["user"]["exec"] = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "args": [KINDS[kind]],
        }
    place: Any = document
    for part in way[:-1]:
        place = place[part]
    for name in ("client-certificate", "client-key", "certificate-authority"):
        if way[-1] == name:
            place.pop(f"{name}-data", None)
    place[way[-1]] = KINDS[kind]
    path = data_dir / "kubeconfig" / "root.yaml"
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o600)

    def ask() -> None:
        with closing(KubeClient(path)) as connection, suppress(APIServerError):
            connection.get("/api/v1/nodes", {}, "application/json", 1.0, 9999).close()

    def ask_again() -> None:
        with closing(KubeClient(path)) as connection:
            connection.get("/fails", {}, "application/json", 1.0, 9999).close()

    said = said_by(
        ask,
        ask_again,
        lambda: examine(Options(data_dir, MappingProxyType({}), Targets()), time.time()),
    )
    assert_hidden(said, kind)
    assert_hidden(caplog.text, "the log")


@pytest.mark.bad_input(61)
@pytest.mark.fault(16)
@pytest.mark.parametrize("kind", KINDS)
def test_in_files_that_are_read(
    data_dir: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level(logging.DEBUG)
    path = data_dir / "leeway.yaml"
    file = data_dir / "given"
    value = KINDS[kind]
    for content in (value, f"{value} {value}", f'{{"keys": ["{value}"]}}', f"kind: {value}"):
        file.write_text(content)
        file.chmod(0o600)
        for keys in (
            {"jwksFile": "given"},
            {"publicKeyFiles": ["given"]},
            {"jwksURL": "https://127.0.0.1:1/", "caFile": "given"},
            {"jwksURL": "https://127.0.0.1:1/", "tokenFile": "given"},
        ):
            path.write_text(
                yaml.safe_dump({"trustedIssuers": [{"url": "https://a", "keys": keys}]})
            )
            configuration = load_configuration(data_dir, {}, {})
            assert_hidden(said_by(partial(fetch, data_dir, configuration)), keys)
        for objects in (
            {"source": "file", "file": {"path": "given"}},
            {"source": "kubernetes", "kubernetes": {"kubeconfig": "given"}},
        ):
            path.write_text(yaml.safe_dump({"objects": objects}))
            configuration = load_configuration(data_dir, {}, {})
            assert_hidden(said_by(partial(look, data_dir, configuration)), objects)
    assert_hidden(caplog.text, "the log")
