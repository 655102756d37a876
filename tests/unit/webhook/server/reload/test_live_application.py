"""What a worker serves while its files change: to a request that takes a while, and of itself."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from keys import jws
from keys.folder_changes import rotate
from keys.jwk import jwks_document
from tests.support import signing_key
from tests.unit.webhook.server.caller_parts import request_of
from webhook.assembly import keyring_of, policy_of, rotation_policy_of
from webhook.backends.sqlite import SQLiteBackend
from webhook.config.load import load_configuration
from webhook.config.model import Configuration
from webhook.objects.file import FileObjects
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import AUTH_TOKEN_TYPE, JWTTokens
from webhook.rbac.simple_tokens import SimpleTokens
from webhook.server.reload import live_application
from webhook.server.reload.background import every
from webhook.server.reload.composition import Background, started
from webhook.server.reload.live_application import LiveApplication
from webhook.server.request.message import Caller, Headers, Request, settled
from webhook.setup.init import InitOptions, initialise
from webhook.token.issuer import TokenSpec, issue_token
from webhook.token.outcome import Authenticated
from webhook.trusted_issuers.files import FileKeys

JWKS = jwks_document([signing_key("ES256", "one").verification_key])
NODE = '{"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n", "uid": "u"}}'


@pytest.fixture
def app(tmp_path: Path) -> LiveApplication:
    initialise(tmp_path, InitOptions(algorithm="ES256"), time.time())
    return app_of(tmp_path)


def app_of(data_dir: Path, started_with: Configuration | None = None) -> LiveApplication:
    return LiveApplication(data_dir, lambda: load_configuration(data_dir, {}, {}), started_with)


def rotate_now(data_dir: Path) -> None:
    policy = rotation_policy_of(load_configuration(data_dir, {}, {}))
    for _ in range(2):
        rotate(data_dir / "keys", policy, int(time.time()), force=True)


async def serve(app: LiveApplication, meanwhile: Callable[[], None]) -> None:
    """Start an application, do something, and stop it."""
    await app.start()
    meanwhile()
    await app.stop()


def set_leeway(data_dir: Path, seconds: int) -> None:
    set_section(data_dir, "leeway", f"{{notBefore: {seconds}s}}")


def set_auth(data_dir: Path, value: str) -> None:
    set_section(data_dir, "auth", value)


def set_section(data_dir: Path, name: str, value: str) -> None:
    path = data_dir / "leeway.yaml"
    kept = re.sub(rf"(?m)^{name}: .*\n", "", path.read_text())
    path.write_text(f"{kept}{name}: {value}\n")


@pytest.mark.bad_input(55)
def test_a_request_of_before_a_reload_gets_the_keys_of_after_it(
    app: LiveApplication, tmp_path: Path
) -> None:
    began_with = [app._components.authenticator]
    for seconds in (70, 80):
        set_leeway(tmp_path, seconds)
        app.reload()
        began_with.append(app._components.authenticator)
    assert len(set(began_with)) == 3
    configuration, now = load_configuration(tmp_path, {}, {}), int(time.time())
    rotate_now(tmp_path)
    request = TokenSpec("argo-run", "loofah")
    token = issue_token(request, policy_of(configuration), keyring_of(tmp_path), now).token
    app._keys.catch_up()
    for authenticator in began_with:
        assert isinstance(authenticator.authenticate(token, (), now), Authenticated)
    app.store.close()


def set_server(data_dir: Path, **members: object) -> None:
    set_section(data_dir, "server", json.dumps(members))


def warnings(app: LiveApplication) -> dict[str, str]:
    return {name: text for name, run in app._warnings() if (text := run())}


def failing(app: LiveApplication) -> set[str]:
    """Return the labels of the gauges of failures that are 1."""
    text = app._shared.metrics.render().decode()
    return set(re.findall(r'(?m)^leeway_\w+_failing{\w+="(.*)"} 1\.0$', text))


def test_a_worker_that_nobody_asks_stays_fresh(app: LiveApplication, tmp_path: Path) -> None:
    async def is_seen(name: str) -> bool:
        keeping = asyncio.ensure_future(every(0.1, app._store_keeper.problem))
        for _ in range(100):
            if name in app.store.state.users:
                break
            await asyncio.sleep(0.05)
        keeping.cancel()
        return name in app.store.state.users

    other = AuthStore.loaded(SQLiteBackend(tmp_path / "auth.db"))
    other.change(changes.add_user, "written elsewhere")
    other.close()
    assert "written elsewhere" not in app.store.state.users
    assert asyncio.run(is_seen("written elsewhere"))
    app.store.close()


AT_RESTART = [
    ("server.bind", {"bind": "127.0.0.1:1"}),
    ("server.workers", {"workers": 3}),
    ("server.logFormat", {"logFormat": "text"}),
    ("server.logLevel and server.workers", {"logLevel": "error", "workers": 1}),
]


@pytest.mark.parametrize(("names", "members"), AT_RESTART)
def test_what_waits_for_a_restart_is_told_until_it_is_as_at_the_start(
    app: LiveApplication, tmp_path: Path, names: str, members: dict[str, object]
) -> None:
    before = load_configuration(tmp_path, {}, {})
    set_server(tmp_path, **members)
    # The second time nothing has changed since the first.
    for _ in range(2):
        app.reload()
        (text,) = warnings(app).values()
        assert set(text.removesuffix(" will change with a restart").split(" and ")) == set(
            names.split(" and ")
        )
        assert failing(app) == set(), "a restart would not fail"
    app.store.close()
    # A worker that takes the place of another, which begins with what the file says by now.
    other = app_of(tmp_path, started_with=before)
    assert warnings(other) == {"configuration": text}
    set_server(tmp_path, bind="127.0.0.1:8443", workers=2)
    other.reload()
    assert warnings(other) == {}
    other.store.close()


def test_a_worker_that_takes_the_place_of_another_keeps_to_the_store(
    app: LiveApplication, tmp_path: Path
) -> None:
    before = load_configuration(tmp_path, {}, {})
    app.store.close()
    with (tmp_path / "leeway.yaml").open("a") as file:
        file.write("store: {sqlite: {path: another.db}}\n")
    other = app_of(tmp_path, started_with=before)
    assert warnings(other) == {"configuration": "store.sqlite will change with a restart"}
    assert other.store.revision
    other.store.close()


@pytest.fixture
def unexpected(app: LiveApplication) -> Callable[[Exception | None], None]:
    """Have the configuration of an application raise what nobody expects, or read again."""
    configure = app._configure
    planted: list[Exception | None] = [None]

    def fail() -> Configuration:
        if planted[0] is not None:
            raise planted[0]
        return configure()

    app._configure = fail
    return lambda error: planted.__setitem__(0, error)


def hang_up(app: LiveApplication) -> None:
    """Do what SIGHUP does, to its end."""

    async def ask() -> None:
        app.reload_soon()

    asyncio.run(ask())


def test_what_nobody_expected_fails_a_reload_as_anything_else_does(
    app: LiveApplication,
    tmp_path: Path,
    unexpected: Callable[[Exception | None], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def logged() -> int:
        return caplog.text.count("the configuration was not loaded again")

    before = app._current
    unexpected(ZeroDivisionError("the text of it"))
    # It is tried again and again, and told of once.
    for _ in range(3):
        assert not app.reload()
    assert warnings(app) == {
        "configuration": "an internal error occurred (ZeroDivisionError); it is in the log; "
        "the configuration from before stays in use"
    }
    assert failing(app) == {"configuration"}
    assert app._current is before
    assert logged() == 1
    assert "in fail\n" in caplog.text
    assert "ZeroDivisionError: the text of it" in caplog.text
    for times in (2, 3):
        hang_up(app)
        assert logged() == times, "who asks is told"
    unexpected(ZeroDivisionError("of another kind"))
    for _ in range(2):
        assert not app.reload()
    assert logged() == 4
    assert "ZeroDivisionError: of another kind" in caplog.text
    unexpected(None)
    set_leeway(tmp_path, 70)
    hang_up(app)
    assert warnings(app) == {}
    assert failing(app) == set()
    assert app._current is not before
    app.store.close()


def followers() -> set[str]:
    """Return the threads that follow files of a configuration."""
    names = {thread.name for thread in threading.enumerate()}
    return names & {"leeway-issuer-files", "leeway-objects-file"}


def test_what_a_reload_has_started_ends_where_it_fails(
    app: LiveApplication, tmp_path: Path
) -> None:
    (tmp_path / "one.json").write_bytes(JWKS)
    (tmp_path / "objects.json").write_text(NODE)
    with (tmp_path / "leeway.yaml").open("a") as file:
        file.write("objects: {source: file, file: {path: objects.json}}\n")
    trust_files_of(tmp_path, "one")
    good = load_configuration(tmp_path, {}, {})
    # No text of a file comes to this, but what is composed of it may fail all the same.
    broken = msgspec.structs.replace(good, issuer="https://\ud800.example")
    before = app._components
    app._configure = lambda: broken
    assert not app.reload()
    assert "UnicodeEncodeError" in warnings(app)["configuration"]
    assert failing(app) == {"configuration"}
    assert app._components is before
    assert followers() == set()
    app._configure = lambda: good
    assert app.reload()
    assert failing(app) == set()
    assert len(followers()) == 2
    for part in (app._components.issuer_keys, app._components.objects):
        assert part is not None
        part.close()
    app.store.close()


@pytest.mark.bad_input(55)
def test_a_new_key_does_not_wait_for_a_reload_that_waits(
    app: LiveApplication, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration, now = load_configuration(tmp_path, {}, {}), int(time.time())

    def take_a_new_key() -> None:
        rotate_now(tmp_path)
        app._keys.catch_up()

    @contextmanager
    def slowly(parts: list[Background]) -> Iterator[None]:
        with started(parts):
            taking = threading.Thread(target=take_a_new_key, daemon=True)
            taking.start()
            taking.join(30)
            assert not taking.is_alive(), "the new key waits"
            yield

    monkeypatch.setattr("webhook.server.reload.live_application.started", slowly)
    before = app._components
    set_leeway(tmp_path, 70)
    assert app.reload(), warnings(app)
    request = TokenSpec("argo-run", "loofah")
    token = issue_token(request, policy_of(configuration), keyring_of(tmp_path), now).token
    kid = keyring_of(tmp_path).signing_key().verification_key.kid
    assert app._components.keyring.signing_key().verification_key.kid == kid
    for authenticator in {before.authenticator, app._components.authenticator}:
        assert isinstance(authenticator.authenticate(token, (), now), Authenticated)
    app.store.close()


def test_a_part_that_cannot_start_ends_those_before_it() -> None:
    class Part:
        is_running = False

        def start(self) -> None:
            self.is_running = True

        def close(self) -> None:
            self.is_running = False

        def problem(self) -> str:
            return ""

    class Unable(Part):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    parts = [Part(), Unable()]
    with pytest.raises(RuntimeError, match="new thread"), started(list(parts)):
        pass
    assert not any(part.is_running for part in parts)


def trust_files_of(data_dir: Path, *names: str) -> None:
    path = data_dir / "leeway.yaml"
    kept = path.read_text().partition("trustedIssuers: [")[0]
    issuers = [{"url": f"https://{n}", "keys": {"jwksFile": f"{n}.json"}} for n in names]
    path.write_text(f"{kept}trustedIssuers: {json.dumps(issuers)}\n")


def look(app: LiveApplication) -> None:
    """Have everything that is followed looked at twice, and told, as its threads do."""
    app._keys.catch_up()
    for source in app._components.issuer_keys._sources:
        assert isinstance(source, FileKeys)
        source.reload()
    assert isinstance(app._components.objects, FileObjects)
    app._components.objects._reload()
    app._report_failures()


BROKEN = [
    ("keys/schedule.json", {"signing-keys"}),
    ("objects.json", {"objects"}),
    ("one.json", {"issuer-keys", "https://one"}),
]


@pytest.mark.parametrize(("name", "labels"), BROKEN)
def test_what_is_broken_shows_in_the_metrics_until_it_is_mended(
    tmp_path: Path, name: str, labels: set[str]
) -> None:
    initialise(tmp_path, InitOptions(algorithm="ES256"), time.time())
    (tmp_path / "one.json").write_bytes(JWKS)
    (tmp_path / "objects.json").write_text(NODE)
    with (tmp_path / "leeway.yaml").open("a") as file:
        file.write("objects: {source: file, file: {path: objects.json}}\n")
    trust_files_of(tmp_path, "one")
    app = app_of(tmp_path)
    look(app)
    assert failing(app) == set()
    path = tmp_path / name
    good = path.read_bytes()
    path.write_bytes(b"{")
    look(app)
    assert failing(app) == labels
    path.write_bytes(good)
    look(app)
    assert failing(app) == set()
    app.store.close()


def test_keys_of_an_issuer_that_is_trusted_no_more_are_not_failing(
    app: LiveApplication, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_bytes(JWKS)
    trust_files_of(tmp_path, "one", "two")
    app.reload()
    for name in ("one", "two"):
        (tmp_path / f"{name}.json").write_bytes(b"{")
    stale = app._components.issuer_keys
    for source in stale._sources:
        assert isinstance(source, FileKeys)
        source.reload()
    app._report_failures()
    assert failing(app) == {"issuer-keys", "https://one", "https://two"}
    (tmp_path / "two.json").write_bytes(JWKS)
    trust_files_of(tmp_path, "two")
    app.reload()
    # A source that is still closing may tell once more.
    app._shared.metrics.report_issuer_keys("https://one", True)
    app._report_failures()
    assert failing(app) == set()
    for parts in (stale, app._components.issuer_keys):
        parts.close()


def test_an_auth_token_of_a_new_key_is_accepted_by_the_other_worker_at_once(
    app: LiveApplication, tmp_path: Path
) -> None:
    set_auth(tmp_path, "{tokenProvider: jwt}")
    app.reload()
    other = LiveApplication(tmp_path, lambda: load_configuration(tmp_path, {}, {}))
    app.store.change(changes.add_user, "alice", b"hash")
    # A request may begin before a reload, and wait.
    began_with = [other._current]
    set_auth(tmp_path, "{tokenProvider: jwt, authTokenTTL: 200s}")
    other.reload()
    began_with.append(other._current)
    for application in began_with:
        rotate_now(tmp_path)
        app._keys.catch_up()
        tokens = app._components.tokens
        assert isinstance(tokens, JWTTokens)
        token = tokens.assign(app.store.user("alice"), time.time())
        active = keyring_of(tmp_path).active
        assert active is not None
        assert jws.header(jws.parse(token), AUTH_TOKEN_TYPE).kid == active.kid
        found = asyncio.run(settled(application._callers.find(request_of(f"Bearer {token}"))))
        assert found == Caller("alice", by_token=True)
    app.store.close()
    other.store.close()


def test_the_last_uses_of_auth_tokens_are_written_at_the_end(
    app: LiveApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_application, "_WRITE_SECONDS", 3600.0)
    app.store.change(changes.add_user, "alice", b"hash")
    tokens, now = app._components.tokens, time.time()
    assert isinstance(tokens, SimpleTokens)
    token = tokens.assign(app.store.user("alice"), now)

    def last_written() -> list[float]:
        return [record.used for record in app.store.state.tokens.values()]

    def use() -> None:
        assert tokens.resolve(token, now + 30) == "alice"
        assert last_written() == [now]

    asyncio.run(serve(app, use))
    assert last_written() == [now + 30]
    app.store.close()


def test_a_reload_forgets_no_use_of_an_auth_token(app: LiveApplication, tmp_path: Path) -> None:
    app.store.change(changes.add_user, "alice", b"hash")
    now = time.time()
    token = app._components.tokens.assign(app.store.user("alice"), now)
    assert app._components.tokens.resolve(token, now + 300) == "alice"
    set_auth(tmp_path, "{authTokenTTL: 200s}")
    app.reload()
    assert app._components.tokens.resolve(token, now + 500) == "alice"
    app.store.close()


@pytest.mark.fault(22)
def test_a_reload_leaves_no_thread_behind(app: LiveApplication, tmp_path: Path) -> None:
    async def status_of(path: str) -> int:
        """Post to a path that Flask serves, without an identity."""
        request = Request(
            "POST", path, b"", Headers([(b"content-type", b"application/json")]), b"{}"
        )
        return (await settled(app.answer(request))).code

    async def reload_often() -> list[int]:
        counts, before = [], []
        for seconds in range(1, 7):
            # A request that takes long holds the application that it began with.
            before.append(app._current)
            set_leeway(tmp_path, seconds)
            assert app.reload()
            assert await status_of("/v3/auth/authenticate") == 400
            assert await status_of("/v3/auth/user/list") == 400
            in_pools = [t for t in threading.enumerate() if not isinstance(t, threading.Timer)]
            counts.append(len(in_pools))
        return counts

    counts = asyncio.run(reload_often())
    # Each pool of a worker has as many threads as it ever needed at once.
    assert counts[2:] == counts[2:3] * 4
    app.store.close()
