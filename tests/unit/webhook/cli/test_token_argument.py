"""What people paste in place of a token, and ``--at`` counted from a claim."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from keys.jws import SigningKey
from tests.e2e.harness import review_of
from tests.support import JTI, assert_token_not_in, good_claims, token_of
from tests.unit.webhook.cli.cli_support import Leeway

# Of a length that base64 pads with one character.
TOKEN = next(token for n in range(9) if len(token := token_of(good_claims(jti="j" * n))) % 3 == 2)


def kubeconfig(token: str) -> dict[str, object]:
    users = [{"name": "u", "user": {"token": token}}]
    return {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": users}


def exec_credential(token: str) -> dict[str, object]:
    version = "client.authentication.k8s.io/v1"
    return {"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}}


ACCEPTED: dict[str, Callable[[str], str]] = {
    "bearer": lambda token: f"Bearer {token}",
    "bearer-in-lower-case": lambda token: f"bearer  {token}\n",
    "header": lambda token: f"Authorization: Bearer {token}",
    "double-quotes": lambda token: f'"{token}"',
    "single-quotes": lambda token: f"'{token}'\r\n",
    "quoted-header": lambda token: f"'Authorization: Bearer {token}'",
    "quotes-within": lambda token: f"'Bearer \"{token}\"'",
}


@pytest.mark.fault(34)
@pytest.mark.parametrize("form", ACCEPTED)
@pytest.mark.parametrize("by", ["argument", "stdin", "file"])
def test_bearer_and_quotes_are_removed(leeway: Leeway, tmp_path: Path, form: str, by: str) -> None:
    text = ACCEPTED[form](TOKEN)
    if by == "file":
        (tmp_path / "f").write_text(text)
    argument = {"argument": text, "stdin": "-", "file": f"@{tmp_path / 'f'}"}[by]
    ran = leeway("token", "inspect", argument, "-o", "json", stdin=text if by == "stdin" else "")
    (tmp_path / "f").unlink(missing_ok=True)
    claims = json.loads(ran.assert_done())["unverified"]["claims"]
    assert claims | {"jti": JTI} == good_claims()


RECOGNISED: dict[str, tuple[Callable[[str], str], str]] = {
    "line-breaks": (lambda t: "\n".join(t[i : i + 76] for i in range(0, len(t), 76)), "tr -d"),
    "blanks": (lambda t: f"{t[:50]} {t[50:]}", "tr -d"),
    "bearer-and-line-breaks": (lambda t: f"Bearer {t[:50]}\n  {t[50:]}", "tr -d"),
    "base64": (lambda t: base64.b64encode(t.encode()).decode(), "base64 -d"),
    "base64-url": (
        lambda t: base64.urlsafe_b64encode(t.encode()).decode().rstrip("="),
        "base64 -d",
    ),
    "base64-in-lines": (lambda t: base64.encodebytes(f"{t}\n".encode()).decode(), "base64 -d"),
    "TokenReview": (lambda t: json.dumps(review_of(t)), "jq -r '.spec.token'"),
    "TokenReview-yaml": (lambda t: yaml.safe_dump(review_of(t)), "jq -r '.spec.token'"),
    "kubeconfig": (lambda t: yaml.safe_dump(kubeconfig(t)), "kubectl config view --raw"),
    "kubeconfig-json": (lambda t: json.dumps(kubeconfig(t), indent=1), "kubectl config view --raw"),
    "ExecCredential": (lambda t: json.dumps(exec_credential(t)), "jq -r '.status.token'"),
    "Secret": (
        lambda t: json.dumps({"kind": "Secret", "data": {"token": t}}),
        "jq -r '.data.token | @base64d'",
    ),
    "other-kind": (lambda t: json.dumps({"kind": "\x1b[2JPod", "x": t}), "kind \\u001b[2JPod"),
    "other-json": (lambda t: json.dumps([t]), "this is JSON"),
    "pem": (lambda t: f"-----BEGIN CERTIFICATE-----\n{t}", "a certificate or a key"),
    "eks": (lambda t: f"k8s-aws-v1.{t}", "EKS"),
    "bootstrap": (lambda _: "abcdef.0123456789abcdef", "bootstrap token"),
}


@pytest.mark.fault(34)
@pytest.mark.parametrize("form", RECOGNISED)
@pytest.mark.parametrize("command", ["review", "inspect"])
def test_pasted_text_is_recognised_and_never_shown(
    leeway: Leeway, made: Path, command: str, form: str
) -> None:
    make, advice = RECOGNISED[form]
    where = ("--data-dir", made) if command == "review" else ()
    ran = leeway("token", command, "-", *where, stdin=make(TOKEN))
    error = ran.assert_failed(2, advice)
    assert_token_not_in(TOKEN, error)
    assert base64.b64encode(TOKEN.encode()).decode()[:40] not in error


@pytest.mark.fault(34)
def test_a_file_name_without_its_at_sign(leeway: Leeway, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    leeway("token", "inspect", path).assert_failed(2, f"is a file; write @{tmp_path}"[:40])
    leeway("token", "inspect", tmp_path / "none").assert_failed(2, "does not exist", "@FILE")


@pytest.mark.fault(34)
def test_a_token_where_a_file_name_belongs_is_not_shown(leeway: Leeway) -> None:
    for name in (f"@{TOKEN}", f"@./{TOKEN}", f"./{TOKEN[:200]}"):
        ran = leeway("token", "inspect", name)
        assert ran.code in (2, 3)
        assert_token_not_in(TOKEN, ran.err)
        assert TOKEN[20:100] not in ran.err


@pytest.mark.fault(34)
@pytest.mark.parametrize("form", ["plain", *ACCEPTED])
def test_a_token_where_a_jti_belongs(leeway: Leeway, data_dir: Path, form: str) -> None:
    short = token_of({"jti": "a"})
    for token in (TOKEN, short):
        text = ACCEPTED.get(form, str)(token)
        error = leeway("revoke", "jti", text, "--data-dir", data_dir).assert_failed(2, "inspect")
        assert_token_not_in(token, error)


@pytest.fixture
def signed(own_key: SigningKey) -> str:
    """Return a token of the data directory that was made two hours ago, for one hour."""
    made = int(time.time()) - 7200
    claims = good_claims(iat=made, nbf=made, exp=made + 3600)
    claims["kubernetes.io"] = {**good_claims()["kubernetes.io"], "warnafter": made + 600}
    return token_of(claims, own_key)


FROM_CLAIM = [
    ("iat", 0, "ACCEPTED"),
    ("iat+1s", 0, "ACCEPTED"),
    ("iat-92s", 1, "nbf is 92s ahead of this server's clock (leeway 60s, 32s short)"),
    ("nbf-61s", 1, "nbf is 61s ahead"),
    ("nbf-60s", 0, "thanks to the leeway"),
    ("exp", 0, "ACCEPTED"),
    ("exp+1m", 0, "thanks to the leeway"),
    ("exp+61s", 1, "exp was 61s ago"),
    ("warnafter+5m", 0, "5m past its warnafter"),
]


@pytest.mark.fault(31)
@pytest.mark.parametrize(("at", "code", "words"), FROM_CLAIM, ids=[case[0] for case in FROM_CLAIM])
def test_at_is_relative_to_a_claim(
    leeway: Leeway, made: Path, signed: str, at: str, code: int, words: str
) -> None:
    ran = leeway("token", "review", signed, "--at", at, "--data-dir", made)
    assert (ran.code, ran.err) == (code, "")
    assert words in ran.out


NO_TIME = ["iat-", "iat-92", "iat--92s", "sub-92s", "iat -92s", "IAT-92s", "-92", "now", "iat-1e9s"]


@pytest.mark.fault(31)
@pytest.mark.parametrize("at", NO_TIME)
def test_text_that_is_not_a_time(leeway: Leeway, made: Path, at: str) -> None:
    ran = leeway("token", "review", TOKEN, f"--at={at}", "--data-dir", made)
    ran.assert_failed(2, "is not a time; write", "iat-92s")


@pytest.mark.fault(31)
@pytest.mark.parametrize("value", ["1", True, None, 10**30, [1]], ids=str)
def test_a_claim_that_is_not_a_time(leeway: Leeway, made: Path, value: object) -> None:
    token = token_of(good_claims(iat=value))
    ran = leeway("token", "review", token, "--at", "iat", "--data-dir", made)
    ran.assert_failed(2, "--at")
    leeway("token", "review", "x.y", "--at", "iat", "--data-dir", made).assert_failed(
        2, "does not have"
    )
    ran = leeway("token", "review", TOKEN, "--at", "warnafter", "--data-dir", made)
    ran.assert_failed(2, "--at counts from warnafter, which the token does not have")
