"""``kubectl --as``: what the headers ask for, and who may."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from keys.keyring import Keyring
from tests.support import AUDIENCE, ISSUER, LEEWAY, NOW, good_claims, signing_key, token_of
from tests.unit.webhook.server.caller_parts import KEY, SUBJECT, Parts, request_of, request_on
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import JWTTokens
from webhook.server.request.caller import Callers
from webhook.server.request.impersonation import wanted_identity
from webhook.server.request.message import Caller, Fields, Headers, Request, RequestError, settled
from webhook.server.request.verifier import TokenVerifier
from webhook.token.authenticator import Authenticator, TrustedIssuer

AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"
MASTERS = "system:masters"
ACCOUNT = "system:serviceaccount:argo-run:loofah"
OF_ACCOUNT = ("system:serviceaccounts", "system:serviceaccounts:argo-run", AUTHENTICATED)


def fields_of(*headers: tuple[str, str]) -> Fields:
    # As they reach an application: the names in lower case.
    return tuple((f"impersonate-{name}".encode(), value.encode()) for name, value in headers)


def with_headers(*headers: tuple[str, str], certificate_of: str = "", token: str = "") -> Request:
    authorization = [f"Bearer {token}"] if token else []
    request = request_of(*authorization, certificate_of=certificate_of)
    fields = ((b"user-agent", b"kubectl"), *request.headers, *fields_of(*headers))
    request.headers = Headers(fields)
    return request


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        pytest.param([("user", "alice")], ("alice", (AUTHENTICATED,), "", {}), id="user"),
        pytest.param(
            [("group", "a"), ("user", "alice"), ("group", "b")],
            ("alice", ("a", "b", AUTHENTICATED), "", {}),
            id="groups",
        ),
        pytest.param(
            [("user", "alice"), ("group", AUTHENTICATED), ("group", "a")],
            ("alice", (AUTHENTICATED, "a"), "", {}),
            id="groups-with-authenticated",
        ),
        pytest.param(
            [("user", "alice"), ("group", UNAUTHENTICATED)],
            ("alice", (UNAUTHENTICATED,), "", {}),
            id="unauthenticated",
        ),
        pytest.param(
            [("user", "system:anonymous")],
            ("system:anonymous", (UNAUTHENTICATED,), "", {}),
            id="anonymous",
        ),
        pytest.param(
            [("user", "system:anonymous"), ("group", UNAUTHENTICATED), ("group", "a")],
            ("system:anonymous", (UNAUTHENTICATED, "a"), "", {}),
            id="anonymous-with-groups",
        ),
        pytest.param([("user", ACCOUNT)], (ACCOUNT, OF_ACCOUNT, "", {}), id="service-account"),
        pytest.param(
            [("user", ACCOUNT), ("group", "a")],
            (ACCOUNT, ("a", AUTHENTICATED), "", {}),
            id="service-account-with-groups",
        ),
        pytest.param(
            [("user", "system:serviceaccount:argo-run")],
            ("system:serviceaccount:argo-run", (AUTHENTICATED,), "", {}),
            id="no-service-account",
        ),
        pytest.param(
            [
                ("user", "alice"),
                ("uid", "u-1"),
                ("extra-scopes", "view"),
                ("extra-scopes", "edit"),
                ("extra-acme.com%2fproject", "p"),
            ],
            (
                "alice",
                (AUTHENTICATED,),
                "u-1",
                {"scopes": ("view", "edit"), "acme.com/project": ("p",)},
            ),
            id="uid-and-extra",
        ),
    ],
)
def test_what_is_asked_for(headers: list[tuple[str, str]], wanted: object) -> None:
    assert wanted_identity(fields_of(*headers)) == wanted


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([("group", MASTERS)], "Impersonate-User is missing"),
        ([("uid", "u")], "Impersonate-User is missing"),
        ([("extra-a", "b")], "Impersonate-User is missing"),
        ([("user", "")], "Impersonate-User is missing"),
        ([("user", "alice"), ("user", "root")], "impersonate-user is not known, or appears twice"),
        ([("user", "a"), ("uid", "u"), ("uid", "v")], "impersonate-uid is not known, or appears"),
        ([("user", "alice"), ("role", "root")], "impersonate-role is not known"),
        ([("user", "alice"), ("groups", MASTERS)], "impersonate-groups is not known"),
    ],
)
def test_what_cannot_be_asked_for(headers: list[tuple[str, str]], why: str) -> None:
    with pytest.raises(RequestError, match=why) as caught:
        wanted_identity(fields_of(*headers))
    assert caught.value.code == 400


def find(parts: Parts, user: str, *headers: tuple[str, str]) -> Caller | None:
    return parts.find(with_headers(*headers, certificate_of=user))


def test_root_acts_as_others() -> None:
    parts = Parts()
    assert find(parts, "root", ("user", "alice"), ("uid", "u")) == Caller(
        "alice", uid="u", by_token=True, impersonator="root"
    )
    # Whoever has that role, by a group as well.
    parts.store.change(changes.grant_group_role, AUTHENTICATED, "root")
    acting = Caller("alice", by_token=True, impersonator="bob")
    assert find(parts, "bob", ("user", "alice")) == acting


@pytest.mark.parametrize("wanted", ["alice", "root", "bob"])
def test_others_do_not(wanted: str) -> None:
    parts = Parts()
    for user in ("alice", "bob", "kube-apiserver"):
        with pytest.raises(RequestError, match=f"'{user}' may not act as '{wanted}'") as caught:
            find(parts, user, ("user", wanted))
        assert caught.value.code == 403


def test_a_token_of_somebody_without_the_role_acts_as_nobody_else() -> None:
    parts = Parts()
    request = with_headers(("user", "root"), token=parts.log_in("alice"))
    with pytest.raises(RequestError, match="'alice' may not act as 'root'"):
        parts.find(request)


class AuthGoesOff:
    """Gets newer keys, while somebody disables auth."""

    def __init__(self, store: AuthStore, use: Callable[[], None]) -> None:
        self.store = store
        self.use = use

    def request_refresh(self, issuer: str) -> Future[None]:
        assert issuer == ISSUER
        self.store.change(changes.disable)
        self.use()
        done: Future[None] = Future()
        done.set_result(None)
        return done


@pytest.mark.parametrize(
    ("username", "is_auth_token"), [(SUBJECT, False), ("alice", True)], ids=["account", "user"]
)
def test_a_token_acts_as_nobody_when_auth_is_disabled_behind_its_back(
    username: str, is_auth_token: bool
) -> None:
    parts, key = Parts(), signing_key("RS256")
    keyring = Keyring().with_new_key(key, 0)
    older = Keyring().with_new_key(signing_key("RS256", "another"), 0)
    tokens = JWTTokens(parts.store, older, ISSUER)
    authenticator = Authenticator([TrustedIssuer(ISSUER, [AUDIENCE], [])], LEEWAY)

    def use() -> None:
        authenticator.replace_keys(ISSUER, [key.verification_key])
        tokens.use_keyring(keyring)

    newer_keys = AuthGoesOff(parts.store, use)
    verifier = TokenVerifier(authenticator, lambda: NOW, None, newer_keys)
    callers = Callers(parts.store, tokens, verifier, ISSUER, (AUDIENCE,), lambda: NOW)
    auth_token = JWTTokens(parts.store, keyring, ISSUER).assign(parts.store.user("alice"), NOW)
    token = auth_token if is_auth_token else token_of(good_claims())
    request = with_headers(("user", "root"), token=token)
    with pytest.raises(RequestError, match=f"'{username}' may not act as 'root'") as caught:
        asyncio.run(settled(callers.find(request)))
    assert caught.value.code == 403
    assert not parts.store.enabled


def test_nobody_acts_as_nobody() -> None:
    assert find(Parts(), "", ("user", "root")) is None


def test_who_acts_as_another_has_what_the_other_has() -> None:
    parts = Parts()
    for enabled in (True, False):
        if not enabled:
            # Any certificate may do everything now, but not the one it acts as.
            parts.store.change(changes.disable)
        caller = find(parts, "root", ("user", "alice"), ("group", MASTERS))
        assert caller is not None
        with pytest.raises(RequestError, match="'alice' may not write") as caught:
            parts.callers.require(request_on(parts.store, caller=caller), KEY)
        assert caught.value.code == 403
    parts.store.change(changes.grant_role, "alice", "reviewer")
    caller = find(parts, "root", ("user", "alice"))
    assert caller is not None
    parts.callers.require(request_on(parts.store, caller=caller), KEY)
