import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import msgspec
import pytest

from keys import jws
from keys.keyring import Keyring
from tests.memory_backend import MemoryBackend
from tests.support import ISSUER, NOW, b64, raw_jws, sign_text, signing_key, unb64
from webhook.rbac import changes
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.auth_tokens import MAX_TOKEN_LENGTH, JWTTokens, NopTokens, TokenProvider
from webhook.rbac.errors import AuthFailedError, InvalidAuthTokenError, UnknownAuthKeyError
from webhook.rbac.model import Permission, PermissionType, User
from webhook.rbac.records import AuthMeta
from webhook.rbac.simple_tokens import SimpleTokens, TokenUses
from webhook.rbac.state import AuthState

KEY = signing_key("ES256")
KEYRING = Keyring().with_new_key(KEY, 0)
TTL = 300.0
# As deep as the longest token allows.
NESTED = b"[" * 2800
MakeProvider = Callable[[AuthStore], SimpleTokens | JWTTokens]


def make_simple(store: AuthStore) -> SimpleTokens:
    return SimpleTokens(store, TokenUses(store), TTL)


def make_jwt(store: AuthStore) -> JWTTokens:
    return JWTTokens(store, KEYRING, ISSUER, TTL)


BOTH = pytest.mark.parametrize("make", [make_simple, make_jwt])


def prepared() -> tuple[MemoryBackend, AuthStore]:
    backend = MemoryBackend()
    store = AuthStore.loaded(backend)
    store.change(changes.add_user, "a", b"hash")
    store.change(changes.add_user, "b", b"hash")
    store.change(changes.add_role, "r")
    store.change(changes.add_role, "s")
    store.change(changes.grant_role, "a", "s")
    return backend, store


def assert_refused(provider: TokenProvider, token: str, now: float) -> None:
    with pytest.raises(InvalidAuthTokenError):
        provider.resolve(token, now)


OF_OTHERS: list[Callable[[AuthStore], None]] = [
    lambda s: s.change(changes.change_password, "b", b"other"),
    lambda s: s.change(changes.grant_role, "b", "r"),
    lambda s: s.change(changes.grant_permission, "r", Permission(b"k", b"", PermissionType.READ)),
    lambda s: s.change(changes.grant_permission, "s", Permission(b"k", b"", PermissionType.READ)),
    lambda s: s.change(changes.grant_group_role, "g", "r"),
    lambda s: s.change(changes.delete_role, "r"),
    lambda s: s.change(changes.grant_role, "a", "root"),
    lambda s: s.change(changes.revoke_role, "a", "s"),
    lambda s: s.change(changes.delete_user, "b"),
    lambda s: s.change(changes.add_user, "c"),
]


@BOTH
def test_a_token_survives_all_changes_except_to_its_user(make: MakeProvider) -> None:
    backend, store = prepared()
    provider, elsewhere = make(store), make(AuthStore.loaded(backend))
    token = provider.assign(store.user("a"), NOW)
    for change in OF_OTHERS:
        change(store)
        assert provider.resolve(token, NOW) == "a"
        elsewhere._store.refresh()
        assert elsewhere.resolve(token, NOW) == "a"


def replace_a(store: AuthStore) -> None:
    store.change(changes.delete_user, "a")
    store.change(changes.add_user, "a", b"hash")


OWN: list[Callable[[AuthStore], None]] = [
    lambda s: s.change(changes.change_password, "a", b"other"),
    lambda s: s.change(changes.change_password, "a", b"hash"),
    lambda s: s.change(changes.delete_user, "a"),
    replace_a,
]


@BOTH
@pytest.mark.parametrize("change", OWN)
def test_a_token_ends_with_its_users_password_in_every_worker(
    make: MakeProvider, change: Callable[[AuthStore], None]
) -> None:
    backend, store = prepared()
    provider, elsewhere = make(store), make(AuthStore.loaded(backend))
    user = store.user("a")
    tokens = [provider.assign(user, NOW) for _ in range(2)]
    other = provider.assign(store.user("b"), NOW)
    change(store)
    elsewhere._store.refresh()
    for where in (provider, elsewhere):
        for token in tokens:
            assert_refused(where, token, NOW)
        assert where.resolve(other, NOW) == "b"
    # The password that was checked is no longer the user's.
    with pytest.raises(AuthFailedError):
        provider.assign(user, NOW)


@BOTH
def test_a_user_without_password_can_be_logged_out_too(make: MakeProvider) -> None:
    _, store = prepared()
    store.change(changes.add_user, "p")
    provider = make(store)
    token = provider.assign(store.user("p"), NOW)
    store.change(changes.change_password, "p", b"hash")
    assert_refused(provider, token, NOW)


@BOTH
def test_a_token_of_an_unknown_user(make: MakeProvider) -> None:
    _, store = prepared()
    with pytest.raises(AuthFailedError):
        make(store).assign(User("nobody"), NOW)


@BOTH
@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é", "\ud800", "\0", "x" * 100_000])
def test_text_that_is_not_a_token(make: MakeProvider, token: str) -> None:
    _, store = prepared()
    assert_refused(make(store), token, NOW)


def test_provider_none_gives_no_token() -> None:
    with pytest.raises(AuthFailedError):
        NopTokens().assign(User("a"), NOW)
    with pytest.raises(InvalidAuthTokenError):
        NopTokens().resolve("x", NOW)


def test_simple_expires_after_its_last_use() -> None:
    _, store = prepared()
    provider = make_simple(store)
    token = provider.assign(store.user("a"), NOW)
    now = NOW
    for _ in range(5):
        now += TTL
        assert provider.resolve(token, now) == "a"
    assert_refused(provider, token, now + TTL + 0.1)
    assert_refused(provider, token, now + 2 * TTL)


def test_simple_keeps_a_digest_only() -> None:
    backend, store = prepared()
    token = make_simple(store).assign(store.user("a"), NOW)
    stored = [record for record in backend.load()[1] if record.kind == "token"]
    assert [record.id for record in stored] == [hashlib.sha256(token.encode()).digest()]
    everything = b"".join(record.id + (record.value or b"") for record in backend.load()[1])
    assert token.encode() not in everything
    assert len(token) >= 32


def test_simple_does_not_change_the_auth_revision() -> None:
    _, store = prepared()
    provider, before = make_simple(store), store.revision
    token = provider.assign(store.user("a"), NOW)
    provider.resolve(token, NOW + TTL / 2)
    assert store.revision == before


def test_simple_purges_expired_tokens() -> None:
    backend, store = prepared()
    provider = make_simple(store)
    old = provider.assign(store.user("a"), NOW)
    kept = provider.assign(store.user("a"), NOW + 300)
    new = provider.assign(store.user("b"), NOW + 550)
    assert len(store.state.tokens) == 2
    assert_refused(provider, old, NOW)
    assert provider.resolve(kept, NOW + 550) == "a"
    assert provider.resolve(new, NOW + 550) == "b"
    assert len([r for r in backend.load()[1] if r.kind == "token"]) == 2


@pytest.mark.bad_input(54)
@pytest.mark.parametrize("step", [TTL, 3600.0, 365 * 24 * 3600.0])
def test_simple_does_not_live_longer_when_the_clock_is_set_back(step: float) -> None:
    backend, store = prepared()
    provider, elsewhere = make_simple(store), make_simple(AuthStore.loaded(backend))
    token = provider.assign(store.user("a"), NOW + step)
    elsewhere._store.refresh()
    for each in (provider, elsewhere):
        assert each.resolve(token, NOW + step) == "a"
    for each in (provider, elsewhere):
        assert_refused(each, token, NOW)
    # Nor when that time comes again, if another user has logged in meanwhile.
    provider.assign(store.user("b"), NOW)
    assert len(store.state.tokens) == 1
    assert_refused(provider, token, NOW + step)


@pytest.mark.bad_input(54)
def test_simple_is_valid_again_after_a_clock_that_was_behind() -> None:
    _, store = prepared()
    provider = make_simple(store)
    token = provider.assign(store.user("a"), NOW)
    assert_refused(provider, token, NOW - 3600)
    assert provider.resolve(token, NOW + 60) == "a"


def test_simple_tolerates_small_differences_between_workers() -> None:
    _, store = prepared()
    provider = make_simple(store)
    token = provider.assign(store.user("a"), NOW)
    assert provider.resolve(token, NOW - TTL / 10) == "a"
    provider.assign(store.user("b"), NOW - TTL / 10)
    assert provider.resolve(token, NOW) == "a"


def test_jwt_claims() -> None:
    _, store = prepared()
    token = make_jwt(store).assign(store.user("a"), NOW + 0.5)
    payload = msgspec.json.decode(jws.parse(token).unverified_payload)
    assert payload == claims_of(store)
    header = msgspec.json.decode(unb64(token.split(".")[0]))
    assert header == {"alg": "ES256", "kid": KEY.verification_key.kid, "typ": "leeway-auth+jwt"}


def claims_of(store: AuthStore) -> dict[str, object]:
    return {
        "iss": ISSUER,
        "aud": "leeway",
        "username": "a",
        "revision": store.revision,
        "exp": int(NOW + TTL),
    }


HEADER = {"alg": "ES256", "kid": KEY.verification_key.kid, "typ": "leeway-auth+jwt"}


@pytest.mark.fault(60)
@pytest.mark.parametrize(
    ("header", "claims"),
    [
        pytest.param({"typ": None}, {}, id="no typ"),
        pytest.param({"typ": "JWT"}, {}, id="typ of a service account token"),
        pytest.param({"typ": "LEEWAY-AUTH+JWT"}, {}, id="typ in capitals"),
        pytest.param({}, {"iss": None}, id="no iss"),
        pytest.param({}, {"iss": "https://other.example"}, id="another iss"),
        pytest.param({}, {"aud": None}, id="no aud"),
        pytest.param({}, {"aud": ISSUER}, id="another aud"),
        pytest.param({}, {"aud": ["leeway"]}, id="a list as aud"),
        pytest.param({}, {"revision": 1 << 40}, id="a revision that the store has not reached"),
    ],
)
def test_jwt_needs_its_type_issuer_and_audience(
    header: dict[str, object], claims: dict[str, object]
) -> None:
    _, store = prepared()

    def made(header: dict[str, object], claims: dict[str, object]) -> str:
        members = {k: v for k, v in (HEADER | header).items() if v is not None}
        payload = {k: v for k, v in (claims_of(store) | claims).items() if v is not None}
        return raw_jws(msgspec.json.encode(members), msgspec.json.encode(payload), KEY)

    assert make_jwt(store).resolve(made({}, {}), NOW) == "a"
    assert_refused(make_jwt(store), made(header, claims), NOW)


def test_jwt_expires_whether_used_or_not() -> None:
    _, store = prepared()
    provider = make_jwt(store)
    token = provider.assign(store.user("a"), NOW)
    assert provider.resolve(token, NOW + TTL) == "a"
    assert_refused(provider, token, NOW + TTL + 1)


def test_jwt_of_another_key_or_shape() -> None:
    _, store = prepared()
    provider = make_jwt(store)
    token = provider.assign(store.user("a"), NOW)
    header, payload, signature = token.split(".")
    other = signing_key("ES256", "another")
    claims = claims_of(store)
    own_header = msgspec.json.encode(HEADER)
    # The fixture itself is accepted, so that each row below is refused for its own reason.
    good = raw_jws(own_header, msgspec.json.encode(claims), KEY)
    assert provider.resolve(good, NOW) == "a"
    forged = [
        sign_text(f"{header}.{payload}", other),
        f"{header}.{payload}.",
        f"{header}.{b64(msgspec.json.encode(claims | {'username': 'b'}))}.{signature}",
        raw_jws(msgspec.json.encode(HEADER | {"kid": ""}), msgspec.json.encode(claims), KEY),
        raw_jws(
            msgspec.json.encode(HEADER | {"alg": "none"}),
            msgspec.json.encode(claims),
            KEY,
            "ES256",
        ),
        raw_jws(own_header, b"not JSON", KEY),
        raw_jws(own_header, b"[]", KEY),
        raw_jws(own_header, b"\xff", KEY),
        raw_jws(own_header, msgspec.json.encode(claims)[:-1] + b',"z":' + NESTED, KEY),
        raw_jws(
            msgspec.json.encode(HEADER | {"alg": "RS256", "kid": "x"}),
            b'{"z":' + NESTED,
            KEY,
            "ES256",
        ),
        raw_jws(own_header, msgspec.json.encode({"username": "a", "revision": 1}), KEY),
        raw_jws(own_header, msgspec.json.encode({k: claims[k] for k in claims if k != "exp"}), KEY),
        raw_jws(own_header, msgspec.json.encode(claims | {"revision": 1}), KEY),
        raw_jws(own_header, msgspec.json.encode(claims | {"exp": str(claims["exp"])}), KEY),
        raw_jws(own_header, msgspec.json.encode(claims | {"x": "x" * MAX_TOKEN_LENGTH}), KEY),
    ]
    for token in forged:
        assert_refused(provider, token, NOW)


def test_jwt_is_not_given_for_a_password_that_changes_at_that_moment() -> None:
    """Between the check of the user and the reading of the revision the password changes."""
    _, store = prepared()

    class Changing:
        """A state whose password changes as soon as its revision has been read."""

        @property
        def meta(self) -> AuthMeta:
            meta = store.state.meta
            store.change(changes.change_password, "a", b"other")
            return meta

        @property
        def users(self) -> dict[str, User]:
            return store.state.users

    user = store.user("a")
    try:
        token = make_jwt(store).assign(user, NOW, cast("AuthState", Changing()))
    except AuthFailedError:
        return
    assert store.user("a").generation > user.generation
    assert_refused(make_jwt(store), token, NOW)


def test_generation_not_password_tells_whether_a_user_is_the_same() -> None:
    _, store = prepared()
    user = store.user("a")
    with pytest.raises(AuthFailedError):
        make_simple(store).assign(replace(user, generation=user.generation - 1), NOW)
    store.change(changes.grant_role, "a", "r")
    assert make_simple(store).assign(user, NOW)


def test_simple_is_not_purged_within_the_ttl_of_a_use_that_was_not_written_down() -> None:
    backend, store = prepared()
    provider, elsewhere = make_simple(store), make_simple(AuthStore.loaded(backend))
    token = provider.assign(store.user("a"), NOW)
    assert provider.resolve(token, NOW + 50) == "a"
    elsewhere.assign(store.user("b"), NOW + TTL + 49)
    store.refresh()
    assert provider.resolve(token, NOW + TTL + 50) == "a"


def test_jwt_with_a_key_that_is_not_known_yet() -> None:
    _, store = prepared()
    rotated = Keyring().with_new_key(signing_key("ES256", "another"), 0)
    provider, elsewhere = make_jwt(store), JWTTokens(store, rotated, ISSUER, TTL)
    token = elsewhere.assign(store.user("a"), NOW)
    with pytest.raises(UnknownAuthKeyError, match=r"^etcdserver: invalid auth token$"):
        provider.resolve(token, NOW)
    provider.use_keyring(rotated)
    assert provider.resolve(token, NOW) == "a"
    # It also signs with that key.
    assert elsewhere.resolve(provider.assign(store.user("a"), NOW), NOW) == "a"


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (HEADER | {"kid": ""}, {}),
        ({"alg": "ES256", "kid": "x"}, {}),
        (HEADER | {"kid": "x"}, {"username": 1}),
    ],
)
def test_no_key_is_requested_without_a_kid_or_for_other_tokens(
    header: dict[str, object], payload: dict[str, object]
) -> None:
    _, store = prepared()
    body = msgspec.json.encode(claims_of(store) | payload)
    token = raw_jws(msgspec.json.encode(header), body, KEY, "ES256")
    with pytest.raises(InvalidAuthTokenError) as refused:
        make_jwt(store).resolve(token, NOW)
    assert not isinstance(refused.value, UnknownAuthKeyError)
