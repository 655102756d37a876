"""Puts together what serves one configuration and one keyring, and reuses what has not changed.

Invariant: a request that began before a change, and uses an authenticator or a provider of auth
tokens that has been replaced, is answered with the current keys too.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from keys.errors import KeyScheduleError
from keys.jwk import jwks_document
from keys.keyring import Keyring
from webhook.assembly import authenticator_of, issuer_keys_of, policy_of, source_of
from webhook.config.model import Configuration
from webhook.errors import ConfigurationError
from webhook.kube.access_review import (
    AUTHORIZATION_GROUP,
    AUTHORIZATION_VERSIONS,
    SELF_KIND,
    SUBJECT_KIND,
    WHO_AM_I_KIND,
    message_of,
)
from webhook.kube.request_keys import ACCESS_REVIEWS_KEY, TOKEN_REVIEWS_KEY
from webhook.kube.token_review import AUTHENTICATION_GROUP, AUTHENTICATION_VERSIONS, MESSAGE
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import JWTTokens, NopTokens, TokenProvider
from webhook.rbac.simple_tokens import SimpleTokens, TokenUses
from webhook.server.flask.late import FlaskThreads, LateFlask
from webhook.server.request.caller import Callers
from webhook.server.request.key_proof import requirement_of_keys
from webhook.server.request.log import RequestLog
from webhook.server.request.message import Route
from webhook.server.request.verifier import TokenVerifier
from webhook.server.routes.access_reviews import AccessReviews
from webhook.server.routes.dispatch import Application, Review
from webhook.server.routes.documents import document_route, version_body
from webhook.server.routes.health import HealthCheck, health_routes
from webhook.server.routes.token_reviews import TokenReviews
from webhook.skew.snapshots import SkewFiles
from webhook.telemetry.metrics import Metrics
from webhook.token.authenticator import Authenticator
from webhook.token.bound_objects import ObjectSource
from webhook.token.issuer import (
    CONFIGURATION_PATH,
    JWKS_CONTENT_TYPE,
    JWKS_PATH,
    MAX_AGE_SECONDS,
    openid_configuration,
)
from webhook.trusted_issuers.issuer_keys import IssuerKeys, all_done

if TYPE_CHECKING:
    from webhook.server.flask.app import FlaskApp


READY_SECONDS: Final = 10.0
"""How long a new source of objects or of keys may take until it is used."""
_POLL_SECONDS: Final = 0.1
_AT_RESTART: Final = {
    "server.bind": "server.bind",
    "server.workers": "server.workers",
    "server.log_format": "server.logFormat",
    "server.log_level": "server.logLevel",
    "store.sqlite": "store.sqlite",
    "store.etcd": "store.etcd",
    "keys.store": "keys.store",
    "keys.encryption_key_files": "keys.encryptionKeyFiles",
}


@dataclass(frozen=True, slots=True)
class SharedState:
    """What stays through every reload.

    ``uses`` are those of auth tokens; ``ask_for_own_keys`` has the folder of signing keys read, for
    a token with an unknown key; ``look_ups`` runs the look-ups of objects; ``store_problem``
    returns why nothing can be answered from the store, empty if it can; ``keyring_proof`` returns
    as of when the keyring was the newest one, see ``requirement_of_keys``.
    """

    store: AuthStore
    metrics: Metrics
    skew: SkewFiles
    log: RequestLog
    uses: TokenUses
    warnings: Callable[[], Iterable[HealthCheck]]
    ask_for_own_keys: Callable[[], Future[None]]
    look_ups: Executor
    flask_threads: FlaskThreads
    store_problem: Callable[[], str]
    keyring_proof: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Components:
    """What is replaced when the configuration or the keys change."""

    configuration: Configuration
    keyring: Keyring
    objects: ObjectSource | None
    issuer_keys: IssuerKeys
    authenticator: Authenticator
    tokens: TokenProvider


class Startable(Protocol):
    """Something that runs in the background."""

    def start(self) -> None:
        """Begin."""

    def close(self) -> None:
        """End."""


class Background(Startable, Protocol):
    """A component that runs in the background."""

    def problem(self) -> str:
        """Return why it is not ready, empty if it is."""


class ComponentMaker:
    """Makes components from a data directory and the shared state."""

    def __init__(self, data_dir: Path, shared: SharedState) -> None:
        self._data_dir = data_dir
        self._shared = shared
        # Each that a request may still be using, and our issuer in its configuration.
        self._authenticators: WeakKeyDictionary[Authenticator, str] = WeakKeyDictionary()
        self._jwt_tokens: WeakSet[JWTTokens] = WeakSet()

    def make(self, configuration: Configuration, keyring: Keyring) -> Components:
        """Make all of them."""
        objects = source_of(self._data_dir, configuration)
        issuer_keys = self._issuer_keys(configuration)
        authenticator = self._authenticator(configuration, keyring, objects, issuer_keys)
        tokens = self._tokens(configuration, keyring)
        return Components(configuration, keyring, objects, issuer_keys, authenticator, tokens)

    def remake(self, old: Components, configuration: Configuration, keyring: Keyring) -> Components:
        """Make those that another configuration changes; see ``use_keys`` for another keyring."""
        same = {
            name
            for name in configuration.__struct_fields__
            if getattr(old.configuration, name) == getattr(configuration, name)
        }
        objects, issuer_keys = old.objects, old.issuer_keys
        authenticator, tokens = old.authenticator, old.tokens
        if "objects" not in same:
            objects = source_of(self._data_dir, configuration)
        if not {"trusted_issuers", "audiences", "leeway"} <= same:
            issuer_keys = self._issuer_keys(configuration)
        if not {"issuer", "objects", "trusted_issuers", "audiences", "leeway"} <= same:
            authenticator = self._authenticator(configuration, keyring, objects, issuer_keys)
        if not {"issuer", "auth"} <= same:
            tokens = self._tokens(configuration, keyring)
        return Components(configuration, keyring, objects, issuer_keys, authenticator, tokens)

    def use_keys(self, keyring: Keyring) -> None:
        """Verify with the keys of a keyring, also in what a waiting request still uses."""
        for authenticator, issuer in list(self._authenticators.items()):
            authenticator.replace_keys(issuer, keyring.verification_keys())
        for tokens in list(self._jwt_tokens):
            tokens.use_keyring(keyring)

    def _tokens(self, configuration: Configuration, keyring: Keyring) -> TokenProvider:
        auth, store = configuration.auth, self._shared.store
        if auth.token_provider == "none":
            return NopTokens()
        if auth.token_provider != "jwt":
            return SimpleTokens(store, self._shared.uses, auth.auth_token_ttl)
        made = JWTTokens(store, keyring, configuration.issuer, auth.auth_token_ttl)
        self._jwt_tokens.add(made)
        return made

    def _issuer_keys(self, configuration: Configuration) -> IssuerKeys:
        report = self._shared.metrics.report_issuer_keys
        return issuer_keys_of(self._data_dir, configuration, report)

    def _authenticator(
        self,
        configuration: Configuration,
        keyring: Keyring,
        objects: ObjectSource | None,
        issuer_keys: IssuerKeys,
    ) -> Authenticator:
        made = authenticator_of(
            self._data_dir,
            configuration,
            keyring,
            objects=objects,
            issuer_keys=issuer_keys,
            skew=self._shared.skew.tracker,
        )
        self._authenticators[made] = configuration.issuer
        return made


class _NewerKeys:
    def __init__(self, own: str, ask_for_own: Callable[[], Future[None]], others: IssuerKeys):
        self._own = own
        self._ask_for_own = ask_for_own
        self._others = others

    def request_refresh(self, issuer: str) -> Future[None] | None:
        others = self._others.request_refresh(issuer)
        if issuer != self._own:
            return others
        own = self._ask_for_own()
        return own if others is None else all_done([own, others])


def compose(shared: SharedState, components: Components) -> Application:
    """Make the application that uses these components."""
    configuration, objects = components.configuration, components.objects
    store, metrics, log = shared.store, shared.metrics, shared.log
    limit = configuration.server.max_body_bytes
    newer_keys = _NewerKeys(configuration.issuer, shared.ask_for_own_keys, components.issuer_keys)
    verifier = TokenVerifier(components.authenticator, time, objects, newer_keys, shared.look_ups)
    audiences = configuration.audiences
    etcd = configuration.store.etcd
    callers = Callers(
        store,
        components.tokens,
        verifier,
        configuration.issuer,
        audiences,
        time,
        is_strict=etcd is not None and etcd.consistency == "strict",
    )
    prefix = configuration.mapping.role_group_prefix
    allow_root = configuration.authorizer.allow_root
    reviews = AccessReviews(store, callers, metrics, log, allow_root)
    table = {
        f"/apis/{AUTHENTICATION_GROUP}/v1/selfsubjectreviews": Review(
            reviews.who_am_i, message=message_of(WHO_AM_I_KIND, "v1")
        ),
        f"/apis/{AUTHORIZATION_GROUP}/v1/selfsubjectaccessreviews": Review(
            reviews.self_subject, message=message_of(SELF_KIND, "v1")
        ),
        "/apis/leeway.dev/v1/rangeaccessreviews": Review(reviews.ranges, ACCESS_REVIEWS_KEY),
    }
    for version in AUTHENTICATION_VERSIONS:
        tokens = TokenReviews(version, verifier, callers, prefix, metrics, log)
        path = f"/apis/{AUTHENTICATION_GROUP}/{version}/tokenreviews"
        table[path] = Review(tokens.review, TOKEN_REVIEWS_KEY, MESSAGE)
    for version in AUTHORIZATION_VERSIONS:
        table[f"/apis/{AUTHORIZATION_GROUP}/{version}/subjectaccessreviews"] = Review(
            partial(reviews.subject, version),
            ACCESS_REVIEWS_KEY,
            message_of(SUBJECT_KIND, version),
        )
    make = partial(_flask, shared, components, callers)
    flask = LateFlask(make, shared.flask_threads)
    public = _public_routes(components, shared)
    return Application(public, table, flask, callers, log, limit)


def _flask(shared: SharedState, components: Components, callers: Callers) -> "FlaskApp":
    # Imported here for the reason in late.py.
    from webhook.rbac.passwords import Passwords
    from webhook.server.flask.app import create_flask_app
    from webhook.server.flask.auth_api import AuthAPI
    from webhook.server.flask.token_requests import TokenRequests

    configuration, metrics = components.configuration, shared.metrics
    passwords = Passwords(configuration.auth.bcrypt_cost, cores_of_a_worker(configuration))
    require_keys = requirement_of_keys(shared.keyring_proof, shared.store.now)
    is_signing = configuration.auth.token_provider == "jwt"
    auth = AuthAPI(
        shared.store,
        callers,
        passwords,
        components.tokens,
        time,
        require_keys if is_signing else lambda: None,
    )
    policy, expiry = policy_of(configuration), configuration.leeway.expiry
    requests = TokenRequests(
        callers,
        policy,
        components.keyring,
        require_keys,
        components.objects,
        expiry,
        metrics,
        time,
    )
    return create_flask_app(metrics, auth, callers, requests, shared.skew, shared.log)


def cores_of_a_worker(configuration: Configuration) -> int:
    """Return the number of cores for each worker, at least one."""
    return max(1, (os.cpu_count() or 1) // configuration.server.workers)


def _public_routes(components: Components, shared: SharedState) -> dict[str, Route]:
    configuration, keyring = components.configuration, components.keyring
    published = keyring.published_keys()
    issuer, jwks_uri = configuration.issuer, configuration.jwks_uri
    openid = openid_configuration(issuer, jwks_uri, published)
    checks: list[HealthCheck] = [("ping", lambda: "")]
    ready = [
        *checks,
        ("store", shared.store_problem),
        ("signing-key", lambda: _signing_problem(keyring)),
        ("issuer-keys", components.issuer_keys.problem),
    ]
    warnings = [*shared.warnings(), ("issuer-keys", components.issuer_keys.warning)]
    if components.objects is not None:
        ready.append(("objects", components.objects.problem))
        warnings.append(("objects", components.objects.warning))
    version = document_route(version_body(), "application/json")
    publish = partial(
        document_route,
        max_age=MAX_AGE_SECONDS,
        require=requirement_of_keys(shared.keyring_proof, shared.store.now),
    )
    return {
        CONFIGURATION_PATH: publish(openid, "application/json"),
        JWKS_PATH: publish(jwks_document(published), JWKS_CONTENT_TYPE),
        "/version": version,
        "/version/": version,
        **health_routes("livez", checks),
        **health_routes("readyz", ready, warnings),
        **health_routes("healthz", ready, warnings),
    }


def _signing_problem(keyring: Keyring) -> str:
    try:
        keyring.signing_key()
    except KeyScheduleError as error:
        return str(error)
    return ""


def differences(
    old: Components, new: Components
) -> list[tuple[Background | None, Background | None]]:
    """Return the background components that differ, the old and the new one of each."""
    pairs = ((old.objects, new.objects), (old.issuer_keys, new.issuer_keys))
    return [pair for pair in pairs if pair[0] is not pair[1]]


def waiting_for_restart(running: Configuration, wanted: Configuration) -> str:
    """Return which changes of a configuration need a restart; empty if there are none."""
    waiting = [
        name
        for path, name in _AT_RESTART.items()
        if attrgetter(path)(running) != attrgetter(path)(wanted)
    ]
    return f"{' and '.join(waiting)} will change with a restart" if waiting else ""


@contextmanager
def started(components: list[Background]) -> Iterator[None]:
    """Start components and wait until they are ready; close all if that, or what follows, fails.

    Raises ConfigurationError where they are not ready in time.
    """
    try:
        for part in components:
            part.start()
        deadline = monotonic() + READY_SECONDS
        while problems := [problem for part in components if (problem := part.problem())]:
            if monotonic() > deadline:
                raise ConfigurationError(
                    f"not ready within {READY_SECONDS:g}s: {'; '.join(problems)}"
                )
            sleep(_POLL_SECONDS)
        yield
    except BaseException:
        for part in components:
            part.close()
        raise
