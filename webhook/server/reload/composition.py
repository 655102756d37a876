"""The routes of one configuration and one keyring, put together."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from time import time
from typing import TYPE_CHECKING

from keys.errors import KeyScheduleError
from keys.jwk import jwks_document
from keys.keyring import Keyring
from webhook.assembly import policy_of
from webhook.config.model import Configuration
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
from webhook.rbac.auth_tokens import JWTTokens, NopTokens, SimpleTokens, TokenProvider, TokenUses
from webhook.server.flask.late import LateFlask, Threads
from webhook.server.request.caller import Callers
from webhook.server.request.fair_queue import FairQueue
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


@dataclass(frozen=True, slots=True)
class Lasting:
    """What stays through every reload.

    ``uses`` are those of auth tokens; ``ask_for_own_keys`` has the folder of signing keys looked
    at, for a token with a key that is not known; ``look_ups`` runs the look-ups of objects;
    ``log_ins`` is the queue of log-ins; ``store_problem`` returns why nothing can be
    answered from the store, empty where it can.
    """

    store: AuthStore
    metrics: Metrics
    skew: SkewFiles
    log: RequestLog
    uses: TokenUses
    warnings: Callable[[], Iterable[HealthCheck]]
    ask_for_own_keys: Callable[[], Future[None]]
    look_ups: Executor
    log_ins: FairQueue
    flask_threads: Threads
    store_problem: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Parts:
    """What is made again where the configuration or the keys say so."""

    configuration: Configuration
    keyring: Keyring
    objects: ObjectSource | None
    issuer_keys: IssuerKeys
    authenticator: Authenticator
    tokens: TokenProvider


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


def compose(lasting: Lasting, parts: Parts) -> Application:
    """Make the application that answers by these parts."""
    configuration, objects = parts.configuration, parts.objects
    store, metrics, log = lasting.store, lasting.metrics, lasting.log
    limit = configuration.server.max_body_bytes
    newer_keys = _NewerKeys(configuration.issuer, lasting.ask_for_own_keys, parts.issuer_keys)
    verifier = TokenVerifier(parts.authenticator, time, objects, newer_keys, lasting.look_ups)
    audiences = configuration.audiences
    callers = Callers(store, parts.tokens, verifier, configuration.issuer, audiences, time)
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
        tokens = TokenReviews(version, verifier, store, prefix, metrics, log)
        path = f"/apis/{AUTHENTICATION_GROUP}/{version}/tokenreviews"
        table[path] = Review(tokens.review, TOKEN_REVIEWS_KEY, MESSAGE)
    for version in AUTHORIZATION_VERSIONS:
        table[f"/apis/{AUTHORIZATION_GROUP}/{version}/subjectaccessreviews"] = Review(
            partial(reviews.subject, version),
            ACCESS_REVIEWS_KEY,
            message_of(SUBJECT_KIND, version),
        )
    make = partial(_flask, lasting, parts, callers)
    flask = LateFlask(make, lasting.log_ins, lasting.flask_threads)
    public = _public_routes(parts, lasting)
    return Application(public, table, flask, callers, log, limit)


def _flask(lasting: Lasting, parts: Parts, callers: Callers) -> "FlaskApp":
    # Imported here: LateFlask says why.
    from webhook.rbac.passwords import Passwords
    from webhook.server.flask.app import create_flask_app
    from webhook.server.flask.auth_api import AuthAPI
    from webhook.server.flask.token_requests import TokenRequests

    configuration, metrics = parts.configuration, lasting.metrics
    passwords = Passwords(configuration.auth.bcrypt_cost, cores_of_a_worker(configuration))
    auth = AuthAPI(lasting.store, passwords, parts.tokens, time)
    policy, expiry = policy_of(configuration), configuration.leeway.expiry
    requests = TokenRequests(callers, policy, parts.keyring, parts.objects, expiry, metrics, time)
    return create_flask_app(metrics, auth, callers, requests, lasting.skew, lasting.log)


def cores_of_a_worker(configuration: Configuration) -> int:
    """Return how many cores each worker has for itself, at least one."""
    return max(1, (os.cpu_count() or 1) // configuration.server.workers)


def token_provider(
    configuration: Configuration, store: AuthStore, keyring: Keyring, uses: TokenUses
) -> TokenProvider:
    """Make the provider of auth tokens that a configuration chooses."""
    ttl = configuration.auth.auth_token_ttl
    if configuration.auth.token_provider == "jwt":
        return JWTTokens(store, keyring, configuration.issuer, ttl)
    if configuration.auth.token_provider == "none":
        return NopTokens()
    return SimpleTokens(store, uses, ttl)


def _public_routes(parts: Parts, lasting: Lasting) -> dict[str, Route]:
    configuration, keyring = parts.configuration, parts.keyring
    published = keyring.published_keys()
    max_age = MAX_AGE_SECONDS
    issuer, jwks_uri = configuration.issuer, configuration.jwks_uri
    openid = openid_configuration(issuer, jwks_uri, published)
    checks: list[HealthCheck] = [("ping", lambda: "")]
    ready = [
        *checks,
        ("store", lasting.store_problem),
        ("signing-key", lambda: _signing_problem(keyring)),
        ("issuer-keys", parts.issuer_keys.problem),
    ]
    warnings = [*lasting.warnings(), ("issuer-keys", parts.issuer_keys.warning)]
    if parts.objects is not None:
        ready.append(("objects", parts.objects.problem))
        warnings.append(("objects", parts.objects.warning))
    version = document_route(version_body(), "application/json")
    return {
        CONFIGURATION_PATH: document_route(openid, "application/json", max_age=max_age),
        JWKS_PATH: document_route(jwks_document(published), JWKS_CONTENT_TYPE, max_age=max_age),
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
