"""Who a request comes from: by certificate, by service account token, by auth token."""

import asyncio
import gc
import json
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta

import bcrypt
import msgspec
import pytest

from keys.jws import sign
from keys.keyring import Keyring
from tests.support import (
    AUDIENCE,
    ISSUER,
    LEEWAY,
    NOW,
    assert_token_not_in,
    good_claims,
    signing_key,
    token_of,
)
from tests.unit.webhook.server.caller_parts import (
    FOREIGN_ISSUER,
    GROUPS,
    KEY,
    SERVICE_ACCOUNT,
    START,
    SUBJECT,
    Parts,
    request_of,
    request_on,
)
from webhook.errors import Reason
from webhook.rbac import changes
from webhook.rbac.auth_tokens import AUTH_TOKEN_TYPE, JWTTokens
from webhook.rbac.basis import Basis
from webhook.rbac.errors import (
    AuthError,
    AuthFailedError,
    InvalidAuthTokenError,
    PermissionDeniedError,
)
from webhook.rbac.model import Permission, PermissionType
from webhook.rbac.passwords import Passwords
from webhook.rbac.records import AuthMeta, meta_record
from webhook.rbac.state import AuthState
from webhook.server.flask.auth_api import AuthAPI
from webhook.server.request.caller import NOBODY, Callers, require_identity
from webhook.server.request.message import Caller, RequestError, settled
from webhook.server.request.verifier import TokenVerifier
from webhook.telemetry.log_lines import Fields
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.token.outcome import Refused


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.mark.parametrize("audiences", [[AUDIENCE], [ISSUER], ["vault", ISSUER]])
@pytest.mark.parametrize("prefix", ["Bearer ", "bearer ", "BEARER ", ""])
def test_a_service_account(parts: Parts, audiences: list[str], prefix: str) -> None:
    token = token_of(good_claims(aud=audiences))
    assert parts.find(request_of(prefix + token)) == SERVICE_ACCOUNT


def test_the_user_of_an_auth_token(parts: Parts) -> None:
    token = parts.log_in("alice")
    for value in (token, f"Bearer {token}"):
        assert parts.find(request_of(value)) == Caller("alice", by_token=True)


@pytest.mark.parametrize("values", [(), ("",), ("  ",)])
def test_nobody(parts: Parts, values: tuple[str, ...]) -> None:
    assert parts.find(request_of(*values)) is None
    with pytest.raises(RequestError, match="no identity"):
        require_identity(parts.find(request_of(*values)))


def foreign() -> str:
    return token_of(good_claims(iss=FOREIGN_ISSUER), signing_key("ES256"))


REFUSED: list[tuple[str, Callable[[], str], tuple[str, ...]]] = [
    (
        "audience",
        lambda: token_of(good_claims(aud=["vault"])),
        ("audiences", "vault", AUDIENCE, ISSUER),
    ),
    (
        "expired",
        lambda: token_of(good_claims(exp=int(NOW) - 61)),
        ("token has expired", "61s", "leeway 60s"),
    ),
    (
        "not yet valid",
        lambda: token_of(good_claims(nbf=int(NOW) + 92)),
        ("not valid yet", "nbf is 92s ahead", "32s short"),
    ),
    (
        "issued in the future",
        lambda: token_of(good_claims(iat=int(NOW) + 92)),
        ("iat is 92s ahead", "32s short"),
    ),
    ("of a trusted issuer", foreign, (FOREIGN_ISSUER, "open nothing here", ISSUER)),
    (
        "of our issuer, signed elsewhere",
        lambda: token_of(good_claims(), signing_key("ES384")),
        (ISSUER, "another system signed", "open nothing here"),
    ),
    (
        "of an unknown issuer",
        lambda: token_of(good_claims(iss="https://nobody.example")),
        ("invalid auth token",),
    ),
    (
        "signed by another key",
        lambda: token_of(good_claims(), signing_key("RS256", "another")),
        ("no keys found",),
    ),
    ("of no kind", lambda: "abc.def", ("invalid auth token",)),
    ("of latin-1", lambda: "gr\u00fc\u00dfe", ("`Bearer TOKEN`",)),
    ("with a space", lambda: f"x {token_of(good_claims())}", ("`Bearer TOKEN`",)),
]


@pytest.mark.parametrize(
    ("make", "words"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_tokens_that_are_refused(
    parts: Parts, make: Callable[[], str], words: tuple[str, ...]
) -> None:
    token = make()
    with pytest.raises(RequestError) as raised:
        parts.find(request_of(f"Bearer {token}"))
    assert raised.value.code == 401
    assert [name for name, _ in raised.value.headers] == [b"www-authenticate"]
    for word in words:
        assert word in str(raised.value)
    assert_token_not_in(token, str(raised.value))


def test_two_authorization_headers_are_refused(parts: Parts) -> None:
    good = f"Bearer {token_of(good_claims())}"
    for other in (good, "Bearer x", ""):
        with pytest.raises(RequestError, match="two Authorization headers") as raised:
            parts.find(request_of(good, other))
        assert raised.value.code == 401


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    "value",
    [
        "Bearer  {}",
        "Bearer\t{}",
        "Bearer {} x",
        "Bearer Bearer {}",
        "bearer  {}",
        "Token {}",
        "Basic {}",
        "Digest {}",
        "Bearer: {}",
        "Bearer,{}",
        'Bearer "{}"',
        "'{}'",
        "{} Bearer",
        "Bearer",
        "bearer",
        "Bearer Bearer",
        "Bearer \xff",
    ],
)
def test_a_header_of_another_form_is_refused_with_what_to_write(parts: Parts, value: str) -> None:
    token = parts.log_in("alice")
    with pytest.raises(RequestError) as raised:
        parts.find(request_of(value.format(token)))
    assert raised.value.code == 401
    assert dict(raised.value.headers)[b"www-authenticate"].startswith(b"Bearer")
    text = str(raised.value)
    assert "`Bearer TOKEN`" in text
    assert "one space" in text
    assert token not in text


@pytest.mark.fault(15)
@pytest.mark.parametrize("value", ["Bearer {}", "bearer {}", "BEARER {}", "{}", "  Bearer {}  "])
def test_a_token_after_bearer_or_bare(parts: Parts, value: str) -> None:
    caller = parts.find(request_of(value.format(parts.log_in("alice"))))
    assert caller is not None
    assert caller.username == "alice"


@pytest.mark.parametrize("authorization", [(), ("Bearer nonsense",), ("alice's",)])
def test_the_certificate_wins(parts: Parts, authorization: tuple[str, ...]) -> None:
    request = request_of(*authorization, certificate_of="bob")
    assert parts.find(request) == Caller("bob")


def test_a_certificate_that_has_expired_is_not_saved_by_a_token(parts: Parts) -> None:
    token = f"Bearer {token_of(good_claims())}"
    request = request_of(token, certificate_of="bob", start=START - timedelta(days=366))
    with pytest.raises(RequestError, match="not valid at this server's time"):
        parts.find(request)


def require(parts: Parts, caller: Caller | None) -> bool:
    assert caller is not None
    try:
        parts.callers.require(request_on(parts.store, caller=caller), KEY)
    except RequestError as error:
        return (error.code, caller.username in str(error)) != (403, True)
    return True


@pytest.mark.parametrize("group", ["", *GROUPS])
def test_what_a_service_account_may(parts: Parts, group: str) -> None:
    """By its own name or by any of its groups."""
    caller = parts.find(request_of(f"Bearer {token_of(good_claims())}"))
    assert not require(parts, caller)
    if group:
        parts.store.change(changes.grant_group_role, group, "reviewer")
    else:
        parts.store.change(changes.add_user, SUBJECT)
        parts.store.change(changes.grant_role, SUBJECT, "reviewer")
    assert require(parts, caller)


@pytest.mark.parametrize("group", ["system:serviceaccounts:other", "system:masters"])
def test_groups_of_others_give_a_service_account_nothing(parts: Parts, group: str) -> None:
    parts.store.change(changes.grant_group_role, group, "reviewer")
    assert not require(parts, SERVICE_ACCOUNT)


def test_what_a_certificate_may_follows_each_change(parts: Parts) -> None:
    store = parts.store
    alice = parts.find(request_of(certificate_of="alice"))
    granted = Permission(KEY, b"", PermissionType.WRITE)
    steps: list[tuple[Callable[[], None], bool]] = [
        (lambda: None, False),
        (lambda: store.change(changes.grant_role, "alice", "reviewer"), True),
        (lambda: store.change(changes.revoke_role, "alice", "reviewer"), False),
        (lambda: store.change(changes.grant_role, "alice", "reviewer"), True),
        (lambda: store.change(changes.revoke_permission, "reviewer", KEY, b""), False),
        (lambda: store.change(changes.grant_permission, "reviewer", granted), True),
        (lambda: store.change(changes.delete_role, "reviewer"), False),
        (lambda: store.change(changes.disable), True),
        (lambda: store.change(changes.enable), False),
    ]
    for change, allowed in steps:
        change()
        # Once to find out, once remembered.
        assert [require(parts, alice), require(parts, alice)] == [allowed, allowed]


def test_only_certificates_count_while_auth_is_disabled(parts: Parts) -> None:
    auth_token = parts.log_in("alice")
    parts.store.change(changes.disable)
    for token in (auth_token, token_of(good_claims()), "nonsense"):
        assert parts.find(request_of(f"Bearer {token}")) is None
    assert require(parts, parts.find(request_of(certificate_of="anybody")))


class NewerKeys:
    """Has a provider of auth tokens use another keyring when it is asked for newer keys."""

    def __init__(self, tokens: JWTTokens, keyring: Keyring) -> None:
        self.tokens = tokens
        self.keyring = keyring
        self.asked: list[str] = []

    def request_refresh(self, issuer: str) -> Future[None]:
        self.asked.append(issuer)
        self.tokens.use_keyring(self.keyring)
        done: Future[None] = Future()
        done.set_result(None)
        return done


@pytest.mark.parametrize("is_there", [True, False])
def test_an_auth_token_of_a_key_that_another_worker_has_already(
    parts: Parts, is_there: bool
) -> None:
    old = Keyring().with_new_key(signing_key("ES256"), 0)
    new = Keyring().with_new_key(signing_key("ES256", "another"), 0)
    tokens = JWTTokens(parts.store, old, ISSUER)
    newer_keys = NewerKeys(tokens, new if is_there else old)
    verifier = TokenVerifier(Authenticator([], LEEWAY), lambda: NOW, None, newer_keys)
    callers = Callers(parts.store, tokens, verifier, ISSUER, (AUDIENCE,), lambda: NOW)
    token = JWTTokens(parts.store, new, ISSUER).assign(parts.store.user("alice"), NOW)
    if is_there:
        found = asyncio.run(settled(callers.find(request_of(f"Bearer {token}"))))
        assert found == Caller("alice", by_token=True)
    else:
        with pytest.raises(RequestError, match="invalid auth token") as raised:
            asyncio.run(settled(callers.find(request_of(f"Bearer {token}"))))
        assert raised.value.code == 401
    assert newer_keys.asked == [ISSUER]
    tokens.use_keyring(old)
    subject = asyncio.run(callers.subject_of(token, request_on(parts.store)))
    assert isinstance(subject, Caller) is is_there
    assert newer_keys.asked == [ISSUER] * 2


def test_an_auth_token_that_is_refused_for_another_reason_asks_for_no_keys(parts: Parts) -> None:
    keyring = Keyring().with_new_key(signing_key("ES256"), 0)
    tokens = JWTTokens(parts.store, keyring, ISSUER)
    newer_keys = NewerKeys(tokens, keyring)
    verifier = TokenVerifier(Authenticator([], LEEWAY), lambda: NOW, None, newer_keys)
    callers = Callers(parts.store, tokens, verifier, ISSUER, (AUDIENCE,), lambda: NOW)
    good = tokens.assign(parts.store.user("alice"), NOW)
    old = tokens.assign(parts.store.user("alice"), NOW - 3600)
    header, payload, signature = good.split(".")
    for token in (old, f"{header}.{payload}.{'A' * len(signature)}", "x", foreign()):
        with pytest.raises(RequestError, match="invalid auth token"):
            asyncio.run(settled(callers.find(request_of(f"Bearer {token}"))))
    assert not newer_keys.asked


def unheard(action: str, outcome: str, fields: Fields) -> None:
    """Write no audit line."""


def auth_api(parts: Parts, cost: int = 4) -> AuthAPI:
    return AuthAPI(
        parts.store, parts.callers, Passwords(cost), parts.tokens, lambda: NOW, lambda: None
    )


@pytest.mark.bad_input(45)
@pytest.mark.parametrize("configured", [4, 5, 7])
def test_a_log_in_that_is_refused_takes_the_same_work_for_all(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, configured: int
) -> None:
    """Also where the passwords were set under other settings."""
    store, api, checkpw, work = parts.store, auth_api(parts, configured), bcrypt.checkpw, [0]
    for name, cost in (("of-4", 4), ("of-6", 6)):
        store.change(changes.add_user, name, Passwords(cost).hash("right"))

    def counted(password: bytes, password_hash: bytes) -> bool:
        work[0] += 2 ** int(password_hash[4:6])
        return checkpw(password, password_hash)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    monkeypatch.setattr(bcrypt, "hashpw", None)
    for name in ("of-4", "of-6", "root", "nobody"):
        work[0] = 0
        body = json.dumps({"name": name, "password": "wrong"}).encode()
        with pytest.raises(AuthFailedError):
            api.call("authenticate", NOBODY, request_on(store, body), unheard)
        assert work[0] == 2 ** max(configured, 6)


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("user/add", b'{"name": "eve", "options": {"no_password": true}}'),
        ("user/get", b'{"name": "root"}'),
        ("role/get", b'{"role": "reviewer"}'),
        ("enable", b"{}"),
    ],
)
def test_a_token_opens_nothing_when_auth_is_disabled_behind_its_back(
    parts: Parts, call: str, body: bytes
) -> None:
    """A request may wait for a thread between the look at its token and what it asks for."""
    api = auth_api(parts)
    parts.store.change(changes.disable)
    for caller in (SERVICE_ACCOUNT, Caller("alice", by_token=True)):
        assert not require(parts, caller)
        with pytest.raises(PermissionDeniedError):
            api.call(call, caller, request_on(parts.store, body), unheard)
    try:
        api.call(call, Caller("anybody"), request_on(parts.store, body), unheard)
    except AuthError as error:
        raise AssertionError(error) from error


@pytest.mark.fault(60)
def test_auth_tokens_and_service_account_tokens_of_one_key_are_told_apart(parts: Parts) -> None:
    key = signing_key("RS256")
    keyring = Keyring().with_new_key(key, 0)
    tokens = JWTTokens(parts.store, keyring, ISSUER)
    issuers = [TrustedIssuer(ISSUER, [AUDIENCE, "leeway"], [key.verification_key])]
    authenticator = Authenticator(issuers, LEEWAY)
    verifier = TokenVerifier(authenticator, lambda: NOW)
    callers = Callers(parts.store, tokens, verifier, ISSUER, ("leeway",), lambda: NOW)
    auth_token = tokens.assign(parts.store.user("alice"), NOW)
    # One that would be either, but for its type.
    claims = good_claims(aud=["leeway"])
    both = claims | {"username": "alice", "revision": parts.store.revision}

    def signed(claims: dict[str, object], typ: str) -> str:
        return sign(msgspec.json.encode(claims), key, typ)

    account = signed(both, "JWT")
    assert asyncio.run(settled(callers.find(request_of(f"Bearer {account}")))) == SERVICE_ACCOUNT
    with pytest.raises(InvalidAuthTokenError):
        tokens.resolve(account, NOW)
    user = signed(both | {"aud": "leeway"}, AUTH_TOKEN_TYPE)
    for token in (auth_token, user):
        found = asyncio.run(settled(callers.find(request_of(f"Bearer {token}"))))
        assert (
            found
            == asyncio.run(callers.subject_of(token, request_on(parts.store)))
            == Caller("alice", by_token=True)
        )
        outcome = authenticator.authenticate(token, ["leeway"], NOW)
        assert isinstance(outcome, Refused)
        assert outcome.error.reason is Reason.MALFORMED


def test_a_state_that_was_replaced_is_not_kept_for_those_who_may_write(parts: Parts) -> None:
    """Nor is one revision taken for the same number in another history."""
    parts.store.change(changes.grant_role, "alice", "reviewer")
    assert require(parts, Caller("alice"))
    before = parts.store.basis()
    gone = weakref.ref(before.state)
    replaced = AuthState()
    replaced.apply(before.revision, [meta_record(AuthMeta(enabled=True))])
    request = request_on(parts.store, caller=Caller("alice"))
    request.basis = Basis(replaced, before.revision, before.proof)
    with pytest.raises(RequestError, match="may not write"):
        parts.callers.require(request, KEY)
    parts.store.load()
    del before
    gc.collect()
    assert gone() is None
