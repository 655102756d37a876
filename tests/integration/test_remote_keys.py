"""Keys that are fetched, while tokens are verified: bad input 40."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NoReturn

import pytest

from keys.jwk import jwks_document
from keys.jws import SigningKey
from tests.issuer_server import JWKS_PATH, Behaviour, IssuerServer, answer, issuer_server
from tests.memory_backend import MemoryBackend
from tests.support import (
    AUDIENCE,
    LEEWAY,
    NOW,
    assert_within,
    good_claims,
    header_of,
    signing_key,
    token_of,
    wait_until,
)
from tests.unit.webhook.server.caller_parts import request_on
from webhook.errors import Reason
from webhook.https_url import parse_https_url
from webhook.kube.token_review import identity_of
from webhook.rbac.auth_store import AuthStore
from webhook.server.request.message import settled
from webhook.server.request.verifier import KEYS_SECONDS, TokenVerifier
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.token.outcome import Authenticated, Outcome, Refused
from webhook.trusted_issuers.fetching import KeyLocation
from webhook.trusted_issuers.issuer_keys import IssuerKeys
from webhook.trusted_issuers.remote import RemoteKeys

OLD, NEW = signing_key("ES256", "old"), signing_key("ES256", "new")


class Clock:
    """A monotonic clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server(tmp_path: Path) -> Iterator[IssuerServer]:
    with issuer_server(tmp_path) as served:
        served.publish(OLD)
        yield served


@pytest.fixture
def clock() -> Clock:
    return Clock()


STORE = AuthStore.loaded(MemoryBackend())


class Parts:
    """One remote issuer with all its parts of a server."""

    def __init__(self, server: IssuerServer, clock: Callable[[], float], issuer: str = "") -> None:
        self.issuer = TrustedIssuer(issuer or server.url, [AUDIENCE], ())
        self.reports: list[tuple[str, bool]] = []
        location = KeyLocation(
            self.issuer.url, parse_https_url(server.jwks_url), ca_file=server.ca_file
        )
        self.keys = RemoteKeys(
            self.issuer, location.fetch, lambda *report: self.reports.append(report), clock
        )
        self.all = IssuerKeys([self.keys])
        self.authenticator = Authenticator(self.all.issuers, LEEWAY)

    async def review(self, token: str, now: float = NOW) -> Outcome:
        verifier = TokenVerifier(self.authenticator, lambda: now, issuer_keys=self.all)
        return await settled(verifier.authenticate(token, [AUDIENCE], request_on(STORE)))

    def review_now(self, token: str) -> Outcome:
        return asyncio.run(self.review(token))

    def token(self, key: SigningKey = OLD, kid: str | None = "") -> str:
        header = header_of(key) if kid == "" else header_of(key, kid=kid)
        return token_of(good_claims(iss=self.issuer.url), key, header)


@pytest.fixture
def parts(server: IssuerServer, clock: Clock) -> Iterator[Parts]:
    made = Parts(server, clock)
    yield made
    made.all.close()


def unknown_key(outcome: Outcome) -> str:
    assert isinstance(outcome, Refused)
    assert outcome.error.reason is Reason.UNKNOWN_KEY
    assert outcome.error.is_ours
    return str(outcome.error)


def test_a_token_waits_for_the_first_fetch(server: IssuerServer, parts: Parts) -> None:
    assert "have not been fetched yet" in parts.all.problem()
    parts.all.start()
    assert isinstance(parts.review_now(parts.token()), Authenticated)
    assert parts.all.problem() == parts.all.warning() == ""
    assert server.asked() == 1
    wait_until(lambda: parts.reports == [(server.url, False)])


@pytest.mark.bad_input(40)
def test_a_new_key_works_with_its_first_token(
    server: IssuerServer, parts: Parts, clock: Clock
) -> None:
    parts.all.start()
    assert isinstance(parts.review_now(parts.token()), Authenticated)
    server.publish(OLD, NEW)
    clock.now += 30
    assert isinstance(parts.review_now(parts.token(NEW)), Authenticated)
    assert isinstance(parts.review_now(parts.token(OLD)), Authenticated)
    assert server.asked() == 2


@pytest.mark.bad_input(38)
@pytest.mark.fault(4)
def test_skipped_keys_are_logged_once(
    server: IssuerServer, parts: Parts, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    document = json.loads(jwks_document([OLD.verification_key]))
    document["keys"].append({"kty": "AKP", "alg": "ML-DSA-65", "kid": "pq", "pub": "AAAA"})
    server.serve(JWKS_PATH, json.dumps(document).encode())
    parts.all.start()
    for _ in range(3):
        assert unknown_key(parts.review_now(parts.token(NEW)))
        clock.now += 30
    wait_until(lambda: server.asked() >= 3)
    assert isinstance(parts.review_now(parts.token()), Authenticated)
    wait_until(lambda: "are skipped" in caplog.text)
    assert caplog.text.count("are skipped: key 1 ('pq'): its \"kty\" is 'AKP'") == 1
    assert parts.all.warning() == parts.all.problem() == ""


@pytest.mark.fault(5)
def test_all_entries_of_an_issuer_are_tried(
    server: IssuerServer, clock: Clock, tmp_path: Path
) -> None:
    (tmp_path / "another").mkdir()
    with issuer_server(tmp_path / "another") as another:
        another.publish(NEW)
        first = Parts(server, clock)
        second = Parts(another, clock, server.url)
        for part in (first, second):
            part.issuer.is_foreign = True
        first.all = IssuerKeys([first.keys, second.keys])
        first.authenticator = Authenticator(first.all.issuers, LEEWAY)
        first.all.start()
        try:
            assert isinstance(first.review_now(first.token(NEW)), Authenticated)
            assert isinstance(first.review_now(first.token(OLD)), Authenticated)
            wait_until(lambda: len(first.reports) == len(second.reports) == 1)
            # A key set that gives another entry's kid to another key changes nothing.
            document = jwks_document([signing_key("ES256", "third").verification_key])
            third = signing_key("ES256", "third").verification_key.kid.encode()
            another.serve(JWKS_PATH, document.replace(third, OLD.verification_key.kid.encode()))
            clock.now += 30
            assert unknown_key(first.review_now(first.token(signing_key("ES256", "third"))))
            wait_until(lambda: second.reports[-1] == (server.url, True))
            assert "names a different key" in first.all.warning()
            assert isinstance(first.review_now(first.token(NEW)), Authenticated)
        finally:
            first.all.close()


@pytest.mark.bad_input(40)
def test_unknown_kids_cause_one_fetch_in_30_seconds(
    server: IssuerServer, parts: Parts, clock: Clock
) -> None:
    parts.all.start()
    assert isinstance(parts.review_now(parts.token()), Authenticated)
    tokens = [parts.token(NEW, f"kid-{number}") for number in range(1000)]

    async def flood() -> list[Outcome]:
        return await asyncio.gather(*map(parts.review, tokens))

    for moment, fetches in ((0, 1), (29.9, 1), (30, 2), (59.9, 2), (60, 3)):
        clock.now = 1000 + moment
        for outcome in asyncio.run(flood()):
            assert "is not one of the 1 keys" in unknown_key(outcome)
        assert server.asked() == fetches
        assert isinstance(parts.review_now(parts.token()), Authenticated)


def test_tokens_without_or_with_a_wrong_kid_cause_no_fetch(
    server: IssuerServer, parts: Parts, clock: Clock
) -> None:
    parts.all.start()
    assert isinstance(parts.review_now(parts.token()), Authenticated)
    clock.now += 100
    forged = parts.token(NEW, OLD.verification_key.kid)
    for token in (parts.token(NEW, None), forged, parts.token(signing_key("RS256"), None)):
        assert isinstance(parts.review_now(token), Refused)
    foreign = token_of(good_claims(iss="https://other.example"), NEW)
    assert isinstance(parts.review_now(foreign), Refused)
    assert server.asked() == 1


def test_a_token_does_not_wait_for_long(server: IssuerServer, parts: Parts, clock: Clock) -> None:
    parts.all.start()
    assert isinstance(parts.review_now(parts.token()), Authenticated)
    clock.now += 30
    behave = server.behaviours[JWKS_PATH]

    def slow(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(KEYS_SECONDS + 1)
        behave(handler)

    server.behaviours[JWKS_PATH] = slow

    async def both() -> tuple[Outcome, Outcome, float]:
        waiting = asyncio.create_task(parts.review(parts.token(NEW)))
        await asyncio.sleep(0)
        started = time.monotonic()
        other = await parts.review(parts.token())
        assert not waiting.done()
        outcome = await waiting
        return outcome, other, time.monotonic() - started

    refused, accepted, seconds = asyncio.run(both())
    assert isinstance(accepted, Authenticated)
    unknown_key(refused)
    assert_within(seconds, KEYS_SECONDS + 0.5)


def test_a_withdrawn_key_stops_verifying(server: IssuerServer, parts: Parts) -> None:
    server.publish(OLD, NEW)
    parts.keys.fetch_now()
    for key in (OLD, NEW):
        assert isinstance(parts.review_now(parts.token(key)), Authenticated)
    server.publish(NEW)
    kept = parts.issuer.keys[NEW.verification_key.kid]
    parts.keys.fetch_now()
    assert "not one of the 1 keys" in unknown_key(parts.review_now(parts.token(OLD)))
    assert isinstance(parts.review_now(parts.token(NEW)), Authenticated)
    # Tokens that it has verified are still cached.
    assert parts.issuer.keys[NEW.verification_key.kid] is kept


def test_keys_are_fetched_again_when_they_are_due(server: IssuerServer, clock: Clock) -> None:
    server.publish(OLD, max_age=600)
    parts = Parts(server, lambda: clock.now)
    parts.keys.fetch_now()
    clock.now += 599
    parts.all.start()
    assert isinstance(parts.review_now(parts.token()), Authenticated)
    assert server.asked() == 1
    clock.now += 1
    # The thread sleeps by the real clock: wake it.
    parts.all.close()
    parts = Parts(server, lambda: clock.now)
    parts.all.start()
    wait_until(lambda: server.asked() == 2)
    parts.all.close()


WRONG = [
    pytest.param(answer(b"", 500), "answered 500", id="500"),
    pytest.param(answer(b'{"keys": [{"kty": "oct", "k": "YQ"}]}'), "symmetric", id="symmetric"),
    pytest.param(answer(b"", 302, {"Location": "http://x"}), "redirects", id="redirect"),
]


@pytest.mark.bad_input(40)
@pytest.mark.parametrize(("behaviour", "why"), WRONG)
def test_old_keys_are_kept_for_a_day(
    server: IssuerServer,
    parts: Parts,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    behaviour: Behaviour,
    why: str,
) -> None:
    parts.keys.fetch_now()
    server.behaviours[JWKS_PATH] = behaviour
    clock.now += 24 * 3600 - 1
    parts.keys.fetch_now()
    assert parts.all.problem() == ""
    assert why in parts.all.warning()
    assert parts.all.warning().endswith("the 1 previous ones stay in use")
    assert parts.all.broken_files() == "", "a restart would not fail for it"
    assert isinstance(parts.review_now(parts.token()), Authenticated)
    clock.now += 1
    parts.keys.fetch_now()
    text = unknown_key(parts.review_now(parts.token()))
    assert why in text
    assert "older than 24h" in text
    assert parts.all.problem() == ""
    server.publish(NEW)
    with caplog.at_level(logging.INFO, "leeway"):
        parts.keys.fetch_now()
    assert f"1 keys of issuer {server.url} were fetched" in caplog.text
    assert parts.all.warning() == ""
    assert isinstance(parts.review_now(parts.token(NEW)), Authenticated)
    assert [failing for _, failing in parts.reports] == [False, True, True, False]


def test_an_issuer_that_is_unreachable_at_first(
    server: IssuerServer, parts: Parts, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "leeway")
    server.behaviours[JWKS_PATH] = answer(b"", 503)
    parts.all.start()
    # The log follows the attempt.
    wait_until(lambda: "the next attempt is in 5s" in caplog.text)
    assert "answered 503" in parts.all.problem()
    for token in (parts.token(), parts.token(NEW, None)):
        text = unknown_key(parts.review_now(token))
        assert "invalid signature, no keys found: the keys of issuer " in text
        assert "could not be fetched" in text
        assert "answered 503" in text
    assert server.asked() == 1
    server.publish(OLD)
    clock.now += 30
    assert isinstance(parts.review_now(parts.token()), Authenticated)
    assert parts.all.problem() == ""
    assert [r.levelname for r in caplog.records if r.name == "leeway"] == ["WARNING", "INFO"]


def test_a_closed_source_fetches_nothing(parts: Parts, clock: Clock) -> None:
    parts.all.start()
    assert isinstance(parts.review_now(parts.token()), Authenticated)
    parts.all.close()
    clock.now += 30
    assert parts.all.request_refresh(parts.issuer.url) is None
    assert parts.all.request_refresh("https://other.example") is None


def test_a_defect_does_not_end_the_thread(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    issuer = TrustedIssuer("https://a.example", [AUDIENCE], ())

    def fetch() -> NoReturn:
        raise ZeroDivisionError

    keys = RemoteKeys(issuer, fetch, lambda *_: None, clock)
    keys.fetch_now()
    assert "internal error" in keys.problem()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("name", ["default", "audience_vault"])
def test_a_cluster_by_its_own_key_set(
    vectors: Path, server: IssuerServer, clock: Clock, name: str
) -> None:
    folder = vectors / "kubernetes"
    recorded = json.loads((folder / "tokens.json").read_bytes())
    server.serve(JWKS_PATH, (folder / "jwks.json").read_bytes())
    # Only Pods can resolve the name of the cluster's issuer.
    parts = Parts(server, clock, "https://kubernetes.default.svc")
    parts.all.start()
    verifier = TokenVerifier(
        parts.authenticator, lambda: recorded["now_unix"], issuer_keys=parts.all
    )
    audience = "vault" if name == "audience_vault" else AUDIENCE
    outcome = asyncio.run(
        settled(verifier.authenticate(recorded["tokens"][name], [audience], request_on(STORE)))
    )
    parts.all.close()
    assert isinstance(outcome, Authenticated)
    assert identity_of(outcome).username == "system:serviceaccount:argo-run:loofah"


def test_a_cluster_whose_discovery_names_another_server(
    vectors: Path, server: IssuerServer
) -> None:
    document = (vectors / "kubernetes" / "openid-configuration.json").read_bytes()
    members = json.loads(document) | {"jwks_uri": server.jwks_url}
    server.serve("/.well-known/openid-configuration", json.dumps(members).encode())
    server.serve(JWKS_PATH, (vectors / "kubernetes" / "jwks.json").read_bytes())
    location = KeyLocation(
        "https://kubernetes.default.svc",
        parse_https_url(server.discovery_url),
        is_discovery=True,
        ca_file=server.ca_file,
    )
    (key,) = location.fetch().keys
    assert key.kid == "uR9R5Q5btby0LpRUi2GYb-hFNTKvNhy1uGO2pPi6mW4"
