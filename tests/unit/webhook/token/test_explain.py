import pytest

from tests.support import (
    LEEWAY,
    NOW,
    as_json,
    authenticator_with,
    good_claims,
    header_of,
    raw_jws,
    signing_key,
    token_of,
)
from webhook.token.explain import CHECKS, FAIL, NOT_REACHED, OK, explain
from webhook.token.outcome import Authenticated

RSA, FOREIGN = signing_key("RS256"), signing_key("RS256", "foreign")
CASES = [
    ("form", "no token"),
    ("form", token_of(good_claims(), RSA, header_of(RSA, zip="DEF"))),
    ("issuer", token_of(good_claims(iss="https://other.example"))),
    ("key", token_of(good_claims(), FOREIGN)),
    ("key", token_of(good_claims(), RSA, header_of(RSA, alg="none"))),
    ("signature", token_of(good_claims(), FOREIGN, header_of(RSA))),
    ("claims", token_of(good_claims(sub="x"))),
    ("claims", token_of(good_claims(exp="x"))),
    ("audience", token_of(good_claims(aud=["{vault}"]))),
    ("not before", token_of(good_claims(nbf=int(NOW) + 152, iat=int(NOW) + 152))),
    ("expiry", token_of(good_claims(exp=int(NOW) - 1000))),
    ("issued at", token_of(good_claims(iat=int(NOW) + 61))),
]


@pytest.mark.parametrize(("failed", "token"), CASES, ids=[name for name, _ in CASES])
def test_checks_up_to_the_one_that_failed(failed: str, token: str) -> None:
    outcome = authenticator_with().authenticate(token, [], NOW)
    told = explain(token, outcome, LEEWAY, NOW)
    place = CHECKS.index(failed)
    assert [check.name for check in told.checks] == list(CHECKS)
    assert [check.result for check in told.checks] == (
        [OK] * place + [FAIL] + [NOT_REACHED] * (len(CHECKS) - place - 1)
    )
    assert told.verdict.startswith("REFUSED (")
    assert told.advice
    everything = told.verdict + told.advice + "".join(check.detail for check in told.checks)
    assert len(token) < 20 or token.rpartition(".")[2] not in everything


COPY_AGAIN = "Copy it again"
GOOD = token_of(good_claims())
FORM_ADVICE = [
    pytest.param("no token", True, id="no-token"),
    pytest.param(GOOD[:-1], True, id="cut-signature"),
    pytest.param(GOOD[: GOOD.rindex(".") - 4], True, id="cut-payload"),
    pytest.param(GOOD[4:], True, id="cut-header"),
    pytest.param(raw_jws(b"{", as_json(good_claims()), RSA), True, id="header-not-json"),
    pytest.param(raw_jws(as_json(header_of(RSA)), b"{", RSA), True, id="payload-not-json"),
    pytest.param(token_of(good_claims(), RSA, header_of(RSA, zip="DEF")), False, id="zip"),
    pytest.param(token_of(good_claims(), RSA, header_of(RSA, typ="at+jwt")), False, id="typ"),
    pytest.param(token_of(good_claims(), RSA, header_of(RSA, kid=1)), False, id="kid"),
    pytest.param(
        raw_jws(b'{"alg":"RS256","x":1,"x":2}', as_json(good_claims()), RSA), False, id="duplicate"
    ),
    pytest.param(token_of(b'{"aud":"x"}'), False, id="no-issuer"),
    pytest.param(token_of(b'"text"'), False, id="payload-not-an-object"),
]


@pytest.mark.fault(2)
@pytest.mark.parametrize(("token", "damaged"), FORM_ADVICE)
def test_only_a_damaged_token_should_be_copied_again(token: str, damaged: bool) -> None:
    told = explain(token, authenticator_with().authenticate(token, [], NOW), LEEWAY, NOW)
    assert told.checks[0].result == FAIL
    assert (COPY_AGAIN in told.advice) is damaged, told.advice


def test_claims_are_shown_only_if_the_signature_is_valid() -> None:
    token = token_of(good_claims(), FOREIGN, header_of(RSA))
    outcome = authenticator_with().authenticate(token, [], NOW)
    told = explain(token, outcome, LEEWAY, NOW)
    assert "loofah" not in repr(told)


def test_accepted() -> None:
    token = token_of(good_claims(nbf=int(NOW) + 5))
    outcome = authenticator_with().authenticate(token, [], NOW)
    assert isinstance(outcome, Authenticated)
    told = explain(token, outcome, LEEWAY, NOW)
    assert {check.result for check in told.checks} == {OK}
    assert told.verdict == (
        "ACCEPTED: system:serviceaccount:argo-run:loofah, only thanks to the leeway for nbf"
    )
    assert "leeway needed 5s, allowed 60s" in told.checks[CHECKS.index("not before")].detail


def test_leeway_that_would_have_been_enough() -> None:
    token = token_of(good_claims(nbf=int(NOW) + 152))
    told = explain(token, authenticator_with().authenticate(token, [], NOW), LEEWAY, NOW)
    assert "152s would do" in told.advice
    assert "by itself in 1m32s" in told.advice
