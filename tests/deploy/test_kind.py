"""What deploy/kind/leeway-kind.sh makes, as far as that shows without a container engine."""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cel
import pytest
import yaml

from tests.deploy.deploy_schemas import (
    AUTHORIZATION,
    DEPLOY,
    KIND_CLUSTER,
    KUBEADM,
    ROOT,
    assert_container_restricted,
    assert_fields,
    assert_valid,
    documents,
)
from tests.deploy.deployed import (
    assert_signer_runs,
    created_token,
    files_in,
    probe_status,
    review_with,
    run_copy,
    serving,
)
from tests.deploy.json_patch import PatchError, patched
from tests.deploy.signer_patch import ENDPOINT, PATCH, PRIVATE, PUBLIC, SOCKET, flags_of, manifest
from tests.e2e.harness import LEEWAY
from webhook.config.load import load_configuration

SCRIPT = DEPLOY / "kind" / "leeway-kind.sh"
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]
# A realistic folder name: with a blank, a quote, a dollar.
FOLDER = "my 'kind' $HOME"
Make = Callable[..., Path]


def run_script(*arguments: str, shell: str = "sh") -> subprocess.CompletedProcess[str]:
    command = [*(("busybox", "sh") if shell == "busybox" else (shell,)), str(SCRIPT), *arguments]
    return subprocess.run(
        command, env={**os.environ, "LEEWAY": LEEWAY}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that runs the script in a new folder and returns what it made."""

    def run(*arguments: str, shell: str = "sh") -> Path:
        folder = tmp_path_factory.mktemp("kind") / FOLDER
        done = run_script("--dir", str(folder), *arguments, shell=shell)
        assert (done.returncode, done.stderr) == (0, "")
        return folder

    return run


@pytest.fixture(scope="module")
def plain(make: Make) -> Path:
    return make()


@pytest.fixture(scope="module")
def with_authorizer(make: Make) -> Path:
    return make("--authorizer", "--name", "ci", "--kubernetes-version", "1.37.0")


@pytest.fixture(scope="module")
def with_signer(make: Make) -> Path:
    return make("--signer")


@pytest.fixture(scope="module")
def with_both(make: Make) -> Path:
    return make("--signer", "--authorizer", "--kubernetes-version", "1.36.2")


@pytest.fixture(params=["plain", "with_authorizer", "with_signer", "with_both"])
def made(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def patches(folder: Path, kind: str = "ClusterConfiguration") -> dict[str, Any]:
    """Return the kubeadm patches of a kind by their version."""
    found = [yaml.safe_load(text) for text in load(folder / "kind.yaml")["kubeadmConfigPatches"]]
    return {patch["apiVersion"]: patch for patch in found if patch["kind"] == kind}


def flags(patch: dict[str, Any], component: str = "apiServer") -> dict[str, str]:
    arguments = patch.get(component, {}).get("extraArgs", {})
    if isinstance(arguments, dict):
        return arguments
    return {argument["name"]: argument["value"] for argument in arguments}


def test_configuration_has_kinds_fields(made: Path) -> None:
    assert_fields(load(made / "kind.yaml"), KIND_CLUSTER)


def test_patches_have_kubeadms_fields_and_say_the_same(made: Path) -> None:
    found = patches(made)
    assert found.keys() == KUBEADM.keys()
    for version, patch in found.items():
        assert_fields(patch, KUBEADM[version])
    beta3, beta4 = found.values()
    for component in ("apiServer", "controllerManager"):
        assert flags(beta3, component) == flags(beta4, component)
    assert volumes(beta3) == volumes(beta4)


def volumes(patch: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = patch.get("apiServer", {}).get("extraVolumes", [])
    return found


def test_a_patch_of_the_other_version_is_noticed(made: Path) -> None:
    beta3, beta4 = patches(made).values()
    for patch, other in ((beta3, beta4), (beta4, beta3)):
        with pytest.raises(AssertionError, match="extraArgs"):
            assert_fields(
                {**patch, "apiVersion": other["apiVersion"]}, KUBEADM[other["apiVersion"]]
            )


def test_flags_of_the_api_server(
    plain: Path, with_authorizer: Path, with_signer: Path, with_both: Path
) -> None:
    file = "/etc/kubernetes/leeway/tokenreview.yaml"
    webhook = {"authentication-token-webhook-config-file": file}
    authorizer = {"authorization-config": "/etc/kubernetes/leeway/authorization.yaml"}
    for patch in patches(plain).values():
        assert flags(patch) == webhook
    for patch in patches(with_authorizer).values():
        assert flags(patch) == {**webhook, **authorizer}
    # The API server verifies the tokens of the signer itself, and asks nobody about others.
    for patch in patches(with_signer).values():
        assert "apiServer" not in patch
    for patch in patches(with_both).values():
        assert flags(patch) == authorizer


def test_the_controller_manager_signs_nothing_beside_leeway(plain: Path, with_signer: Path) -> None:
    for patch in patches(with_signer).values():
        assert flags(patch, "controllerManager") == {
            "enable-hostpath-provisioner": "true",
            "service-account-private-key-file": "",
        }
    for patch in patches(plain).values():
        assert "controllerManager" not in patch


@pytest.mark.parametrize("name", ["with_signer", "with_both"])
def test_kubeadm_finds_the_patch_and_it_fits(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    (node,) = load(folder / "kind.yaml")["nodes"]
    mounts = {mount["containerPath"]: Path(mount["hostPath"]) for mount in node["extraMounts"]}
    found = patches(folder, "InitConfiguration")
    assert found.keys() == KUBEADM.keys()
    for patch in found.values():
        assert patch.keys() == {"apiVersion", "kind", "patches"}
        assert mounts[patch["patches"]["directory"]] == folder / "patches"
    pod = manifest()
    command = pod["spec"]["containers"][0]["command"]
    if name == "with_both":
        command.remove("--authorization-mode=Node,RBAC")
        command.append("--authorization-config=/etc/kubernetes/leeway/authorization.yaml")
    before = list(command)
    (file,) = (folder / "patches").iterdir()
    assert file.name == PATCH.name
    operations = json.loads(file.read_text())
    (container,) = patched(pod, operations)["spec"]["containers"]
    assert set(before) ^ set(container["command"]) == {PUBLIC, PRIVATE, ENDPOINT}
    other = {"with_signer": 3, "with_both": 2}[name]
    command.insert(other, "--anonymous-auth=false")
    with pytest.raises(PatchError):
        patched(pod, operations)


def test_the_signer_shares_the_data_and_its_socket(with_signer: Path, tmp_path: Path) -> None:
    spec = load(with_signer / "static-pod.yaml")["spec"]
    server, signer = spec["containers"]
    (copy,) = spec["initContainers"]
    assert signer["args"][0] == "signer"
    assert signer["env"] == server["env"]
    assert signer["image"] == server["image"]
    mounts = {mount["name"]: mount["mountPath"] for mount in signer["volumeMounts"]}
    assert mounts == {"data": "/var/lib/leeway", "signer": str(Path(SOCKET).parent)}
    assert mounts["signer"] in {mount["mountPath"] for mount in copy["volumeMounts"]}
    assert "install -d -m 0750 $own /run/leeway" in copy["command"][-1]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "signer"]
    (operation,) = [
        each
        for each in json.loads((with_signer / "patches" / PATCH.name).read_text())
        if each["path"] == "/spec/volumes/-"
    ]
    assert volume["hostPath"] == operation["value"]["hostPath"]
    configuration = load_configuration(with_signer / "leeway-data", {}, {})
    assert configuration.signer is not None
    assert configuration.signer.socket == SOCKET
    # It has to be the API server's own issuer, or each call would be refused.
    (issuer,) = [flag for flag in flags_of(manifest()) if "account-issuer" in flag]
    assert issuer == f"--service-account-issuer={configuration.issuer}"
    assert configuration.audiences[0] == configuration.issuer
    assert_signer_runs(signer, with_signer / "leeway-data", tmp_path / "signer")


def test_every_file_is_where_the_flags_and_the_pod_expect_it(made: Path) -> None:
    (node,) = load(made / "kind.yaml")["nodes"]
    mounts = {mount["containerPath"]: Path(mount["hostPath"]) for mount in node["extraMounts"]}
    assert all(mount["readOnly"] for mount in node["extraMounts"])
    assert all(path.exists() for path in mounts.values())
    assert load(mounts["/etc/kubernetes/manifests/leeway.yaml"])["kind"] == "Pod"
    for patch in patches(made).values():
        for volume in volumes(patch):
            assert volume["hostPath"] == volume["mountPath"]
        for value in flags(patch).values():
            if value.startswith("/"):
                (volume,) = volumes(patch)
                assert (mounts[volume["hostPath"]] / Path(value).name).is_file()
                assert str(Path(value).parent) == volume["mountPath"]
    pod = load(made / "static-pod.yaml")["spec"]
    sources = [v["hostPath"]["path"] for v in pod["volumes"] if "hostPath" in v]
    assert sources in (["/etc/leeway"], ["/etc/leeway", "/run/leeway"])
    assert (mounts["/etc/leeway"] / "leeway.yaml").is_file()


def test_the_api_server_gets_only_what_it_reads(
    plain: Path, with_authorizer: Path, with_signer: Path
) -> None:
    assert files_in(with_signer / "api-server") == {}
    assert files_in(plain / "api-server") == {"tokenreview.yaml": 0o600}
    assert files_in(with_authorizer / "api-server") == {
        "authorization.yaml": 0o600,
        "subjectaccessreview.yaml": 0o600,
        "tokenreview.yaml": 0o600,
    }


def test_names_of_cluster_and_image(plain: Path, with_authorizer: Path) -> None:
    assert load(plain / "kind.yaml")["name"] == "leeway"
    assert "image" not in load(plain / "kind.yaml")["nodes"][0]
    assert load(with_authorizer / "kind.yaml")["name"] == "ci"
    assert load(with_authorizer / "kind.yaml")["nodes"][0]["image"] == "kindest/node:v1.37.0"


IMAGES = [
    ("leeway-webhook:dev", "Never"),
    ("docker.io/you/leeway:1", "IfNotPresent"),
    ("localhost:5001/leeway@sha256:0123", "IfNotPresent"),
]


@pytest.mark.parametrize(("image", "policy"), IMAGES)
def test_an_image_without_registry_is_never_pulled(make: Make, image: str, policy: str) -> None:
    spec = load(make("--image", image) / "static-pod.yaml")["spec"]
    containers = [*spec["initContainers"], *spec["containers"]]
    assert {(c["image"], c["imagePullPolicy"]) for c in containers} == {(image, policy)}


def test_the_manifest_is_a_static_pod(made: Path) -> None:
    (pod,) = documents((made / "static-pod.yaml").read_text())
    assert_valid(pod)
    spec = pod["spec"]
    assert spec["hostNetwork"] is True
    # A static Pod refers to no object of the API (kubelet/config/common.go).
    assert spec["automountServiceAccountToken"] is False
    assert not {"serviceAccountName", "serviceAccount"} & set(spec)
    assert {key for volume in spec["volumes"] for key in volume} == {"name", "hostPath", "emptyDir"}
    for container in spec["containers"]:
        assert_container_restricted(
            {**container, "resources": {"requests": {"cpu": "1", "memory": "1"}}},
            spec["securityContext"],
        )
    (copy,) = spec["initContainers"]
    assert copy["securityContext"]["capabilities"]["add"] == ["CHOWN", "DAC_OVERRIDE", "FOWNER"]


VERSIONS = [("1.30.0", "v1beta1"), ("v1.31.9", "v1beta1"), ("1.32.0", "v1"), ("1.37.2", "v1")]


@pytest.mark.parametrize(("kubernetes", "version"), VERSIONS)
def test_version_of_the_authorizers_file(make: Make, kubernetes: str, version: str) -> None:
    folder = make("--authorizer", "--kubernetes-version", kubernetes)
    configuration = load(folder / "api-server" / "authorization.yaml")
    assert_fields(configuration, AUTHORIZATION)
    assert configuration["apiVersion"] == f"apiserver.config.k8s.io/{version}"


def webhook_of(folder: Path) -> dict[str, Any]:
    authorizers = load(folder / "api-server" / "authorization.yaml")["authorizers"]
    assert [entry["type"] for entry in authorizers] == ["Node", "RBAC", "Webhook"]
    webhook: dict[str, Any] = authorizers[-1]["webhook"]
    return webhook


def test_leeway_is_the_last_authorizer_and_its_absence_denies_nothing(
    with_authorizer: Path,
) -> None:
    webhook = webhook_of(with_authorizer)
    assert webhook["failurePolicy"] == "NoOpinion"
    path = Path(webhook["connectionInfo"]["kubeConfigFile"])
    review = load(with_authorizer / "api-server" / path.name)
    (cluster,) = review["clusters"]
    assert cluster["cluster"]["server"] == (
        "https://127.0.0.1:8443/apis/authorization.k8s.io/v1/subjectaccessreviews"
    )


NODES, ACCOUNTS = "system:nodes", "system:serviceaccounts"
SUBJECTS = [
    ("alice", ["developers"], True),
    ("system:serviceaccount:argo-run:loofah", [ACCOUNTS, f"{ACCOUNTS}:argo-run"], True),
    ("system:serviceaccount:kube-system-2:a", [ACCOUNTS, f"{ACCOUNTS}:kube-system-2"], True),
    ("system:serviceaccount:kube-system:coredns", [ACCOUNTS, f"{ACCOUNTS}:kube-system"], False),
    ("system:node:ci-control-plane", [NODES], False),
    ("system:kube-scheduler", [], False),
    ("system:kube-controller-manager", [], False),
    ("system:apiserver", ["system:masters"], False),
    ("system:anonymous", ["system:unauthenticated"], False),
    ("system:bootstrap:abcdef", ["system:bootstrappers"], False),
    # Before kubeadm init has bound its role, this one must be answered 403 and not 500.
    ("kubernetes-admin", ["kubeadm:cluster-admins"], False),
    ("kubernetes-super-admin", ["system:masters"], False),
]


@pytest.mark.parametrize(("user", "groups", "asked"), SUBJECTS, ids=[s[0] for s in SUBJECTS])
def test_users_that_leeway_is_asked_about(
    with_authorizer: Path, user: str, groups: list[str], asked: bool
) -> None:
    request = {"request": {"user": user, "groups": [*groups, "system:authenticated"]}}
    conditions = [entry["expression"] for entry in webhook_of(with_authorizer)["matchConditions"]]
    assert all(cel.evaluate(condition, request) for condition in conditions) is asked


WRONG = [
    (("--name", "Big"), "--name is 'Big'"),
    (("--name", "a b"), "--name is 'a b'"),
    (("--kubernetes-version", "1.34"), "--kubernetes-version is '1.34'; write all three numbers"),
    (("--kubernetes-version", "1.34.0\nx"), "write all three numbers"),
    (("--kubernetes-version", "latest"), "write all three numbers"),
    (("--authorizer", "--kubernetes-version", "1.29.4"), "needs Kubernetes 1.30 or later"),
    (("--signer", "--kubernetes-version", "1.35.3"), "needs Kubernetes 1.36 or later"),
    (("--image", "a: b"), "--image is 'a: b'"),
    (("--image", ""), "--image is ''"),
    (("--dir", ""), "--dir is empty"),
    (("--dir", "a\nb"), "line break"),
    (("--dir",), "--dir needs a value"),
    (("--what",), "unknown argument --what"),
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("arguments", "text"), WRONG, ids=[shlex.join(case[0]) for case in WRONG])
def test_wrong_arguments_create_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str, arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_script(*arguments, shell=shell)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert done.stderr.startswith("leeway-kind.sh: ")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_no_engine_can_mount(tmp_path: Path) -> None:
    done = run_script("--dir", str(tmp_path / "a:b"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "contains a colon" in done.stderr


def test_without_leeway_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["sh", str(SCRIPT)]
    environment = {**os.environ, "LEEWAY": "no-leeway"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "leeway-kind.sh: there is no command no-leeway; install Leeway, or set LEEWAY to where it "
        "is\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_relative_folder_beside_others_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other" / "kind").mkdir(parents=True)
    monkeypatch.setenv("CDPATH", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    assert run_script("--dir", "kind").returncode == 0
    (node,) = load(tmp_path / "kind" / "kind.yaml")["nodes"]
    assert node["extraMounts"][0]["hostPath"] == str(tmp_path / "kind" / "static-pod.yaml")


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_makes_the_same_files(make: Make, shell: str) -> None:
    options = ("--authorizer", "--signer")
    folder, reference = make(*options, shell=shell), make(*options)
    names = ["kind.yaml", "static-pod.yaml", "api-server/authorization.yaml"]
    for name in (*names, f"patches/{PATCH.name}"):
        text = (folder / name).read_text().replace(str(folder.parent), "")
        assert text == (reference / name).read_text().replace(str(reference.parent), "")


def test_a_second_run_keeps_the_data_and_takes_back_the_authorizer(make: Make) -> None:
    folder = make("--authorizer")
    data = {path: path.read_bytes() for path in (folder / "leeway-data").rglob("*.*")}
    done = run_script("--dir", str(folder))
    assert done.returncode == 0
    assert {path: path.read_bytes() for path in (folder / "leeway-data").rglob("*.*")} == data
    assert list(files_in(folder / "api-server")) == ["tokenreview.yaml"]


def test_the_commands_it_prints(plain: Path) -> None:
    done = run_script("--dir", str(plain))
    commands = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [" ".join(command[:2]) for command in commands] == [
        "kind create",
        "kind load",
        "kubectl --context",
    ]
    assert commands[0][-1] == str(plain / "kind.yaml")
    assert commands[1][2:] == ["docker-image", "leeway-webhook:dev", "--name", "leeway"]
    # The kubelet names a static Pod after its node, and kind the node after the cluster.
    assert "leeway-leeway-control-plane" in commands[2]


def test_the_image_of_a_signer_is_loaded_while_the_cluster_is_created(with_signer: Path) -> None:
    # Only then does the API server start, and kind waits for it.
    done = run_script("--dir", str(with_signer), "--signer")
    create, load_image, wait = done.stdout.splitlines()[-3:]
    config = str(with_signer / "kind.yaml")
    assert shlex.split(create) == ["kind", "create", "cluster", "--config", config, "&"]
    assert load_image.startswith("  until kind load docker-image leeway-webhook:dev --name leeway;")
    assert load_image.endswith("; wait")
    assert wait.startswith("  kubectl ")
    script = "\n".join([create, load_image, wait])
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


def test_a_pulled_image_needs_no_loading(with_signer: Path) -> None:
    done = run_script("--dir", str(with_signer), "--signer", "--image", "localhost:5001/leeway")
    assert "kind load" not in done.stdout
    assert "&" not in done.stdout


def test_a_data_directory_of_another_issuer_is_refused(plain: Path) -> None:
    done = run_script("--dir", str(plain), "--signer")
    assert done.returncode == 1
    assert "issuer" in done.stderr


def test_a_second_run_configures_the_signer_once(with_signer: Path) -> None:
    text = (with_signer / "leeway-data" / "leeway.yaml").read_text()
    assert run_script("--dir", str(with_signer), "--signer").returncode == 0
    assert (with_signer / "leeway-data" / "leeway.yaml").read_text() == text
    assert text.count("signer:") == 1


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() + done.stderr.strip()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_certificates_verify_with_openssl(made: Path, tmp_path: Path) -> None:
    tls = made / "leeway-data" / "tls"
    ca = tmp_path / "ca.crt"
    ca.write_bytes((tls / "ca.crt").read_bytes())
    verify: list[str | Path] = ["verify", "-x509_strict", "-CAfile", ca]
    server = tls / "server.crt"
    assert openssl(*verify, "-purpose", "sslserver", "-verify_ip", "127.0.0.1", server).endswith(
        "OK"
    )
    assert "mismatch" in openssl(*verify, "-verify_ip", "127.0.0.2", server)
    for kubeconfig in (made / "api-server").glob("*review.yaml"):
        (cluster,), (user,) = load(kubeconfig)["clusters"], load(kubeconfig)["users"]
        inside = base64.b64decode(cluster["cluster"]["certificate-authority-data"])
        assert inside == ca.read_bytes()
        client = tmp_path / "client.crt"
        client.write_bytes(base64.b64decode(user["user"]["client-certificate-data"]))
        assert openssl(*verify, "-purpose", "sslclient", client).endswith("OK")
        assert "subject=CN = kube-apiserver" in openssl("x509", "-in", client, "-noout", "-subject")


def test_the_pod_serves_what_the_api_server_asks(plain: Path, tmp_path: Path) -> None:
    spec = load(plain / "static-pod.yaml")["spec"]
    (copy,), (container,) = spec["initContainers"], spec["containers"]
    (plain / "leeway-data" / "cluster-jwks.json").write_text('{"keys": []}')
    inside = tmp_path / "var"
    inside.mkdir()
    run_copy(copy["command"], {"/source": plain / "leeway-data", "/var/lib/leeway": inside})
    data = inside / "data"
    found = files_in(data)
    assert set(found.values()) == {0o600}
    (key,) = [name for name in found if name.endswith(".pem")]
    assert set(found) - {key, "auth.db-journal"} == {
        "auth.db",
        "cluster-jwks.json",
        "keys/schedule.json",
        "leeway.yaml",
        "tls/ca.crt",
        "tls/server.crt",
        "tls/server.key",
    }
    assert data.stat().st_mode & 0o777 == 0o700
    token = created_token(plain / "leeway-data")
    with serving(container, data, tmp_path / "log") as server:
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert probe_status(container[name], server) == 200
        answer = review_with(plain / "api-server" / "tokenreview.yaml", token, server, tmp_path)
    status = answer["status"]
    assert status["authenticated"] is True
    assert status["user"]["username"] == "system:serviceaccount:argo-run:loofah"
    # The name that kubeadm gives the API server; without it the answer would not be accepted.
    assert "https://kubernetes.default.svc.cluster.local" in status["audiences"]


def test_ci_example_runs_the_script_and_what_it_prints(plain: Path) -> None:
    workflow = load(DEPLOY / "kind" / "ci-example.yaml")
    steps = workflow["jobs"]["leeway"]["steps"]
    script = "\n".join(step.get("run", "") for step in steps)
    assert re.search(r"^deploy/kind/leeway-kind.sh", script, re.M)
    printed = run_script("--dir", str(plain)).stdout
    for command in ("kind create cluster --config", "kind load docker-image leeway-webhook:dev"):
        assert command in script
        assert command in printed
    for used in re.findall(r"^(deploy/\S+)", script, re.M):
        assert os.access(ROOT / used, os.X_OK)
    done = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
