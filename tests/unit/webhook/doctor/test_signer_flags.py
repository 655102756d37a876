"""Flags with which kube-apiserver uses the signer, and those that exclude it."""

from typing import Any

import pytest
import yaml

from tests.deploy.json_patch import patched
from tests.deploy.signer_patch import ENDPOINT as DEPLOYED_ENDPOINT
from tests.deploy.signer_patch import flags_of, operations
from tests.deploy.signer_patch import manifest as kubeadm_manifest
from webhook.config.load import parse_configuration
from webhook.config.model import Configuration
from webhook.doctor import api_server_flags, signer_flags
from webhook.doctor.findings import Status
from webhook.doctor.manifest import CONTROLLER_MANAGER, Manifest, parse_manifest
from webhook.errors import ConfigurationError

ENDPOINT = "--service-account-signing-endpoint=/run/leeway/signer.sock"
ISSUER = "--service-account-issuer=https://leeway.default.svc"
MAXIMUM = "--service-account-max-token-expiration"
WEBHOOK = "--authentication-token-webhook-config-file=/etc/t.yaml"
FOLDER = {"name": "run", "mountPath": "/run/leeway"}
VOLUMES = [
    {"name": "run", "hostPath": {"path": "/run/leeway"}},
    {"name": "other", "hostPath": {"path": "/var/run/signer"}},
    {"name": "file", "hostPath": {"path": "/run/leeway/signer.sock", "type": "Socket"}},
    {"name": "none", "emptyDir": {}},
]


def manifest(*words: str, mounts: Any = (FOLDER,), image: Any = "") -> Manifest:
    container = {"name": "k", "command": ["kube-apiserver", *words], "volumeMounts": list(mounts)}
    container["image"] = image
    spec = {"containers": [container], "volumes": VOLUMES}
    return parse_manifest(yaml.safe_dump({"kind": "Pod", "spec": spec}).encode(), "m.yaml")


def configuration(text: str = "{}") -> Configuration:
    return parse_configuration(text, "leeway.yaml", {}, {})


OK, WARNING, FAILURE = Status.OK, Status.WARNING, Status.FAILURE


@pytest.mark.parametrize(
    ("found", "status", "finding", "fix"),
    [
        pytest.param(manifest(ENDPOINT), OK, "signed at /run/leeway/signer.sock", "", id="right"),
        pytest.param(
            manifest(f"{ENDPOINT[:-11]}./signer.sock"), OK, "signed at /run/leeway/signer.sock", "",
            id="not-normal",
        ),
        pytest.param(
            manifest("--service-account-key-file=/k"), FAILURE, "with a key of its own",
            "set --service-account-signing-endpoint=/run/leeway/signer.sock, and remove "
            "--service-account-key-file",
            id="not-used",
        ),
        pytest.param(
            manifest(ENDPOINT, "--service-account-key-file=/a", "--service-account-key-file=/b"),
            FAILURE, "does not start", "remove --service-account-key-file", id="key-file",
        ),
        pytest.param(
            manifest(
                ENDPOINT, "--service-account-key-file=/a", "--service-account-signing-key-file=/a"
            ),
            FAILURE, "beside --service-account-signing-key-file and --service-account-key-file",
            "remove --service-account-signing-key-file and", id="both-key-files",
        ),
        pytest.param(
            manifest(
                ENDPOINT, "--service-account-key-file=", "--service-account-signing-key-file="
            ),
            FAILURE, "beside --service-account-key-file", "remove --service-account-key-file",
            id="empty-key-file",
        ),
        pytest.param(
            manifest("--service-account-signing-endpoint=@leeway"), FAILURE, "'@leeway'",
            "set --service-account-signing-endpoint=/run/leeway/signer.sock", id="abstract",
        ),
        pytest.param(
            manifest(ENDPOINT, mounts=()), FAILURE, "no hostPath volume",
            "{path: /run/leeway}, mounted at /run/leeway", id="not-mounted",
        ),
        pytest.param(
            manifest(ENDPOINT, mounts=[FOLDER | {"name": "none"}]), FAILURE, "no hostPath volume",
            "hostPath", id="another-volume",
        ),
        pytest.param(
            manifest(ENDPOINT, mounts=[FOLDER | {"name": "other"}]), FAILURE,
            "/var/run/signer/signer.sock on the machine, while the signer's socket is "
            "/run/leeway/signer.sock", "signer.socket", id="another-folder",
        ),
        pytest.param(
            manifest("--service-account-signing-endpoint=/run/leeway/other.sock"), FAILURE,
            "/run/leeway/other.sock on the machine", "signer.socket", id="another-socket",
        ),
        pytest.param(
            manifest(ENDPOINT, mounts=[{"name": "file", "mountPath": "/run/leeway/signer.sock"}]),
            FAILURE, "another one at each start", "mount its folder", id="socket-mounted",
        ),
    ],
)  # fmt: skip
def test_the_endpoint(found: Manifest, status: Status, finding: str, fix: str) -> None:
    verdict = signer_flags.check_endpoint(found, configuration("signer: {}"))
    assert verdict.status is status, verdict
    assert finding in verdict.finding
    assert fix in verdict.fix
    assert bool(verdict.fix) is (status is not OK)


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("registry.k8s.io/kube-apiserver:v1.33.5", (1, 33)),
        ("localhost:5000/kube-apiserver:v1.34.0@sha256:0123", (1, 34)),
        ("kube-apiserver:1.36", (1, 36)),
        ("kube-apiserver:v1.36-gke.1", None),
        ("localhost:5000/kube-apiserver", None),
        ("kube-apiserver:latest", None),
        ("kube-apiserver@sha256:0123", None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_versions_that_call_another_version_of_the_signers_api(
    image: object, version: tuple[int, int] | None
) -> None:
    found = manifest(ENDPOINT, image=image)
    assert found.version() == version
    verdict = signer_flags.check_endpoint(found, configuration("signer: {}"))
    assert verdict.status is (FAILURE if version == (1, 33) else OK)
    assert ("upgrade to 1.34" in verdict.fix) is (version == (1, 33))


def test_the_endpoint_given_twice() -> None:
    twice = manifest(ENDPOINT, ENDPOINT.replace("signer.sock", "other.sock"))
    assert api_server_flags.check_flags_once(twice).status is FAILURE


def test_the_endpoint_can_have_another_path_in_the_pod() -> None:
    mounts = [{"name": "other", "mountPath": "/signer"}]
    found = manifest("--service-account-signing-endpoint=/signer/s.sock", mounts=mounts)
    section = configuration("signer: {socket: /var/run/signer/s.sock}")
    assert signer_flags.check_endpoint(found, section).status is OK


@pytest.mark.parametrize(
    ("words", "status", "finding"),
    [
        pytest.param([ISSUER], OK, "issuer https://leeway.default.svc", id="one"),
        pytest.param([ISSUER, "--service-account-issuer=b"], OK, "issuer", id="first"),
        pytest.param(["--service-account-issuer=b", ISSUER], FAILURE, "'b' (the first", id="later"),
        pytest.param([], FAILURE, "not set", id="none"),
    ],
)
def test_the_issuer(words: list[str], status: Status, finding: str) -> None:
    verdict = signer_flags.check_issuer(manifest(*words), configuration())
    assert verdict.status is status
    assert finding in verdict.finding


@pytest.mark.parametrize(
    ("words", "text", "status", "finding"),
    [
        pytest.param([], "{}", OK, "up to 24h (tokens.maxExpiration)", id="none"),
        pytest.param([f"{MAXIMUM}=24h0m0s"], "{}", OK, "up to 24h", id="equal"),
        pytest.param([f"{MAXIMUM}=0"], "{}", OK, "up to 24h", id="zero"),
        pytest.param([f"{MAXIMUM}=24h1s"], "{}", FAILURE, "does not start with", id="longer"),
        pytest.param([f"{MAXIMUM}=48h"], "tokens: {maxExpiration: 2d}", OK, "48h", id="raised"),
        pytest.param([f"{MAXIMUM}=1h"], "{}", WARNING, "never extended", id="short"),
        pytest.param([f"{MAXIMUM}=3607s"], "{}", OK, "up to 1h7s", id="just-long-enough"),
        pytest.param([f"{MAXIMUM}=59m59s"], "{}", FAILURE, "requires 1h or more", id="too-short"),
        pytest.param([f"{MAXIMUM}=1d"], "{}", FAILURE, "not a duration", id="days"),
        pytest.param([f"{MAXIMUM}=x"], "{}", FAILURE, "not a duration", id="no-duration"),
    ],
)
def test_the_longest_lifetime(words: list[str], text: str, status: Status, finding: str) -> None:
    verdict = signer_flags.check_expiration(manifest(*words), configuration(text))
    assert verdict.status is status, verdict
    assert finding in verdict.finding


@pytest.mark.parametrize(
    ("words", "text", "status"),
    [
        pytest.param([ENDPOINT], "{}", OK, id="no-webhook"),
        pytest.param([WEBHOOK], "{}", OK, id="no-signer"),
        pytest.param([ENDPOINT, WEBHOOK], "{}", WARNING, id="no-objects"),
        pytest.param([ENDPOINT, WEBHOOK], "objects: {source: kubernetes}", OK, id="objects"),
    ],
)
def test_leeway_accepts_nothing_that_the_api_server_has_refused(
    words: list[str], text: str, status: Status
) -> None:
    assert signer_flags.check_reviews(manifest(*words), configuration(text)).status is status


def test_without_a_webhook_the_api_server_verifies_the_tokens_itself() -> None:
    assert api_server_flags.check_token_flags(manifest(ENDPOINT)).status is OK
    assert api_server_flags.check_token_flags(manifest()).status is FAILURE


@pytest.mark.parametrize(
    ("command", "status"),
    [
        pytest.param(["kube-controller-manager"], OK, id="none"),
        pytest.param(
            ["kube-controller-manager", "--service-account-private-key-file="], OK, id="empty"
        ),
        pytest.param(
            ["/hyperkube", "controller-manager", "--service-account-private-key-file=/sa.key"],
            WARNING, id="hyperkube",
        ),
        pytest.param(
            ["kube-controller-manager", "--service-account-private-key-file", "/sa.key"],
            WARNING, id="kubeadm",
        ),
    ],
)  # fmt: skip
def test_the_key_of_the_controller_manager(command: list[str], status: Status) -> None:
    pod = {"kind": "Pod", "spec": {"containers": [{"command": command}]}}
    found = parse_manifest(yaml.safe_dump(pod).encode(), "m.yaml", CONTROLLER_MANAGER)
    verdict = signer_flags.check_controller_key(found, "m.yaml")
    assert verdict.status is status
    assert ("/sa.key" in verdict.finding) is (status is WARNING)


def test_another_program_is_not_the_controller_manager() -> None:
    pod = {"kind": "Pod", "spec": {"containers": [{"command": ["kube-apiserver"]}]}}
    with pytest.raises(ConfigurationError, match="runs kube-controller-manager"):
        parse_manifest(yaml.safe_dump(pod).encode(), "m.yaml", CONTROLLER_MANAGER)


def test_the_manifest_of_kubeadm_before_and_after_the_patch() -> None:
    issuer = "https://kubernetes.default.svc.cluster.local"
    found = configuration(f"{{issuer: '{issuer}', audiences: ['{issuer}'], signer: {{}}}}")
    checks = (
        signer_flags.check_endpoint, signer_flags.check_issuer, signer_flags.check_expiration,
        signer_flags.check_reviews,
    )  # fmt: skip

    def statuses(pod: Any) -> list[Status]:
        read = parse_manifest(yaml.safe_dump(pod).encode(), "kube-apiserver.yaml")
        assert read.version() == (1, 36)
        return [check(read, found).status for check in checks]

    assert statuses(kubeadm_manifest()) == [FAILURE, OK, OK, OK]
    assert statuses(patched(kubeadm_manifest(), operations())) == [OK] * 4
    # Where the flag was added without the patch.
    half = kubeadm_manifest()
    flags_of(half).append(DEPLOYED_ENDPOINT)
    assert statuses(half) == [FAILURE, OK, OK, OK]
