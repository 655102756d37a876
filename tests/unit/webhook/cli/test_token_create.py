"""``leeway token create``."""

import socket
from contextlib import closing
from pathlib import Path
from time import time

import pytest

from tests.fake_kube import fake_kube
from tests.support import claims_in
from tests.unit.webhook.cli.cli_support import Leeway, run_process
from webhook.token.bound_objects import Kind, ObjectKey

POD = ("--bound-object-kind", "Pod", "--bound-object-name", "p-0", "--bound-object-uid", "u-1")
UID_OF_LOOFAH = "1314ea02-d034-5f4d-adf9-b4c6930045d5"


def create(leeway: Leeway, data_dir: Path, *flags: str) -> str:
    arguments = ("loofah", "-n", "argo-run", *flags, "--data-dir", str(data_dir))
    out = leeway("token", "create", *arguments).assert_done()
    # The token alone, in one line.
    assert out.count("\n") == 1
    assert out.endswith("\n")
    assert out.count(".") == 2
    return out[:-1]


def test_claims_without_a_flag(leeway: Leeway, made: Path) -> None:
    before = int(time())
    claims = claims_in(create(leeway, made))
    after = int(time())
    assert before <= claims["iat"] <= after
    assert claims["nbf"] == claims["iat"]
    assert claims["exp"] == claims["iat"] + 3600
    assert claims["iss"] == "https://leeway.default.svc"
    assert claims["aud"] == ["https://kubernetes.default.svc"]
    assert claims["sub"] == "system:serviceaccount:argo-run:loofah"
    assert claims["kubernetes.io"] == {
        "namespace": "argo-run",
        "serviceaccount": {"name": "loofah", "uid": UID_OF_LOOFAH},
    }


FLAGS: list[tuple[tuple[str, ...], dict[str, object]]] = [
    (("--uid", "u-0"), {"serviceaccount": {"name": "loofah", "uid": "u-0"}}),
    (POD, {"pod": {"name": "p-0", "uid": "u-1"}}),
    (
        (*POD, "--node-name", "n-0", "--node-uid", "u-2"),
        {"pod": {"name": "p-0", "uid": "u-1"}, "node": {"name": "n-0", "uid": "u-2"}},
    ),
    ((*POD, "--node-name", "n-0"), {"node": {"name": "n-0"}}),
    (("--bound-object-kind", "Secret", *POD[2:]), {"secret": {"name": "p-0", "uid": "u-1"}}),
    (("--bound-object-kind", "Node", *POD[2:]), {"node": {"name": "p-0", "uid": "u-1"}}),
]


@pytest.mark.parametrize(("flags", "expected"), FLAGS, ids=[" ".join(c[0]) for c in FLAGS])
def test_flags_become_claims(
    leeway: Leeway, made: Path, flags: tuple[str, ...], expected: dict[str, object]
) -> None:
    private = claims_in(create(leeway, made, *flags))["kubernetes.io"]
    kinds = {"serviceaccount", *expected}
    assert {
        kind for kind in ("pod", "secret", "node", "serviceaccount") if kind in private
    } >= kinds
    assert {name: private[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("duration", "seconds"), [("10m", 600), ("1h30m", 5400), ("24h", 86400), ("1d", 86400)]
)
def test_duration(leeway: Leeway, made: Path, duration: str, seconds: int) -> None:
    claims = claims_in(create(leeway, made, "--duration", duration))
    assert claims["exp"] - claims["iat"] == seconds


def test_audiences(leeway: Leeway, made: Path) -> None:
    token = create(leeway, made, "--audience", "vault", "--audience", "b", "--audience", "vault")
    assert claims_in(token)["aud"] == ["vault", "b", "vault"]


@pytest.mark.fault(45)
def test_without_objects_nothing_is_extended(leeway: Leeway, made: Path) -> None:
    claims = claims_in(create(leeway, made, *POD, "--duration", "3607s"))
    assert claims["exp"] - claims["iat"] == 3607
    assert "warnafter" not in claims["kubernetes.io"]


OBJECTS = """\
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: loofah, namespace: argo-run, uid: u-sa}}
---
apiVersion: v1
kind: Pod
metadata: {name: p-0, namespace: argo-run, uid: u-1}
spec: {serviceAccountName: loofah, nodeName: n-0}
---
apiVersion: v1
kind: Pod
metadata: {name: p-1, namespace: argo-run, uid: u-2}
spec: {serviceAccountName: other}
---
{apiVersion: v1, kind: Secret, metadata: {name: s-0, namespace: argo-run, uid: u-3}}
---
{apiVersion: v1, kind: Node, metadata: {name: n-0, uid: u-4}}
"""


@pytest.fixture
def with_objects(data_dir: Path) -> Path:
    """Return a data directory whose objects are in a file."""
    with (data_dir / "leeway.yaml").open("a") as configuration:
        configuration.write("objects: {source: file, file: {path: objects.yaml}}\n")
    (data_dir / "objects.yaml").write_text(OBJECTS)
    return data_dir


def bound_to(kind: str, name: str) -> tuple[str, ...]:
    return ("--bound-object-kind", kind, "--bound-object-name", name)


NODE_CLAIM = {"name": "n-0", "uid": "u-4"}
LOOKED_UP: list[tuple[tuple[str, ...], dict[str, object]]] = [
    ((), {}),
    (("--uid", "u-sa"), {}),
    (bound_to("Pod", "p-0"), {"pod": {"name": "p-0", "uid": "u-1"}, "node": NODE_CLAIM}),
    (
        (*POD, "--node-name", "n-0", "--node-uid", "u-4"),
        {"pod": {"name": "p-0", "uid": "u-1"}, "node": NODE_CLAIM},
    ),
    (bound_to("Secret", "s-0"), {"secret": {"name": "s-0", "uid": "u-3"}}),
    (bound_to("Node", "n-0"), {"node": NODE_CLAIM}),
]


@pytest.mark.fault(7)
@pytest.mark.parametrize(("flags", "bound"), LOOKED_UP, ids=[" ".join(c[0]) for c in LOOKED_UP])
def test_objects_are_looked_up_and_the_review_agrees(
    leeway: Leeway, with_objects: Path, flags: tuple[str, ...], bound: dict[str, object]
) -> None:
    token = create(leeway, with_objects, *flags)
    assert claims_in(token)["kubernetes.io"] == {
        "namespace": "argo-run",
        "serviceaccount": {"name": "loofah", "uid": "u-sa"},
        **bound,
    }
    leeway("token", "review", token, "--data-dir", with_objects).assert_done()


@pytest.mark.fault(7, 45)
def test_the_token_of_an_existing_pod_is_extended(leeway: Leeway, with_objects: Path) -> None:
    claims = claims_in(create(leeway, with_objects, *POD, "--duration", "3607s"))
    assert claims["exp"] - claims["iat"] == 365 * 24 * 3600
    assert claims["kubernetes.io"]["warnafter"] - claims["iat"] == 3607


NOT_ISSUED: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("nobody", (), ('serviceaccounts "nobody" not found in objects.yaml', "create it there")),
    ("loofah", bound_to("Pod", "p-9"), ('pods "p-9" not found in objects.yaml',)),
    ("loofah", bound_to("Secret", "s-9"), ('secrets "s-9" not found in objects.yaml',)),
    ("loofah", bound_to("Node", "n-9"), ('nodes "n-9" not found in objects.yaml',)),
    ("loofah", ("--uid", "u-0"), ("u-0", "u-sa")),
    ("loofah", (*POD[:5], "u-9"), ('Operation cannot be fulfilled on Pod "p-0"', "u-9")),
    ("loofah", bound_to("Pod", "p-1"), ("different serviceaccount name",)),
    ("loofah", (*POD, "--node-name", "n-1"), ("--node-name", "'n-1'", "'n-0'")),
    ("loofah", (*POD, "--node-name", "n-0", "--node-uid", "u"), ("--node-uid", "'u-4'")),
]


@pytest.mark.bad_input(25)
@pytest.mark.fault(7)
@pytest.mark.parametrize(
    ("name", "flags", "parts"), NOT_ISSUED, ids=[" ".join([c[0], *c[1]]) for c in NOT_ISSUED]
)
def test_missing_objects_are_named(
    leeway: Leeway, with_objects: Path, name: str, flags: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    ran = leeway("token", "create", name, "-n", "argo-run", *flags, "--data-dir", with_objects)
    ran.assert_failed(1, "no token was made: ", *parts)
    assert not (with_objects / "audit.log").exists()


@pytest.mark.bad_input(25)
@pytest.mark.fault(7)
def test_an_unreachable_api_server(leeway: Leeway, data_dir: Path) -> None:
    with (data_dir / "leeway.yaml").open("a") as configuration:
        configuration.write("objects: {source: kubernetes, kubernetes: {kubeconfig: kube.yaml}}\n")
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        root = (data_dir / "kubeconfig" / "root.yaml").read_text()
        port = unused.getsockname()[1]
        (data_dir / "kube.yaml").write_text(root.replace("127.0.0.1:8443", f"127.0.0.1:{port}"))
        (data_dir / "kube.yaml").chmod(0o600)
        ran = leeway("token", "create", "loofah", "-n", "argo-run", "--data-dir", data_dir)
    ran.assert_failed(3, "service account argo-run/loofah could not be looked up")


@pytest.mark.fault(7)
def test_the_objects_of_a_cluster(leeway: Leeway, data_dir: Path) -> None:
    with (data_dir / "leeway.yaml").open("a") as configuration:
        configuration.write("objects: {source: kubernetes, kubernetes: {kubeconfig: kube.yaml}}\n")
    with fake_kube() as kube:
        kube.put(ObjectKey(Kind.SERVICE_ACCOUNT, "argo-run", "loofah"), "u-cluster")
        (data_dir / "kube.yaml").touch(0o600)
        (data_dir / "kube.yaml").write_bytes(kube.kubeconfig())
        (data_dir / "kube.yaml").chmod(0o600)
        claims = claims_in(create(leeway, data_dir))
        assert claims["kubernetes.io"]["serviceaccount"]["uid"] == "u-cluster"
        ran = leeway("token", "create", "other", "-n", "argo-run", "--data-dir", data_dir)
    ran.assert_failed(1, 'serviceaccounts "other" not found in the cluster')


def test_a_warning_goes_to_stderr_and_the_token_alone_to_stdout(made: Path) -> None:
    flags = ("--duration", "48h", "--data-dir", made)
    ran = run_process("token", "create", "loofah", "-n", "argo-run", *flags)
    assert ran.code == 0
    assert ran.err == (
        "leeway: warning: requested expiration of 172800 seconds shortened to 86400 seconds\n"
    )
    claims = claims_in(ran.out.removesuffix("\n"))
    assert claims["exp"] - claims["iat"] == 86400


def test_configuration_and_environment_are_used(
    leeway: Leeway, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEEWAY_DATA_DIR", str(made))
    monkeypatch.setenv("LEEWAY_ISSUER", "https://other.example")
    monkeypatch.setenv("LEEWAY_AUDIENCES", "a, b")
    out = leeway("token", "create", "loofah", "-n", "argo-run").assert_done()
    claims = claims_in(out.strip())
    assert (claims["iss"], claims["aud"]) == ("https://other.example", ["a", "b"])


WRONG: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("Loofah", "-n", "a"), ("name 'Loofah'", "a-z")),
    (("", "-n", "a"), ("name ''",)),
    (("a:b", "-n", "a"), ("name 'a:b'",)),
    (("a\nb", "-n", "a"), (r"name 'a\nb'",)),
    (("a", "-n", "A"), ("namespace 'A'",)),
    (("a", "-n", ""), ("namespace ''",)),
    (("a", "-n", "a.b"), ("namespace 'a.b'",)),
    (("a", "-n", "a", "--duration", "9m59s"), ("less than 600 seconds", "599")),
    (("a", "-n", "a", "--duration", "0"), ("less than 600 seconds",)),
    (("a", "-n", "a", "--duration", "3600"), ("is not a duration", "1h30m")),
    (("a", "-n", "a", "--duration", "-1h"), ("is not a duration",)),
    (("a", "-n", "a", "--duration", "5000000000s"), ("2^32",)),
    (("a", "-n", "a", "--duration", "9" * 400 + "s"), ("is not a duration",)),
    (("a", "-n", "a", "--audience", ""), ("aud",)),
    (("a", "-n", "a", "--audience", "a\nb"), ("aud", "printable text")),
    (("a", "-n", "a", *["--audience=x"] * 101), ("101 audiences are too many",)),
    (("a", "-n", "a", "--audience", "x" * 40000), ("characters",)),
    (("a", "-n", "a", "--uid", "é"), ("uid", "ASCII")),
    (("a", "-n", "a", *POD[:2]), ("go together",)),
    (("a", "-n", "a", *POD[2:]), ("go together",)),
    (("a", "-n", "a", *POD[:4]), ("--bound-object-uid is needed", "`objects.source: none`")),
    (("a", "-n", "a", "--bound-object-kind", "pod", *POD[2:]), ("'Pod'",)),
    (("a", "-n", "a", *POD[:3], "P_0", *POD[4:]), ("name 'P_0'",)),
    (("a", "-n", "a", "--node-name", "n"), ("need --bound-object-kind Pod",)),
    (("a", "-n", "a", *POD, "--node-uid", "u"), ("needs --node-name",)),
    (
        ("a", "-n", "a", "--bound-object-kind", "Secret", *POD[2:], "--node-name", "n"),
        ("need --bound-object-kind Pod",),
    ),
]


@pytest.mark.parametrize(
    ("arguments", "parts"), WRONG, ids=[" ".join(c[0])[:40].replace("\n", " ") for c in WRONG]
)
def test_wrong_input(
    leeway: Leeway, made: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    leeway("token", "create", *arguments, "--data-dir", made).assert_failed(2, *parts)


def test_without_a_data_directory(leeway: Leeway, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        ran = leeway("token", "create", "a", "-n", "b", "--data-dir", folder)
        ran.assert_failed(3, f"{folder / 'leeway.yaml'} is missing", "`leeway init`")


def test_with_a_private_key_that_others_can_read(leeway: Leeway, data_dir: Path) -> None:
    path = next((data_dir / "keys").glob("*.pem"))
    path.chmod(0o640)
    ran = leeway("token", "create", "a", "-n", "b", "--data-dir", data_dir)
    error = ran.assert_failed(3, f"chmod 600 {path}")
    assert path.read_text().splitlines()[1] not in error
