"""What is revoked, for how long it is kept, and in which order it is checked."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import msgspec
import pytest

from tests.bound_parts import StillSource
from tests.memory_backend import MemoryBackend
from tests.support import (
    ACCOUNT,
    AUDIENCE,
    ISSUER,
    JTI,
    LEEWAY,
    NAMESPACE,
    NOW,
    assert_accepted,
    assert_refused,
    b64,
    good_claims,
    signing_key,
    token_of,
    unb64,
)
from tests.unit.webhook.rbac.store_model import Scratch, assert_same
from webhook.assembly import lifetimes_of
from webhook.config.model import (
    Configuration,
    IssuerKeysSection,
    IssuerLeewaySection,
    TokensSection,
    TrustedIssuerSection,
)
from webhook.config.section import Duration
from webhook.errors import Reason
from webhook.rbac import changes, revocations
from webhook.rbac.auth_store import AuthStore
from webhook.rbac.errors import UserNotFoundError
from webhook.rbac.records import Lifetime, Revocation, TokenRecord, token_record
from webhook.rbac.revocations import FORGET_SECONDS, MARGIN_SECONDS, Lifetimes
from webhook.token.authenticator import Authenticator, TrustedIssuer
from webhook.token.bound_objects import Absence, Lookup, ObjectKey
from webhook.token.claims import LEGACY_ISSUER, Claims, ObjectReference
from webhook.token.outcome import Outcome

SUBJECT = f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}"
DAY, YEAR = 86_400, 365 * 86_400
OF_A_DAY = Lifetimes(DAY)
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
CLAIMS = Claims(
    ISSUER, SUBJECT, (AUDIENCE,), NAMESPACE, ObjectReference(ACCOUNT, "uid"), JTI, int(NOW)
)


def revoke_jti(store: AuthStore, jti: str = JTI, now: float = NOW) -> None:
    store.change(revocations.revoke_jti, jti, OF_A_DAY, now)


def revoke_account(store: AuthStore, subject: str = SUBJECT, now: float = NOW) -> None:
    store.change(revocations.revoke_subject, subject, OF_A_DAY, now, is_account=True)


@pytest.mark.parametrize(
    ("operation", "changes", "revoked"),
    [
        pytest.param(revoke_jti, {}, True, id="jti"),
        pytest.param(revoke_jti, {"jti": "another"}, False, id="another-jti"),
        pytest.param(revoke_jti, {"jti": ""}, False, id="no-jti"),
        pytest.param(revoke_jti, {"issued_at": int(NOW) + 9}, True, id="jti-whatever-its-iat"),
        pytest.param(revoke_account, {}, True, id="of-the-same-second"),
        pytest.param(revoke_account, {"issued_at": int(NOW) - 1}, True, id="of-before"),
        pytest.param(revoke_account, {"issued_at": int(NOW) + 1}, False, id="of-the-next-second"),
        pytest.param(revoke_account, {"issued_at": None}, True, id="without-iat"),
        pytest.param(revoke_account, {"subject": SUBJECT + "x"}, False, id="another-account"),
        pytest.param(lambda s: revoke_jti(s, SUBJECT), {}, False, id="a-subject-is-no-jti"),
        pytest.param(lambda s: revoke_account(s, JTI), {}, False, id="a-jti-is-no-subject"),
        pytest.param(
            lambda s: revoke_account(s, now=NOW + 0.1),
            {"issued_at": int(NOW) + 1},
            True,
            id="fraction",
        ),
    ],
)
def test_tokens_that_a_revocation_covers(
    operation: Callable[[AuthStore], None], changes: dict[str, object], revoked: bool
) -> None:
    backend = MemoryBackend()
    store = AuthStore.loaded(backend)
    operation(store)
    claims = msgspec.structs.replace(CLAIMS, **changes)
    for each in (store, AuthStore.loaded(backend)):
        assert bool(each.state.find_revocation(claims)) is revoked
    assert store.revision == 1


def test_another_worker_applies_it_with_its_refresh() -> None:
    backend = MemoryBackend()
    ours, theirs = AuthStore.loaded(backend), AuthStore.loaded(backend)
    revoke_jti(ours)
    assert not theirs.state.find_revocation(CLAIMS)
    theirs.refresh()
    assert theirs.state.find_revocation(CLAIMS) == f"jti {JTI} was revoked at 2027-01-15T08:00:00Z"


class Reviews:
    """Authenticates tokens by the revocations of a store."""

    def __init__(self, store: AuthStore, authenticator: Authenticator) -> None:
        self._store = store
        self._authenticator = authenticator

    def authenticate(self, token: str, audiences: Sequence[str], now: float) -> Outcome:
        state = self._store.state
        return self._authenticator.authenticate(token, audiences, now, revocations=state)


def authenticator_on(store: AuthStore, algorithm: str = "RS256") -> Reviews:
    issuer = TrustedIssuer(ISSUER, [AUDIENCE], [signing_key(algorithm).verification_key])
    return Reviews(store, Authenticator([issuer], LEEWAY))


def test_a_token_that_was_accepted_before_is_refused_and_says_why() -> None:
    store = AuthStore.loaded(MemoryBackend())
    authenticator = authenticator_on(store)
    token = token_of(good_claims())
    assert_accepted(authenticator.authenticate(token, [], NOW))
    revoke_account(store)
    text = assert_refused(authenticator.authenticate(token, [], NOW), token, Reason.REVOKED)
    assert text == (
        f"service account token has been revoked: the tokens of {SUBJECT} issued up to "
        "2027-01-15T08:00:00Z were revoked, this one is of 2027-01-15T07:59:50Z"
    )
    later = token_of(good_claims(iat=int(NOW) + 1, nbf=int(NOW) + 1, jti="later"))
    assert_accepted(authenticator.authenticate(later, [], NOW + 1))


@pytest.mark.bad_input(13)
@pytest.mark.parametrize("revoke", [revoke_jti, revoke_account])
def test_the_high_s_twin_is_revoked_too(revoke: Callable[[AuthStore], None]) -> None:
    store = AuthStore.loaded(MemoryBackend())
    authenticator = authenticator_on(store, "ES256")
    token = token_of(good_claims(), signing_key("ES256"))
    start, _, signature = token.rpartition(".")
    data = unb64(signature)
    other_s = P256_ORDER - int.from_bytes(data[32:], "big")
    twin = f"{start}.{b64(data[:32] + other_s.to_bytes(32, 'big'))}"
    assert twin != token
    for each in (token, twin):
        assert_accepted(authenticator.authenticate(each, [], NOW))
    revoke(store)
    for each in (token, twin):
        assert_refused(authenticator.authenticate(each, [], NOW), each, Reason.REVOKED)


class _Gone(StillSource):
    """A source without objects."""

    def find(self, key: ObjectKey, uid: str) -> Lookup:
        return Absence.GONE

    def look_up(self, key: ObjectKey, uid: str = "") -> Lookup:
        return Absence.GONE


@pytest.mark.parametrize(
    ("audiences", "now", "gone", "reason"),
    [
        pytest.param(["vault"], NOW, True, Reason.AUDIENCE_MISMATCH, id="audience"),
        pytest.param([], NOW + DAY, True, Reason.EXPIRED, id="time"),
        pytest.param([], NOW, True, Reason.SERVICE_ACCOUNT_GONE, id="objects"),
        pytest.param([], NOW, False, Reason.REVOKED, id="revoked"),
    ],
)
def test_it_is_the_last_check(audiences: list[str], now: float, gone: bool, reason: Reason) -> None:
    store = AuthStore.loaded(MemoryBackend())
    revoke_jti(store)
    authenticator = Authenticator(
        [TrustedIssuer(ISSUER, [AUDIENCE], [signing_key("RS256").verification_key])],
        LEEWAY,
        objects=_Gone() if gone else None,
    )
    token = token_of(good_claims())
    outcome = Reviews(store, authenticator).authenticate(token, audiences, now)
    assert_refused(outcome, token, reason)


def test_a_user_loses_its_tokens_of_every_kind() -> None:
    backend = MemoryBackend()
    store = AuthStore.loaded(backend)
    store.change(changes.add_user, SUBJECT)
    store.change(changes.add_user, "bob")
    records = [
        token_record(digest, TokenRecord(owner, NOW))
        for digest, owner in ((b"1", SUBJECT), (b"2", SUBJECT), (b"3", "bob"))
    ]
    store.change(lambda state: records)
    store.change(revocations.revoke_subject, SUBJECT, OF_A_DAY, NOW, is_account=True)
    assert store.state.tokens.keys() == {b"3"}
    assert store.revision == 4
    assert store.user(SUBJECT).generation == 4
    assert store.user("bob").generation == 3
    assert store.state.find_revocation(CLAIMS)
    store.change(revocations.revoke_subject, "bob", OF_A_DAY, NOW, is_account=False)
    assert not store.state.tokens
    assert store.user("bob").generation == store.revision == 5
    # An auth token is deleted, so nothing needs to be remembered.
    assert store.state.revoked_subjects.keys() == {SUBJECT}
    before = backend.load()
    with pytest.raises(UserNotFoundError):
        store.change(revocations.revoke_subject, "carol", OF_A_DAY, NOW, is_account=False)
    assert backend.load() == before
    assert_same(store, Scratch(backend))


def _issuer(url: str, legacy: bool = False) -> TrustedIssuerSection:
    return TrustedIssuerSection(
        url=url, keys=IssuerKeysSection(jwks_file="jwks.json"), legacy=legacy
    )


OTHER, LEGACY = _issuer("https://other.example"), _issuer(LEGACY_ISSUER, legacy=True)


@pytest.mark.parametrize(
    ("tokens", "issuers", "expected"),
    [
        pytest.param({}, (), Lifetimes(YEAR, 0, 60), id="extended"),
        pytest.param({"extend": False}, (), Lifetimes(DAY, 0, 60), id="not-extended"),
        pytest.param(
            {"max_expiration": Duration(2 * YEAR)},
            (),
            Lifetimes(2 * YEAR, 0, 60),
            id="longer-than-a-year",
        ),
        pytest.param({"extend": False}, (OTHER,), Lifetimes(DAY, 1 << 32, 60), id="trusted-issuer"),
        pytest.param(
            {"extend": False}, (OTHER, LEGACY), Lifetimes(DAY, inf, 60), id="legacy-issuer"
        ),
        pytest.param(
            {"extend": False},
            (msgspec.structs.replace(OTHER, leeway=IssuerLeewaySection(issued_at=Duration(90))),),
            Lifetimes(DAY, 1 << 32, 90),
            id="trusted-issuer-with-more-leeway",
            marks=pytest.mark.fault(46),
        ),
    ],
)
def test_lifetimes_of_a_configuration(
    tokens: dict[str, Any],
    issuers: tuple[TrustedIssuerSection, ...],
    expected: Lifetimes,
) -> None:
    configuration = Configuration(tokens=TokensSection(**tokens), trusted_issuers=issuers)
    assert lifetimes_of(configuration) == expected


@pytest.mark.parametrize(
    ("lifetimes", "end"),
    [(OF_A_DAY, NOW + DAY), (Lifetimes(DAY, 1 << 32), NOW + (1 << 32)), (Lifetimes(DAY, inf), inf)],
)
def test_it_is_kept_as_long_as_a_token_can_live(lifetimes: Lifetimes, end: float) -> None:
    store = AuthStore.loaded(MemoryBackend())
    store.change(revocations.revoke_jti, JTI, lifetimes, NOW)
    until = store.state.revoked_jtis[JTI].until
    assert until == end + MARGIN_SECONDS


@pytest.mark.parametrize("is_tidied", [True, False])
def test_it_is_dropped_when_that_is_over(is_tidied: bool) -> None:
    backend = MemoryBackend()
    store = AuthStore.loaded(backend)
    revoke_jti(store)
    revoke_account(store)
    over = NOW + DAY + MARGIN_SECONDS + FORGET_SECONDS
    for now, left in ((over, 2), (over + 1, 0)):
        if is_tidied:
            store.change(revocations.tidy, OF_A_DAY, now)
        else:
            store.change(revocations.revoke_jti, "another", OF_A_DAY, now)
        kept = {*store.state.revoked_jtis, *store.state.revoked_subjects} - {"another"}
        assert len(kept) == left
    assert_same(store, Scratch(backend))
    before = backend.load()[0]
    store.change(revocations.tidy, OF_A_DAY, now)
    assert backend.load()[0] == before


@pytest.mark.bad_input(54)
@pytest.mark.parametrize("forget_at", [-365 * DAY, 0, 365 * DAY])
@pytest.mark.parametrize("revoke_at", [-365 * DAY, 0, 365 * DAY])
def test_a_wrong_clock_makes_no_token_valid_again(revoke_at: float, forget_at: float) -> None:
    backend = MemoryBackend()
    store = AuthStore.loaded(backend)
    revoke_jti(store, now=NOW + revoke_at)
    # Shortly before the token runs out, by the right clock.
    store.change(revocations.tidy, OF_A_DAY, NOW + DAY - 1 + forget_at)
    store.change(revocations.revoke_jti, "another", OF_A_DAY, NOW + DAY - 1 + forget_at)
    for each in (store, AuthStore.loaded(backend)):
        assert each.state.find_revocation(CLAIMS)


def test_shorter_settings_do_not_shorten_a_revocation() -> None:
    store = AuthStore.loaded(MemoryBackend())
    long, short = Lifetimes(100 * DAY), OF_A_DAY
    store.change(revocations.tidy, long, NOW)
    shrunk = NOW + 10 * DAY
    store.change(revocations.tidy, short, shrunk)
    # Tokens issued until then have expired by this:
    end = shrunk + 100 * DAY
    assert store.state.lifetime == Lifetime(DAY, end)
    for now, expected in (
        (shrunk, end),
        (shrunk + 50 * DAY, end),
        (end - DAY, end),
        (end, end + DAY),
    ):
        store.change(revocations.revoke_jti, f"at {now}", short, now)
        assert store.state.revoked_jtis[f"at {now}"].until == expected + MARGIN_SECONDS
    # Shorter once more: earlier settings still count.
    store.change(revocations.tidy, Lifetimes(3600), shrunk + DAY)
    assert store.state.lifetime == Lifetime(3600, end)


def test_a_commands_own_settings_shorten_no_revocation() -> None:
    store = AuthStore.loaded(MemoryBackend())
    store.change(revocations.tidy, Lifetimes(100 * DAY), NOW)
    store.change(revocations.revoke_jti, "a", OF_A_DAY, NOW)
    assert store.state.revoked_jtis["a"].until == NOW + 100 * DAY + MARGIN_SECONDS
    assert store.state.lifetime == Lifetime(100 * DAY)
    store.change(revocations.revoke_jti, "b", Lifetimes(200 * DAY), NOW)
    assert store.state.lifetime == Lifetime(200 * DAY)


def test_an_issuer_trusted_later_extends_it() -> None:
    store = AuthStore.loaded(MemoryBackend())
    revoke_jti(store)
    revoke_account(store)
    for foreign in (1 << 32, inf):
        store.change(revocations.tidy, Lifetimes(DAY, foreign), NOW + DAY)
        expected = Revocation(int(NOW), NOW + foreign + MARGIN_SECONDS)
        assert store.state.revoked_jtis == {JTI: expected}
        assert store.state.revoked_subjects == {SUBJECT: expected}
    store.change(revocations.tidy, OF_A_DAY, NOW + 2 * DAY)
    assert store.state.revoked_jtis == {JTI: expected}


def test_no_revocation_undoes_another() -> None:
    store = AuthStore.loaded(MemoryBackend())
    revoke_account(store)
    kept = dict(store.state.revoked_subjects)
    # The clock was set back meanwhile.
    revoke_account(store, now=NOW - DAY)
    assert store.state.revoked_subjects == kept
    revoke_account(store, now=NOW + 5)
    assert store.state.revoked_subjects == {
        SUBJECT: Revocation(int(NOW) + 5, NOW + 5 + DAY + MARGIN_SECONDS)
    }


@pytest.mark.parametrize(
    ("leeway", "max_staleness", "seconds"),
    [(60.0, None, 60.0), (0.0, None, 0.0), (60.0, 3.0, 60.0), (0.0, 3.0, 8.0), (10.0, 30.0, 35.0)],
)
def test_the_allowance_for_clocks(
    leeway: float, max_staleness: float | None, seconds: float
) -> None:
    assert revocations.allowance(leeway, max_staleness) == seconds


@pytest.mark.parametrize("behind", [0.0, 3.0, 4.9])
def test_a_revoker_whose_clock_is_behind(behind: float) -> None:
    """The tokens that the signer has issued before are refused; new ones work soon."""
    store = AuthStore.loaded(MemoryBackend())
    authenticator = authenticator_on(store)
    before = token_of(good_claims(iat=int(NOW) - 1, nbf=int(NOW) - 1))
    assert_accepted(authenticator.authenticate(before, [], NOW))
    ahead = revocations.allowance(0.0, 3.0)
    store.change(
        revocations.revoke_subject,
        SUBJECT,
        Lifetimes(DAY, ahead=ahead),
        NOW + 0.25 - behind,
        is_account=True,
    )
    assert_refused(authenticator.authenticate(before, [], NOW), before, Reason.REVOKED)
    # The signer waits until its own clock is past that, and then what it issues is accepted.
    until = revocations.blocked_until(store.state, SUBJECT, NOW)
    assert NOW < until <= NOW + ahead + 2
    new = token_of(good_claims(iat=int(until), nbf=int(until), jti="new"))
    assert_accepted(authenticator.authenticate(new, [], until))
    early = token_of(good_claims(iat=int(until) - 1, nbf=int(until) - 1, jti="early"))
    assert_refused(authenticator.authenticate(early, [], until), early, Reason.REVOKED)


@pytest.mark.parametrize(
    ("subject", "now", "until"),
    [
        pytest.param(SUBJECT, NOW, NOW + 1, id="the-same-second"),
        pytest.param(SUBJECT, NOW + 0.9, NOW + 1, id="within-the-second"),
        pytest.param(SUBJECT, NOW - 100, NOW + 1, id="behind"),
        pytest.param(SUBJECT, NOW + 1, 0.0, id="past"),
        pytest.param(SUBJECT + "x", NOW, 0.0, id="another-account"),
    ],
)
def test_when_a_token_can_be_issued_again(subject: str, now: float, until: float) -> None:
    store = AuthStore.loaded(MemoryBackend())
    revoke_account(store)
    assert revocations.blocked_until(store.state, subject, now) == until
