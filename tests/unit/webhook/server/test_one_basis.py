"""Every route, with a store that grows old or changes in the midst of the answer.

What cannot be confirmed is decided again or refused with 503, and leaves no trace: nothing is
counted, logged, audited, signed or written.
"""

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bound_parts import StillSource
from tests.e2e.harness import REVIEWS, REVIEWS_BETA
from tests.e2e.test_routes import (
    ASKED,
    MAY_I,
    MAY_THEY,
    MAY_THEY_BETA,
    NEEDS_KEY,
    PUBLIC,
    READ,
    ROUTES,
    TOKEN,
    WHO_AM_I,
    body_of,
    concrete,
)
from tests.unit.webhook.server.aging_store import (
    MAX_STALENESS,
    AgingBackend,
    AgingStore,
    Clock,
)
from tests.unit.webhook.server.served import JSON, Served
from webhook.backends.sqlite import SQLiteBackend
from webhook.config.paths import TLS_FOLDER
from webhook.rbac import changes
from webhook.rbac.errors import OutcomeUnknownError, StoreUnavailableError
from webhook.rbac.model import ROOT
from webhook.rbac.records import Record
from webhook.server.reload import live_application
from webhook.server.request.key_proof import KEYS_SECONDS
from webhook.server.request.message import Headers, Request, Response
from webhook.server.routes.dispatch import MAX_ATTEMPTS
from webhook.token.bound_objects import Absence, Lookup, ObjectKey, ObjectState

# They answer from the store; etcd's calls too, whose changes are another matter.
ANSWERS = [route for route in ROUTES if route[1] in (*READ, *ASKED, *NEEDS_KEY)]
AT_ONCE = (REVIEWS, REVIEWS_BETA, WHO_AM_I, MAY_I, MAY_THEY, MAY_THEY_BETA)
READS = [("POST", f"/v3/auth/{name}") for name in ("status", "user/list", "role/list")]
WRITES = [("POST", f"/v3/auth/{name}") for name in ("user/add", "role/add")]
HEALTH = ("/readyz", "/healthz")
# A line that says that nothing can be answered is no trace of what was decided.
REFUSED = "request"


class Aging(Served):
    """A server on a store whose proofs age, and what it counts and logs."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.backend = AgingBackend(Clock())
        self.store = AgingStore(self.backend)
        patch.setattr(live_application, "store_of", lambda *_, **__: self.store)
        super().__init__(folder)
        made = SQLiteBackend(folder / "auth.db")
        self.backend.commit(0, made.load()[1])
        made.close()
        self.root = (folder / TLS_FOLDER / f"{ROOT}.crt").read_text()

    def send(self, method: str, path: str, certificate: str = "") -> Response:
        body = body_of(path) or b""
        request = Request(
            method,
            concrete(path),
            headers=Headers(JSON),
            body=body,
            length=len(body),
            certificate=certificate or self.root,
        )
        return self.answer(request)

    def counted(self) -> dict[str, float]:
        """Return what is counted of answers."""
        metrics = self.app._shared.metrics
        metrics.flush()
        samples = (sample for family in metrics.registry.collect() for sample in family.samples)
        return {
            f"{sample.name}{sample.labels}": sample.value
            for sample in samples
            if sample.name.endswith(("_total", "_count")) and "_store_" not in sample.name
        }

    def grow_old(self, number: int) -> None:
        """Let the proof be too old, whatever is taken."""
        self.backend.proof = self.clock_now()
        self.backend.clock.now += 2 * MAX_STALENESS

    def clock_now(self) -> float:
        return self.backend.clock.now


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aging]:
    with pytest.MonkeyPatch.context() as patch:
        found = Aging(tmp_path_factory.mktemp("basis") / "data", patch)
        found.store.load()
        yield found
        found.store.close()


@pytest.fixture
def server(made: Aging) -> Aging:
    """Return the server with a fresh proof, and nothing in between."""
    made.backend.proof = None
    made.backend.error = None
    made.store.taken = 0
    made.store.in_between = lambda _number: None
    made.store.refresh()
    return made


def traces(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of a verdict."""
    found = [getattr(record, "fields", {}) for record in caplog.records]
    return [str(fields) for fields in found if fields and fields.get("event") != REFUSED]


def assert_refused(response: Response) -> None:
    assert response.code == 503, response.body
    assert (b"retry-after", b"1") in response.headers


@pytest.mark.parametrize(("method", "path"), [*ANSWERS, *READS])
def test_a_basis_that_is_too_old_at_the_end(
    server: Aging, method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, revision = server.counted(), server.store.state.revision
    server.store.in_between = server.grow_old
    with caplog.at_level(logging.DEBUG):
        assert_refused(server.send(method, path))
    assert server.store.taken == 1
    assert traces(caplog) == []
    assert server.counted() == before
    assert server.store.state.revision == revision


@pytest.mark.parametrize(("method", "path"), [*ANSWERS, *READS])
def test_a_basis_that_is_too_old_once_is_taken_again(
    server: Aging, method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = server.send(method, path)
    assert expected.code in (200, 201)
    once = server.counted()
    caplog.clear()

    def in_between(number: int) -> None:
        if number == 0:
            # The next look has a newer proof of a state in which something has changed.
            server.backend.clock.now += 2 * MAX_STALENESS
            server.store.change(changes.grant_role, ROOT, "kube-apiserver")
            server.store.change(changes.revoke_role, ROOT, "kube-apiserver")

    server.store.taken, server.store.in_between = 0, in_between
    with caplog.at_level(logging.DEBUG):
        response = server.send(method, path)
    assert response.code == expected.code
    assert server.store.taken == 2
    assert len(traces(caplog)) <= 1
    counted = server.counted()
    assert all(counted[name] <= once.get(name, 0.0) + 1 for name in counted)


@pytest.mark.parametrize(("method", "path"), [*ANSWERS, *READS])
def test_a_store_that_changes_each_time(
    server: Aging, method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that nothing was awaited for sees one state; the others are decided again."""
    before = server.counted()

    def in_between(number: int) -> None:
        name = f"someone-{server.store.state.revision}"
        server.store.change(changes.add_user, name)
        server.store.change(changes.delete_user, name)

    server.store.in_between = in_between
    with caplog.at_level(logging.DEBUG):
        response = server.send(method, path)
    if path in AT_ONCE:
        assert (server.store.taken, response.code) == (1, 201)
        return
    assert server.store.taken == MAX_ATTEMPTS
    assert_refused(response)
    assert traces(caplog) == []
    assert server.counted() == before


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_change_that_is_committed_is_answered_with_success(
    server: Aging, method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = json.loads(body_of(path) or b"{}")["name"]
    server.store.in_between = server.grow_old
    with caplog.at_level(logging.INFO):
        response = server.send(method, path)
    assert response.code == 200
    assert json.loads(response.body)["header"]["revision"] == str(server.store.state.meta.revision)
    assert [line for line in traces(caplog) if "'outcome': 'done'" in line] == traces(caplog)
    assert len(traces(caplog)) == 1
    remove = changes.delete_user if "user" in path else changes.delete_role
    server.store.change(remove, name)


@pytest.mark.parametrize("path", [f"/v3/auth/{name}" for name in ("user/add", "disable")])
def test_a_change_is_allowed_by_the_state_that_it_is_written_on(
    server: Aging, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller loses its role between the basis and the change."""
    store = server.store
    store.change(changes.grant_role, "kube-apiserver", ROOT)

    def in_between(_number: int) -> None:
        store.in_between = lambda _number: None
        store.change(changes.revoke_role, "kube-apiserver", ROOT)

    store.in_between = in_between
    with caplog.at_level(logging.INFO):
        response = server.send("POST", path, server.certificate)
    assert (response.code, json.loads(response.body)["code"]) == (403, 7)
    assert store.enabled
    assert "eve" not in store.state.users
    assert "'outcome': 'denied'" in str(traces(caplog))


@pytest.mark.parametrize("path", [TOKEN, "/v3/auth/user/list", "/v3/auth/user/add"])
def test_a_refusal_is_a_verdict_too(
    server: Aging, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the caller may not do at an old revision it may have been allowed to do since."""
    server.store.in_between = server.grow_old
    with caplog.at_level(logging.DEBUG):
        assert_refused(server.send("POST", path, server.certificate))
    assert traces(caplog) == []


def test_the_caller_is_identified_again_when_the_body_is_here(server: Aging) -> None:
    """Its role is taken away while the body is on its way."""
    store, path = server.store, next(iter(NEEDS_KEY))
    body = body_of(path) or b""
    request = Request(
        "POST", path, headers=Headers(JSON), length=len(body), certificate=server.certificate
    )
    assert asyncio.run(server.app.admit(request)) is None
    store.change(changes.revoke_role, "kube-apiserver", "kube-apiserver")
    try:
        request.body = body
        assert server.answer(request).code == 403
    finally:
        store.change(changes.grant_role, "kube-apiserver", "kube-apiserver")


def test_nothing_is_answered_before_the_first_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Aging(tmp_path / "data", monkeypatch)
    server.backend.error = StoreUnavailableError("no etcd answers at https://10.0.0.11:2379")
    for method, path in ROUTES:
        response = server.send(method, path)
        if path.startswith(HEALTH) and path.rpartition("/")[2] in ("readyz", "healthz", "store"):
            assert response.code == 503
            assert b"no etcd answers at https://10.0.0.11:2379" in response.body
        elif path in PUBLIC:
            assert response.code == 200, path
        else:
            assert_refused(response)
            assert b"no etcd answers at" in response.body, path
    with pytest.raises(StoreUnavailableError):
        server.store.state  # noqa: B018 - there is none
    server.store.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/openid/v1/jwks"), ("GET", "/.well-known/openid-configuration"), ("POST", TOKEN)],
)
def test_nothing_is_published_or_signed_with_keys_that_may_be_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """As in a replica that is cut off from the store that holds the keys for 301 s."""
    server = Aging(tmp_path / "data", monkeypatch)
    server.store.load()
    app, clock = server.app, server.backend.clock
    proof = clock.now
    app._shared = replace(app._shared, keyring_proof=lambda: proof)
    app._take(app._components)
    clock.now += KEYS_SECONDS
    assert server.send(method, path).code in (200, 201)
    before = server.counted()
    clock.now += 1
    assert_refused(server.send(method, path))
    assert server.counted() == before
    # Tokens that were signed before are verified as ever.
    assert b'"authenticated":true' in server.answer(server.post(server.review())).body
    server.store.close()


def test_a_change_of_which_nobody_knows_whether_it_was_made_is_not_made_again(
    server: Aging, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a cut when the commit has been sent, with a reader that is cut off too."""
    commits = 0

    def commit(expected: int, records: Sequence[Record]) -> int:
        nonlocal commits
        commits += 1
        raise OutcomeUnknownError("it is not known whether the change was made")

    monkeypatch.setattr(server.backend, "commit", commit)
    server.store.in_between = server.grow_old
    with caplog.at_level(logging.INFO):
        response = server.send("POST", "/v3/auth/user/add")
    assert commits == 1
    assert (response.code, json.loads(response.body)["code"]) == (503, 14)
    # Nothing invites the client to repeat it.
    assert b"retry-after" not in dict(response.headers)
    (line,) = traces(caplog)
    assert "'outcome': 'unknown'" in line
    assert "failed" not in line


def test_what_was_looked_up_is_not_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an answer that waits for an object would never be given while others write."""
    server = Aging(tmp_path / "data", monkeypatch)
    server.store.load()
    objects = Unseen()
    server.app._take(replace(server.app._components, objects=objects))
    server.app._components.authenticator._objects = objects

    def in_between(_number: int) -> None:
        server.store.in_between = lambda _number: None
        server.store.change(changes.add_user, "somebody")

    server.store.in_between = in_between
    assert b'"authenticated":true' in server.answer(server.post(server.review())).body
    assert server.store.taken == 2
    assert objects.looked_up == 1
    server.store.close()


class Unseen(StillSource):
    """A source that has seen no object, and finds each where it is looked up."""

    def __init__(self) -> None:
        self.looked_up = 0

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        return Absence.UNSEEN

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:
        self.looked_up += 1
        return ObjectState(uid)
