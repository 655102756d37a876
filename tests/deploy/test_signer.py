"""deploy/kubeadm, deploy/systemd and the static Pod of ``leeway signer``."""

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.deploy_schemas import DEPLOY, assert_valid
from tests.deploy.json_patch import PatchError, patched
from tests.deploy.signer_patch import (
    ENDPOINT,
    MANIFEST,
    PATCH,
    PRIVATE,
    PUBLIC,
    SOCKET,
    flags_of,
    manifest,
    operations,
)
from tests.deploy.test_kind import SHELLS

SCRIPT = DEPLOY / "kubeadm" / "signer-patch.sh"
UNIT = DEPLOY / "systemd" / "leeway-signer.service"


def run_script(*arguments: str | Path, shell: str = "sh") -> subprocess.CompletedProcess[str]:
    words = ("busybox", "sh") if shell == "busybox" else (shell,)
    return subprocess.run([*words, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def assert_asks_leeway(pod: Any, before: list[str], socket: str = SOCKET) -> None:
    """Assert that only the flags and mounts of the signer differ, and the manifest is valid."""
    endpoint = f"--service-account-signing-endpoint={socket}"
    keys = ("--service-account-key-file=", "--service-account-signing-key-file=")
    others = [flag for flag in before if not flag.startswith(keys)]
    assert [flag for flag in flags_of(pod) if flag != endpoint] == others
    assert flags_of(pod).count(endpoint) == 1
    folder = str(Path(socket).parent)
    (container,) = pod["spec"]["containers"]
    mount, volume = container["volumeMounts"][-1], pod["spec"]["volumes"][-1]
    assert mount == {"name": volume["name"], "mountPath": folder, "readOnly": True}
    # The API server can be started first: the directory is there then, with the kubelet's mode.
    assert volume["hostPath"] == {"path": folder, "type": "DirectoryOrCreate"}
    original = manifest()
    original["spec"]["containers"][0]["command"] = flags_of(pod)
    original["spec"]["containers"][0]["volumeMounts"].append(mount)
    original["spec"]["volumes"].append(volume)
    assert pod == original
    assert_valid({**pod, "status": {}})


def test_the_name_is_one_that_kubeadm_reads() -> None:
    # cmd/kubeadm/app/util/patches/patches.go: target[suffix][+patchtype].extension
    pattern = r"(kube-apiserver)([^.+\n]*)\+(json)\.(json|yaml)"
    assert [re.fullmatch(pattern, path.name) is None for path in PATCH.parent.iterdir()] == [False]


def test_the_patch_fits_the_manifest_of_kubeadm() -> None:
    assert_asks_leeway(patched(manifest(), operations()), flags_of(manifest()))


def test_each_flag_is_tested_before_it_goes() -> None:
    tested = {each["path"] for each in operations() if each["op"] == "test"}
    changed = {each["path"] for each in operations() if each["op"] in ("remove", "replace")}
    assert changed < tested
    assert tested - changed == {"/spec/containers/0/command/0"}


def with_flags(*changes: tuple[int, int, list[str]]) -> list[str]:
    flags = flags_of(manifest())
    for start, end, new in changes:
        flags[start:end] = new
    return flags


SHAPES = {
    "a flag less before them": with_flags((3, 4, [])),
    "a flag more before them": with_flags((2, 2, ["--anonymous-auth=false"])),
    "keys elsewhere": with_flags((23, 24, [PUBLIC.replace("/etc/kubernetes", "/srv")])),
    "signing key elsewhere": with_flags((24, 25, [PRIVATE.replace("/etc/kubernetes", "/srv")])),
    "two public keys": with_flags((23, 24, [PUBLIC, PUBLIC.replace("sa.", "old.")])),
    "the other order": with_flags((23, 25, [PRIVATE, PUBLIC])),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_manifest_of_another_shape_is_refused_and_the_script_fits_it(
    shape: str, tmp_path: Path
) -> None:
    other = manifest()
    other["spec"]["containers"][0]["command"] = list(SHAPES[shape])
    with pytest.raises(PatchError):
        patched(other, operations())
    path = tmp_path / "kube-apiserver.yaml"
    path.write_text(yaml.safe_dump(other, width=1000))
    done = run_script(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert_asks_leeway(patched(other, json.loads(done.stdout)), SHAPES[shape])


def test_flags_behind_them_change_nothing() -> None:
    # Since v1beta4 kubeadm puts the arguments of a configuration behind its own.
    other = manifest()
    other["spec"]["containers"][0]["command"].append("--runtime-config=")
    assert_asks_leeway(patched(other, operations()), flags_of(other))


def test_a_patch_that_was_applied_is_refused() -> None:
    with pytest.raises(PatchError, match="is '--service-account-signing-endpoint="):
        patched(patched(manifest(), operations()[:3]), operations())


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kubectl_applies_it_as_kubeadm_does(tmp_path: Path) -> None:
    # Both have the package evanphx/json-patch.
    def patch(path: Path) -> subprocess.CompletedProcess[str]:
        command: list[str | Path] = [
            "kubectl",
            "patch",
            "--local",
            "--type",
            "json",
            "-o",
            "yaml",
            "-f",
            path,
        ]
        return subprocess.run(
            [*command, "--patch-file", PATCH], capture_output=True, text=True, check=False
        )

    assert yaml.safe_load(patch(MANIFEST).stdout) == patched(manifest(), operations())
    other = manifest()
    other["spec"]["containers"][0]["command"].insert(1, "--v=1")
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(other))
    refused = patch(path)
    assert refused.returncode == 1
    assert "testing value /spec/containers/0/command/24 failed" in refused.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_prints_the_patch(shell: str) -> None:
    done = run_script(MANIFEST, shell=shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, PATCH.read_text(), "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_writes_the_file(shell: str, tmp_path: Path) -> None:
    path = tmp_path / PATCH.name
    path.write_text("older\n")
    done = run_script("-o", path, MANIFEST, shell=shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert path.read_text() == PATCH.read_text()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_second_run_leaves_the_patch_as_it_is(shell: str, tmp_path: Path) -> None:
    # kubeadm ignores an empty file, and writes the key flags.
    path, patched_manifest = tmp_path / PATCH.name, tmp_path / "kube-apiserver.yaml"
    patched_manifest.write_text(yaml.safe_dump(patched(manifest(), operations()), width=1000))
    path.write_text(PATCH.read_text())
    done = run_script("-o", path, patched_manifest, shell=shell)
    assert (done.returncode, done.stdout) == (2, "")
    assert "it was patched before, so keep that patch" in done.stderr
    assert path.read_text() == PATCH.read_text()
    assert sorted(tmp_path.iterdir()) == [patched_manifest, path]


def test_the_file_without_a_directory_is_written_here(tmp_path: Path) -> None:
    subprocess.run(["sh", SCRIPT, "-o", "patch.json", MANIFEST], cwd=tmp_path, check=True)
    assert (tmp_path / "patch.json").read_text() == PATCH.read_text()


def test_another_socket() -> None:
    done = run_script(MANIFEST, "/run/signer/jwt.sock")
    pod = patched(manifest(), json.loads(done.stdout))
    assert_asks_leeway(pod, flags_of(manifest()), "/run/signer/jwt.sock")


def manifest_with(flags: list[str]) -> str:
    pod = manifest()
    pod["spec"]["containers"][0]["command"] = flags
    return yaml.safe_dump(pod, width=1000)


WRONG_MANIFESTS = {
    "of another component": ("- kube-scheduler\n", "is not a manifest of kube-apiserver"),
    "empty": ("", "is not a manifest of kube-apiserver"),
    "patched already": (
        manifest_with(with_flags((23, 25, [ENDPOINT]))),
        f"has that flag already: {ENDPOINT}",
    ),
    "without the signing key": (
        manifest_with(with_flags((24, 25, []))),
        "has no flag --service-account-signing-key-file",
    ),
    "without the public key": (
        manifest_with(with_flags((23, 24, []))),
        "has no flag --service-account-key-file",
    ),
    "with a quote": (
        manifest_with(with_flags((23, 24, [PUBLIC + '"']))),
        "has a flag with a quote or a backslash",
    ),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("case", WRONG_MANIFESTS)
def test_wrong_manifests(case: str, shell: str, tmp_path: Path) -> None:
    text, message = WRONG_MANIFESTS[case]
    path = tmp_path / "kube-apiserver.yaml"
    path.write_text(text)
    done = run_script(path, shell=shell)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"signer-patch.sh: {path} {message}")
    assert done.stderr.count("\n") == 1


WRONG = [
    ((), "name the manifest"),
    ((MANIFEST, SOCKET, "more"), "name the manifest"),
    (("nothing.yaml",), "nothing.yaml cannot be read"),
    ((MANIFEST, "@leeway"), "the socket is '@leeway'"),
    ((MANIFEST, "run/leeway/signer.sock"), "it needs an absolute path"),
    ((MANIFEST, "/signer.sock"), "in a directory of its own"),
    ((MANIFEST, "/run/signer.sock"), "which an API server should not mount"),
    ((MANIFEST, '/run/a"b/signer.sock'), "letters, digits and ._/- are allowed"),
    (("-o",), "-o needs the name of a file"),
    (("-o", "", MANIFEST), "-o needs the name of a file"),
    (("-o", "patch.json"), "name the manifest"),
    (("-o", "nowhere/patch.json", MANIFEST), "nowhere is not a directory"),
    (("-o", "/tmp", MANIFEST), "/tmp is a directory"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG, ids=[text for _, text in WRONG])
def test_wrong_arguments(arguments: tuple[str | Path, ...], text: str) -> None:
    done = run_script(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("signer-patch.sh: ")
    assert text in done.stderr


def unit() -> configparser.ConfigParser:
    # A name can be given more than once.
    parsed = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(UNIT.read_text())
    return parsed


def test_the_unit_protects_the_socket_by_its_directory() -> None:
    service = unit()["Service"]
    assert f"/run/{service['RuntimeDirectory']}" == str(Path(SOCKET).parent)
    assert service["RuntimeDirectoryMode"] == "0750"
    # A container that has mounted the directory would keep one that was removed.
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert service["User"] == service["Group"] == "leeway"
    assert service["UMask"] == "0077"


def test_the_unit_reloads_restarts_and_comes_before_the_api_server() -> None:
    parsed = unit()
    assert parsed["Service"]["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert parsed["Service"]["Restart"] == "always"
    assert parsed["Unit"]["StartLimitIntervalSec"] == "0"
    assert parsed["Unit"]["Before"].split() == ["kubelet.service", "kube-apiserver.service"]


def test_the_unit_writes_to_its_data_directory() -> None:
    service = unit()["Service"]
    words = service["ExecStart"].split()
    assert words[words.index("--data-dir") + 1] == service["ReadWritePaths"]
    assert service["ProtectSystem"] == "strict"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/usr/local/bin/leeway", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
