"""``leeway revoke``."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.unit.webhook.cli.cli_support import Leeway

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
AHEAD = TIME + r" \(now, and 60s for clocks that are ahead\)"
JTI = "23c4d832-c540-422a-9e85-304452db3136"
ACCOUNT = "system:serviceaccount:argo-run:loofah"


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (("jti", JTI), f"Token with jti {JTI} revoked\n"),
        (("jti", f"JTI={JTI}"), f"Token with jti {JTI} revoked\n"),
        (("jti", "~ " * 128), f"Token with jti {'~ ' * 128} revoked\n"),
        (
            ("serviceaccount", "argo-run/loofah"),
            f"Tokens of service account argo-run/loofah issued up to {AHEAD} revoked\n",
        ),
        (("user", ACCOUNT), f"Tokens of user {ACCOUNT} issued up to {AHEAD} revoked\n"),
        (("user", "root"), f"Tokens of user root issued up to {TIME} revoked\n"),
    ],
)
def test_one_line_for_each_revocation(
    leeway: Leeway, data_dir: Path, arguments: tuple[str, ...], printed: str
) -> None:
    out = leeway("revoke", *arguments, "--data-dir", data_dir).assert_done()
    assert re.fullmatch(printed, out), out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("jti", ""), ["0 characters", "1 to 256"]),
        (("jti", "JTI="), ["0 characters"]),
        (("jti", "x" * 257), ["257 characters"]),
        (("jti", "a\nb"), ["printable ASCII"]),
        (("jti", "é"), ["printable ASCII"]),
        (("jti", "\udc80"), ["printable ASCII"]),
        (("serviceaccount", "loofah"), ["'loofah'", "NAMESPACE/NAME"]),
        (("serviceaccount", "a/b/c"), ["NAMESPACE/NAME"]),
        (("serviceaccount", "/b"), ["NAMESPACE/NAME"]),
        (("serviceaccount", "a/"), ["NAMESPACE/NAME"]),
        (("serviceaccount", "A/b"), ["NAMESPACE/NAME"]),
        (("serviceaccount", "a/b\n"), ["NAMESPACE/NAME"]),
        (("serviceaccount", ACCOUNT), ["NAMESPACE/NAME"]),
        (("user", "nobody"), ["user name not found"]),
        (("user", ""), ["user name not found"]),
        (("user", "system:serviceaccount:a:b:c"), ["user name not found"]),
        (("user", "system:serviceaccount:a"), ["user name not found"]),
    ],
)
def test_malformed_or_unknown_arguments_are_exit_code_2(
    leeway: Leeway, data_dir: Path, arguments: tuple[str, ...], parts: list[str]
) -> None:
    before = (data_dir / "auth.db").read_bytes()
    leeway("revoke", *arguments, "--data-dir", data_dir).assert_failed(2, *parts)
    assert (data_dir / "auth.db").read_bytes() == before


def test_a_token_given_for_its_jti_is_not_shown(leeway: Leeway, data_dir: Path) -> None:
    token = leeway("token", "create", "a", "-n", "b", "--data-dir", data_dir).assert_done().strip()
    error = leeway("revoke", "jti", token, "--data-dir", data_dir).assert_failed(2)
    assert token[:20] not in error


@pytest.mark.parametrize("what", [("jti", "a"), ("serviceaccount", "a/b"), ("user", "root")])
def test_a_store_that_is_missing_is_exit_code_3(
    leeway: Leeway, data_dir: Path, what: tuple[str, str]
) -> None:
    (data_dir / "auth.db").unlink()
    leeway("revoke", *what, "--data-dir", data_dir).assert_failed(3, "auth.db is missing")
    leeway("revoke", *what, "--data-dir", data_dir / "none").assert_failed(3, "leeway init")
    leeway("revoke", "list", "--data-dir", data_dir).assert_failed(3, "auth.db is missing")


def test_revocations_are_listed(leeway: Leeway, data_dir: Path) -> None:
    assert leeway("revoke", "list", "--data-dir", data_dir).assert_done().split() == [
        "WHAT",
        "BEFORE",
        "UNTIL",
    ]
    for arguments in (("jti", JTI), ("serviceaccount", "argo-run/loofah"), ("user", "root")):
        leeway("revoke", *arguments, "--data-dir", data_dir).assert_done()
    lines = leeway("revoke", "list", "--data-dir", data_dir).assert_done().splitlines()[1:]
    assert re.fullmatch(rf"jti {JTI}  {TIME}  {TIME}", lines[0])
    assert re.fullmatch(rf"serviceaccount argo-run/loofah +{TIME}  {TIME}", lines[1])
    # A revocation that ends at once is not kept.
    assert len(lines) == 2
    shown = leeway("revoke", "list", "-o", "json", "--data-dir", data_dir).assert_done()
    rows = json.loads(shown)
    assert [(row["what"], row["name"]) for row in rows] == [
        ("jti", JTI),
        ("serviceaccount", "argo-run/loofah"),
    ]
    assert rows == yaml.safe_load(
        leeway("revoke", "list", "-o", "yaml", "--data-dir", data_dir).assert_done()
    )


def test_with_a_legacy_issuer_a_revocation_is_kept_for_ever(leeway: Leeway, data_dir: Path) -> None:
    section = "{url: kubernetes/serviceaccount, legacy: true, keys: {publicKeyFiles: [sa.pub]}}"
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write(f"trustedIssuers: [{section}]\n")
    leeway("revoke", "jti", JTI, "--data-dir", data_dir).assert_done()
    listed = leeway("revoke", "list", "--data-dir", data_dir).assert_done()
    assert re.search(rf"^jti {JTI}  {TIME}  never dropped$", listed, re.M)
    shown = leeway("revoke", "list", "-o", "json", "--data-dir", data_dir).assert_done()
    assert json.loads(shown)[0]["until"] is None


@pytest.mark.parametrize("how", ["jti", "serviceaccount", "user"])
def test_token_review_shows_a_revocation(leeway: Leeway, data_dir: Path, how: str) -> None:
    create = ("token", "create", "loofah", "-n", "argo-run", "--data-dir", data_dir)
    token = leeway(*create).assert_done().strip()
    review = ("token", "review", token, "--data-dir", data_dir)
    assert "revoked     ok" in leeway(*review).assert_done()
    inspected = leeway("token", "inspect", token, "-o", "json").assert_done()
    jti = json.loads(inspected)["unverified"]["claims"]["jti"]
    names = {"jti": jti, "serviceaccount": "argo-run/loofah", "user": ACCOUNT}
    leeway("revoke", how, names[how], "--data-dir", data_dir).assert_done()
    ran = leeway(*review)
    assert (ran.code, ran.err) == (1, "")
    assert "revoked     FAIL" in ran.out
    assert "REFUSED (Revoked): service account token has been revoked: " in ran.out
    status = json.loads(leeway(*review, "-o", "json").out)["status"]
    assert status["authenticated"] is False
    assert "has been revoked" in status["error"]


def test_token_review_without_a_store_says_that_revocations_do_not_count(
    leeway: Leeway, data_dir: Path
) -> None:
    create = ("token", "create", "loofah", "-n", "argo-run", "--data-dir", data_dir)
    token = leeway(*create).assert_done().strip()
    (data_dir / "auth.db").unlink()
    ran = leeway("token", "review", token, "--data-dir", data_dir)
    assert ran.code == 0
    assert ran.err.startswith("leeway: warning: ")
    assert not (data_dir / "auth.db").exists()
