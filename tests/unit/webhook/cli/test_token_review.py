"""``leeway token review``."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.jws import SigningKey
from tests.fake_kube import fake_kube
from tests.support import (
    ACCOUNT,
    ACCOUNT_UID,
    NAMESPACE,
    NOW,
    JSONObject,
    assert_token_not_in,
    good_claims,
    header_of,
    signing_key,
    token_of,
)
from tests.unit.webhook.cli.cli_support import Leeway, Ran, run_process
from webhook.token.bound_objects import Kind, ObjectKey

CHECKS = [
    "form",
    "issuer",
    "key",
    "signature",
    "claims",
    "audience",
    "not before",
    "expiry",
    "issued at",
    "objects",
    "revoked",
]
AT_NOW = ("--at", str(int(NOW)))
NONE = -1
LINE = re.compile(r"   ?(\d+)  (.{10})  (ok  |FAIL|-   )  (\S.*)")
FOREIGN = signing_key("ES256", "foreign")
LEGACY = signing_key("RS256", "legacy")
LEGACY_ISSUER = "kubernetes/serviceaccount"
NOT_CHECKED = "not checked, because of the line above that failed"
SKEWED = (
    "service account token is not valid yet: nbf is 92s ahead of this server's clock "
    "(leeway 60s, 32s short)"
)


def legacy_claims() -> JSONObject:
    prefix = "kubernetes.io/serviceaccount/"
    return {
        "iss": LEGACY_ISSUER,
        "sub": f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}",
        f"{prefix}namespace": NAMESPACE,
        f"{prefix}secret.name": "loofah-token",
        f"{prefix}service-account.name": ACCOUNT,
        f"{prefix}service-account.uid": ACCOUNT_UID,
    }


@dataclass(frozen=True)
class Case:
    """A token and its review; ``failed`` is the index of a check."""

    name: str
    claims: JSONObject
    failed: int
    verdict: str
    details: dict[int, str] = field(default_factory=dict)
    flags: tuple[str, ...] = AT_NOW
    key: SigningKey | None = None
    header: JSONObject | None = None
    text: str = ""


ACCEPTED = "ACCEPTED: system:serviceaccount:argo-run:loofah"
CASES = [
    Case(
        "good",
        good_claims(),
        NONE,
        ACCEPTED,
        {
            4: "complete; it speaks for system:serviceaccount:argo-run:loofah",
            5: "made for https://kubernetes.default.svc",
            6: "valid since 2027-01-15T07:59:50Z, 10s ago; leeway needed 0s, allowed 60s",
            7: "expires at 2027-01-15T09:00:00Z, in 1h; leeway needed 0s, allowed 60s",
            8: "issued at 2027-01-15T07:59:50Z, 10s ago; leeway needed 0s, allowed 60s",
        },
    ),
    Case(
        "good within the leeway",
        good_claims(nbf=int(NOW) + 60, iat=int(NOW) + 60),
        NONE,
        ACCEPTED + ", only thanks to the leeway for nbf, iat",
    ),
    Case(
        "stale",
        good_claims(
            **{
                "kubernetes.io": {
                    "namespace": NAMESPACE,
                    "serviceaccount": {"name": ACCOUNT, "uid": ACCOUNT_UID},
                    "warnafter": int(NOW) - 90,
                }
            }
        ),
        NONE,
        ACCEPTED + "; stale: 1m30s past its warnafter",
    ),
    Case(
        "skewed",
        good_claims(nbf=int(NOW) + 92, iat=int(NOW) + 92),
        6,
        f"REFUSED (NotYetValid): {SKEWED}",
        {
            6: "valid from 2027-01-15T08:01:32Z, in 1m32s; leeway needed 92s, allowed 60s",
            8: "issued at 2027-01-15T08:01:32Z, in 1m32s; leeway needed 92s, allowed 60s",
        },
    ),
    Case(
        "expired",
        good_claims(exp=int(NOW) - 61),
        7,
        "REFUSED (Expired): service account token has expired: exp was 61s ago by this server's "
        "clock (leeway 60s, 1s short)",
        {7: "expired at 2027-01-15T07:58:59Z, 1m1s ago; leeway needed 61s, allowed 60s"},
    ),
    Case(
        "issued in the future",
        good_claims(iat=int(NOW) + 61),
        8,
        "REFUSED (IssuedInFuture): service account token is issued in the future: iat is 61s ahead "
        "of this server's clock (leeway 60s, 1s short)",
    ),
    Case(
        "wrong audience",
        good_claims(),
        5,
        'REFUSED (AudienceMismatch): token audiences ["https://kubernetes.default.svc"] is invalid '
        'for the target audiences ["vault" "db"]',
        {5: "made for https://kubernetes.default.svc, which is not what was asked"},
        flags=(*AT_NOW, "--audience", "vault", "--audience", "db"),
    ),
    Case(
        "audience that would break the verdict's line",
        good_claims(),
        5,
        'REFUSED (AudienceMismatch): token audiences ["https://kubernetes.default.svc"] is invalid '
        r'for the target audiences ["a\u000ab\u001b[2J"]',
        flags=(*AT_NOW, "--audience", "a\nb\x1b[2J"),
    ),
    Case(
        "wrong claims",
        good_claims(sub="system:serviceaccount:argo-run:other"),
        4,
        "REFUSED (SubjectMismatch): service account token sub claim is invalid: it is "
        "'system:serviceaccount:argo-run:other', its kubernetes.io claims are those of "
        "argo-run/loofah",
        {4: "not those of a service account token", 5: NOT_CHECKED},
    ),
    Case(
        "unknown key",
        good_claims(),
        2,
        "REFUSED (UnknownKey): invalid signature, no keys found: kid 'nobody' is not one of the 1 "
        "keys of issuer https://leeway.default.svc",
        {2: "none of the issuer's keys fits", 3: NOT_CHECKED},
        header={"alg": "ES256", "kid": "nobody"},
    ),
    Case(
        "foreign issuer",
        good_claims(iss="https://other.example"),
        1,
        "REFUSED (NotRecognised): its issuer 'https://other.example' is not one that is trusted "
        "here",
        {1: "made by an issuer unknown here", 8: NOT_CHECKED},
    ),
    Case(
        "not a JWT",
        {},
        0,
        "REFUSED (Malformed): this is not a service account token: it is not three segments "
        "separated by dots",
        {0: "not a JWT that can be accepted", 1: NOT_CHECKED},
        text="hello",
    ),
    Case(
        "legacy",
        legacy_claims(),
        NONE,
        ACCEPTED,
        {5: "made for the API server", 6: "the token has no such time"},
        key=LEGACY,
    ),
]


@pytest.fixture(scope="module")
def trusting(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data directory that trusts the issuer of legacy tokens too."""
    folder = tmp_path_factory.mktemp("trusting")
    (folder / "keys").symlink_to(made / "keys")
    public = LEGACY.private_key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "sa.pub").write_bytes(pem)
    section = f"- {{url: {LEGACY_ISSUER}, legacy: true, keys: {{publicKeyFiles: [sa.pub]}}}}\n"
    text = (made / "leeway.yaml").read_text() + f"trustedIssuers:\n{section}"
    (folder / "leeway.yaml").write_text(text)
    shutil.copy(made / "auth.db", folder / "auth.db")
    return folder


def token_for(case: Case, own: SigningKey) -> str:
    key = case.key or own
    return case.text or token_of(case.claims, key, case.header or header_of(key))


def unwrapped(lines: list[str]) -> list[str]:
    """Join wrapped lines with those that they continue."""
    joined: list[str] = []
    for line in lines:
        if line.startswith(" " * 10):
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
    return joined


def checks_in(out: str) -> list[tuple[str, str, str]]:
    """Return name, result and detail of each check."""
    block = out.split("\n\n")[1].splitlines()
    assert max(map(len, block)) <= 100
    matches = [LINE.fullmatch(line) for line in unwrapped(block)]
    found = [match.groups() for match in matches if match]
    assert [place for place, *_ in found] == [str(place) for place in range(1, len(CHECKS) + 1)], (
        out
    )
    return [(name.strip(), result.strip(), detail) for _, name, result, detail in found]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_review(leeway: Leeway, trusting: Path, own_key: SigningKey, case: Case) -> None:
    token = token_for(case, own_key)
    ran = leeway("token", "review", token, *case.flags, "--data-dir", trusting)
    assert ran.err == ""
    assert ran.code == (0 if case.failed == NONE else 1)
    assert ran.out.startswith("Token ")
    assert ", reviewed as of 2027-01-15T08:00:00Z\n" in ran.out
    checks = checks_in(ran.out)
    assert [name for name, _, _ in checks] == CHECKS
    passed = len(CHECKS) if case.failed == NONE else case.failed
    failed = [] if case.failed == NONE else ["FAIL"]
    left = len(CHECKS) - passed - len(failed)
    assert [result for _, result, _ in checks] == ["ok"] * passed + failed + ["-"] * left
    for place, detail in case.details.items():
        assert checks[place][2] == detail
    # The verdict is on one line, complete; the advice follows.
    verdict, advice = ran.out.split("\n\n")[2:]
    assert verdict == case.verdict
    assert advice.strip()
    if not case.text:
        assert_token_not_in(token, ran.out)


def test_a_forged_token_shows_nothing_of_what_it_claims(
    leeway: Leeway, made: Path, own_key: SigningKey
) -> None:
    good = token_of(good_claims(), own_key, header_of(own_key))
    other = token_of(good_claims(sub="intruder", jti="intruder"), own_key, header_of(own_key))
    forged = ".".join([good.split(".")[0], other.split(".")[1], good.split(".")[2]])
    for token in (forged, token_of(good_claims(sub="intruder"), FOREIGN, header_of(own_key))):
        ran = leeway("token", "review", token, *AT_NOW, "--data-dir", made)
        assert ran.code == 1
        results = [result for _, result, _ in checks_in(ran.out)]
        assert results == ["ok"] * 3 + ["FAIL"] + ["-"] * 7
        assert "\n\nREFUSED (BadSignature): invalid signature: " in ran.out
        assert "intruder" not in ran.out
        assert_token_not_in(token, ran.out)


def test_what_to_do_about_a_skewed_clock(leeway: Leeway, made: Path, own_key: SigningKey) -> None:
    token = token_for(next(case for case in CASES if case.name == "skewed"), own_key)
    out = leeway("token", "review", token, *AT_NOW, "--data-dir", made).out
    advice = " ".join(out.split("\n\n")[3].split())
    assert "becomes valid by itself in 32s" in advice
    assert "leeway.notBefore in leeway.yaml: 92s would do" in advice
    assert "`date -u`" in advice


def test_output_as_json_and_yaml_is_the_tokenreview(
    leeway: Leeway, made: Path, own_key: SigningKey
) -> None:
    def run(claims: JSONObject, output: str) -> Ran:
        token = token_of(claims, own_key, header_of(own_key))
        return leeway("token", "review", token, *AT_NOW, "-o", output, "--data-dir", made)

    good = run(good_claims(), "json")
    answer = json.loads(good.assert_done())
    assert (answer["kind"], answer["apiVersion"]) == ("TokenReview", "authentication.k8s.io/v1")
    assert not answer["spec"].get("token")
    assert answer["status"]["authenticated"] is True
    assert answer["status"]["user"]["username"] == "system:serviceaccount:argo-run:loofah"
    assert answer["status"]["audiences"] == ["https://kubernetes.default.svc"]
    assert yaml.safe_load(run(good_claims(), "yaml").assert_done()) == answer
    refused = run(good_claims(nbf=int(NOW) + 92), "json")
    assert (refused.code, refused.err) == (1, "")
    answer = json.loads(refused.out)
    assert answer["status"] == {"authenticated": False, "error": SKEWED}
    assert answer["metadata"]["annotations"] == {
        "leeway.dev/reason": "NotYetValid",
        "leeway.dev/skew-seconds": "92",
    }


def test_the_tokens_audiences_are_shown(leeway: Leeway, made: Path, own_key: SigningKey) -> None:
    token = token_of(good_claims(aud=["a", "b", "c"]), own_key, header_of(own_key))
    asked = ("--audience", "c", "--audience", "x", "--audience", "a")
    ran = leeway("token", "review", token, *AT_NOW, *asked, "-o", "json", "--data-dir", made)
    assert json.loads(ran.assert_done())["status"]["audiences"] == ["a", "c"]


AT = [
    ("1800000000", "2027-01-15T08:00:00Z"),
    ("1800000000.9", "2027-01-15T08:00:00Z"),
    ("0", "1970-01-01T00:00:00Z"),
    ("2027-01-15T08:00:00Z", "2027-01-15T08:00:00Z"),
    ("2027-01-15T08:00:00", "2027-01-15T08:00:00Z"),
    ("2027-01-15 10:00:00+02:00", "2027-01-15T08:00:00Z"),
    ("2027-01-15", "2027-01-15T00:00:00Z"),
    ("253402300799", "9999-12-31T23:59:59Z"),
]


@pytest.mark.parametrize(("at", "shown"), AT)
def test_at(leeway: Leeway, made: Path, at: str, shown: str) -> None:
    out = leeway("token", "review", "x", "--at", at, "--data-dir", made).out
    assert out.splitlines()[0].endswith(f", reviewed as of {shown}")


def test_at_a_distance_from_now(leeway: Leeway, data_dir: Path) -> None:
    where = ("--data-dir", str(data_dir))
    token = leeway("token", "create", "loofah", "-n", "argo-run", *where).assert_done()
    for at, code in (("-92s", 1), ("+0s", 0), ("-50s", 0), ("+1h", 0), ("+1h2m", 1)):
        assert leeway("token", "review", *where, "--at", at, stdin=token).code == code, at


WRONG_AT = ["", "now", "92s", "-", "+", "-92", "1e9", "9999999999999", "2027-13-01", "\u0661"]
WRONG_AT += ["-99999999h", "+99999999d", "-" + "9" * 400 + "s", "999999999999", "1969-12-31"]


@pytest.mark.parametrize("at", WRONG_AT, ids=[at[:12] for at in WRONG_AT])
def test_at_no_time(leeway: Leeway, made: Path, at: str) -> None:
    ran = leeway("token", "review", "x", "--at", at, "--data-dir", made)
    ran.assert_failed(2, "'--at'", "see `leeway token review --help`")


def test_where_the_token_comes_from(
    leeway: Leeway, made: Path, tmp_path: Path, own_key: SigningKey
) -> None:
    token = token_of(good_claims(), own_key, header_of(own_key))
    (tmp_path / "token").write_text(f" \t{token}\r\n")
    flags = (*AT_NOW, "--data-dir", str(made))
    expected = leeway("token", "review", token, *flags).assert_done()
    assert leeway("token", "review", f"@{tmp_path / 'token'}", *flags).assert_done() == expected
    for arguments in (("-",), ()):
        ran = leeway("token", "review", *arguments, *flags, stdin=f"\n{token}\n")
        assert ran.assert_done() == expected


def test_a_missing_token(leeway: Leeway, made: Path, tmp_path: Path) -> None:
    where = ("--data-dir", str(made))
    for arguments, stdin in ((("",), ""), ((), " \n"), (("-",), "")):
        leeway("token", "review", *arguments, *where, stdin=stdin).assert_failed(
            2, "the token is empty", "@FILE"
        )
    (tmp_path / "empty").touch()
    for name, part in (("none", "is missing"), (".", "directory"), ("empty", "is empty")):
        path = tmp_path / name
        leeway("token", "review", f"@{path}", *where).assert_failed(3, str(path), part)


def test_a_configuration_that_cannot_be_used(leeway: Leeway, data_dir: Path) -> None:
    path = data_dir / "leeway.yaml"
    text = path.read_text()
    for wrong in ("leeway: {notBefore: 10m}\n", "nope: 1\n", "audiences: [\n", "a: 1\na: 2\n"):
        path.write_text("apiVersion: leeway.dev/v1\nkind: LeewayConfiguration\n" + wrong)
        leeway("token", "review", "x", "--data-dir", data_dir).assert_failed(2, str(path))
    path.write_bytes(b"\xff")
    leeway("token", "review", "x", "--data-dir", data_dir).assert_failed(2, str(path))
    path.write_text(text + "trustedIssuers:\n- {url: https://o, keys: {jwksFile: none.json}}\n")
    ran = leeway("token", "review", "x", "--data-dir", data_dir)
    ran.assert_failed(3, "https://o", "none.json")


def test_a_separate_process(made: Path, own_key: SigningKey) -> None:
    token = token_of(good_claims(nbf=int(NOW) + 92), own_key, header_of(own_key))
    environment = {"LEEWAY_DATA_DIR": str(made)}
    ran = run_process("token", "review", *AT_NOW, stdin=token.encode(), environment=environment)
    assert (ran.code, ran.err) == (1, "")
    assert f"\nREFUSED (NotYetValid): {SKEWED}\n" in ran.out
    assert_token_not_in(token, ran.out)


# Objects -----------------------------------------------------------------------------------------

POD = ObjectKey(Kind.POD, NAMESPACE, "loofah-0")
SERVICE_ACCOUNT = ObjectKey(Kind.SERVICE_ACCOUNT, NAMESPACE, ACCOUNT)


def pod_token(own_key: SigningKey) -> str:
    account = {"name": ACCOUNT, "uid": ACCOUNT_UID}
    private = {"namespace": NAMESPACE, "serviceaccount": account}
    pod = {"name": POD.name, "uid": "u-pod"}
    return token_of(good_claims(**{"kubernetes.io": private | {"pod": pod}}), own_key)


def configure_objects(data_dir: Path, **section: object) -> None:
    with (data_dir / "leeway.yaml").open("a") as configuration:
        configuration.write(f"objects: {json.dumps(section)}\n")


def test_objects_in_a_file(leeway: Leeway, data_dir: Path, own_key: SigningKey) -> None:
    def write(*objects: tuple[ObjectKey, str]) -> None:
        documents = [
            {
                "kind": str(key.kind),
                "apiVersion": "v1",
                "metadata": {"name": key.name, "namespace": key.namespace, "uid": uid},
            }
            for key, uid in objects
        ]
        (data_dir / "objects.yaml").write_text(yaml.safe_dump_all(documents))

    configure_objects(data_dir, source="file", file={"path": "objects.yaml"})
    token = pod_token(own_key)
    account = (SERVICE_ACCOUNT, ACCOUNT_UID)
    for objects, code, text in (
        ((account, (POD, "u-pod")), 0, "ACCEPTED"),
        ((account,), 1, "REFUSED (BoundObjectGone)"),
        ((account, (POD, "other")), 1, "REFUSED (UIDMismatch)"),
        (((POD, "u-pod"),), 1, "REFUSED (ServiceAccountGone)"),
    ):
        write(*objects)
        ran = leeway("token", "review", token, "--data-dir", data_dir, *AT_NOW)
        assert (ran.code, ran.err) == (code, "")
        assert text in ran.out
    (data_dir / "objects.yaml").write_text("")
    ran = leeway("token", "review", token, "--data-dir", data_dir, *AT_NOW)
    ran.assert_failed(2, "objects.yaml has no ServiceAccount")


def test_objects_of_a_cluster(leeway: Leeway, data_dir: Path, own_key: SigningKey) -> None:
    token = pod_token(own_key)
    review = ("token", "review", token, "--data-dir", data_dir, *AT_NOW)
    with fake_kube() as kube:
        (data_dir / "kube").touch(0o600)
        (data_dir / "kube").write_bytes(kube.kubeconfig())
        configure_objects(data_dir, source="kubernetes", kubernetes={"kubeconfig": "kube"})
        for put, code, text in (
            (((SERVICE_ACCOUNT, ACCOUNT_UID), (POD, "u-pod")), 0, "ACCEPTED"),
            (((POD, "other"),), 1, "REFUSED (UIDMismatch)"),
        ):
            for key, uid in put:
                kube.put(key, uid)
            ran = leeway(*review)
            assert (ran.code, ran.err) == (code, "")
            assert text in ran.out
        kube.delete(POD)
        assert "REFUSED (BoundObjectGone)" in leeway(*review).out
        # It looks objects up without a watch.
        assert [path.rpartition("/")[2] for path in kube.look_ups()] == ["loofah", "loofah-0"] * 3
        assert len(kube.requests) == 6
    ran = leeway(*review)
    assert (ran.code, ran.err) == (1, "")
    assert "REFUSED (LookupFailed)" in ran.out


def test_the_client_of_kubernetes_is_imported_only_where_it_is_used(data_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from webhook.assembly import source_of; "
        "from webhook.config.load import load_configuration; "
        "import webhook.server.reload.live_application; "
        "folder = Path(sys.argv[1]); configuration = load_configuration(folder, {}, {}); "
        "source = source_of(folder, configuration); "
        "print(source is None, 'kubernetes' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(data_dir)]

    def run() -> str:
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        return done.stdout.strip()

    assert run() == "True False"
    with fake_kube() as kube:
        (data_dir / "kube").touch(0o600)
        (data_dir / "kube").write_bytes(kube.kubeconfig())
    configure_objects(data_dir, source="kubernetes", kubernetes={"kubeconfig": "kube"})
    assert run() == "False True"
