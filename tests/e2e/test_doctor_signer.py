"""``leeway doctor`` beside a real ``leeway signer``."""

import json
import subprocess
from pathlib import Path
from time import time

import pytest
import yaml

from webhook.assembly import keyring_of
from webhook.doctor.diagnosis import Options, examine
from webhook.doctor.findings import Examination, Prerequisite, Report, Status
from webhook.doctor.remote import Targets
from webhook.doctor.signer import examine_unmentioned
from webhook.https_url import parse_https_url

from .harness import HOST, LEEWAY, free_port
from .signer_process import make_data_dir, signer, start_signer

CHECKS = ("signer keys", "signer tokens", "signer socket", "signer")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return make_data_dir(tmp_path, section=f"signer: {{socket: {tmp_path}/run/signer.sock}}\n")


def report_on(data_dir: Path, manifest: Path | None = None) -> Report:
    targets = Targets(parse_https_url(f"https://{HOST}:{free_port()}"))
    return examine(Options(data_dir, {}, targets, manifest), time())


def statuses(report: Report) -> dict[str, Status]:
    return {c.name: c.status for c in report.checks if c.name in CHECKS}


def test_a_running_signer_is_healthy(data_dir: Path) -> None:
    with signer(data_dir):
        report = report_on(data_dir)
        assert statuses(report) == dict.fromkeys(CHECKS, Status.OK), report
        (found,) = [check for check in report.checks if check.name == "signer"]
        assert found.finding == "1 key to fetch every 1m, tokens of up to 24h"


@pytest.mark.bad_input(72)
def test_a_killed_and_a_missing_signer(data_dir: Path) -> None:
    killed = start_signer(data_dir)
    killed.kill()
    report = report_on(data_dir)
    assert statuses(report) == dict.fromkeys(CHECKS, Status.OK) | {"signer": Status.FAILURE}
    (found,) = [check for check in report.checks if check.name == "signer"]
    assert "the signer has ended" in found.finding
    assert found.fix.startswith("leeway signer --data-dir ")
    killed.socket.unlink()
    report = report_on(data_dir)
    assert statuses(report)["signer socket"] is Status.FAILURE
    assert [skipped.name for skipped in report.not_checked if skipped.name in CHECKS] == ["signer"]


def test_a_signer_with_other_settings_or_keys(data_dir: Path) -> None:
    with signer(data_dir, ["--refresh-hint", "30s"]):
        (found,) = [check for check in report_on(data_dir).checks if check.name == "signer"]
        assert found.status is Status.WARNING
        assert "refreshHint is 1m, and the signer uses 30s" in found.finding


def test_a_signer_that_the_configuration_does_not_mention(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_data_dir(tmp_path / "other")
    with signer(data_dir) as running:
        for keys_of, expected in ((data_dir, [Status.WARNING]), (other, [])):
            exam = Examination()
            keyring = Prerequisite("signing keys", keyring_of(keys_of))
            examine_unmentioned(exam, running.socket, keyring, "edit leeway.yaml")
            checks = exam.report("", "").checks
            assert [check.status for check in checks] == expected
    assert "signer" not in statuses(report_on(other))


def manifest_in(folder: Path, program: str, *flags: str) -> Path:
    path = folder / f"{program}.yaml"
    run = folder / "run"
    container = {
        "command": [program, *flags],
        "volumeMounts": [{"name": "run", "mountPath": str(run)}],
    }
    volume = {"name": "run", "hostPath": {"path": str(run)}}
    pod = {"kind": "Pod", "spec": {"containers": [container], "volumes": [volume]}}
    path.write_text(yaml.safe_dump(pod))
    return path


def test_the_manifests_of_a_cluster_with_a_signer(data_dir: Path, tmp_path: Path) -> None:
    manifest = manifest_in(
        tmp_path, "kube-apiserver",
        f"--service-account-signing-endpoint={tmp_path}/run/signer.sock",
        "--service-account-issuer=https://leeway.default.svc",
        "--api-audiences=https://kubernetes.default.svc",
    )  # fmt: skip
    controller = manifest_in(
        tmp_path, "kube-controller-manager", "--service-account-private-key-file=/etc/sa.key"
    )
    command: list[str | Path] = [LEEWAY, "doctor", "--data-dir", data_dir, "-o", "json"]
    command += [
        "--server",
        f"{HOST}:{free_port()}",
        "--manifest",
        manifest,
        "--controller-manager-manifest",
        controller,
    ]
    with signer(data_dir):
        done = subprocess.run(command, capture_output=True, check=False)
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    for name in (
        "signer endpoint", "signer issuer", "signer expiration", "signer reviews",
    ):  # fmt: skip
        assert found[name]["status"] == "ok", found[name]
    assert found["controller manager"]["status"] == "warning"
    assert "/etc/sa.key" in found["controller manager"]["finding"]


def test_without_a_webhook_nothing_of_one_is_missing(data_dir: Path, tmp_path: Path) -> None:
    """The one fault is that the API server does not use the signer."""
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write(f'server: {{bind: "{HOST}:{free_port()}"}}\n')
    for name in ("tokenreview", "subjectaccessreview", "root"):
        (data_dir / "kubeconfig" / f"{name}.yaml").unlink()
    subprocess.run([LEEWAY, "init", "--data-dir", data_dir], check=True, capture_output=True)
    flags = (
        "--service-account-issuer=https://leeway.default.svc",
        "--api-audiences=https://kubernetes.default.svc",
    )
    endpoint = f"--service-account-signing-endpoint={tmp_path}/run/signer.sock"
    webhook = "--authentication-token-webhook-config-file=/etc/t.yaml"
    with signer(data_dir):
        for more, wrong in (
            ((), {"signer endpoint"}),
            ((endpoint,), set()),
            ((endpoint, webhook), {"server", "webhook files", "signer reviews"}),
        ):
            manifest = manifest_in(tmp_path, "kube-apiserver", *flags, *more)
            report = examine(Options(data_dir, {}, Targets(), manifest), time())
            found = {check.name for check in report.checks if check.status is not Status.OK}
            assert found == wrong, report
            skipped = {entry.name for entry in report.not_checked}
            assert ({"server", "token flags", "token cache"} <= skipped) is (webhook not in more)


def test_a_manifest_that_is_of_another_program(data_dir: Path, tmp_path: Path) -> None:
    manifest = manifest_in(tmp_path, "kube-apiserver")
    command: list[str | Path] = [LEEWAY, "doctor", "--data-dir", data_dir]
    command += ["--controller-manager-manifest", manifest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "has no container that runs kube-controller-manager" in done.stdout
