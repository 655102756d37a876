"""``leeway doctor`` finds each planted fault, reports no other, and says how to fix it."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from time import time

import pytest

from tests.issuer_server import Behaviour, IssuerServer, answer, issuer_server, raw
from webhook.config.paths import read_pair
from webhook.doctor.findings import Report, Status

from .doctor_faults import FAULTS, Fault
from .doctor_patient import (
    ETCETERA,
    Patient,
    cut_key,
    damage_store,
    old_crl,
    old_kubeconfig,
    other_ca,
    set_flag,
)
from .harness import HOST, LEEWAY, RunningServer, start_server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Run a server that publishes a second, pending key."""

    def generate(data_dir: Path) -> None:
        subprocess.run(
            [LEEWAY, "keys", "generate", "--algorithm", "ES256", "--data-dir", data_dir],
            check=True,
            capture_output=True,
        )

    server = start_server(tmp_path_factory.mktemp("doctor"), generate)
    yield server
    server.stop()


def patient_in(folder: Path, running: RunningServer) -> Patient:
    copy = Path(shutil.copytree(running.data_dir, folder / "data"))
    found = Patient(copy, folder / "kube-apiserver.yaml", f"https://{HOST}:{running.port}")
    found.write_manifest()
    return found


@pytest.fixture
def patient(running: RunningServer, tmp_path: Path) -> Patient:
    return patient_in(tmp_path, running)


@pytest.fixture(scope="module")
def healthy(running: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Report:
    report = patient_in(tmp_path_factory.mktemp("healthy"), running).examine()
    assert [c for c in report.checks if c.status is not Status.OK] == []
    return report


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[IssuerServer]:
    with issuer_server(tmp_path) as server:
        tell_time(server, 0)
        yield server


def tell_time(server: IssuerServer, ahead: float) -> None:
    """Run a server that answers as an API server does to strangers, with its own clock."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(401)
        handler.send_header("Date", formatdate(time() + ahead, usegmt=True))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.behaviours["/livez"] = behave


CLOCKS = [
    (92, Status.FAILURE, ("ahead of this one", "leeway 60s")),
    (-92, Status.FAILURE, ("behind this one", "leeway 60s")),
    (45, Status.WARNING, ("ahead of this one",)),
    (10, Status.OK, ("ahead of this one", "± 0.")),
]


def assert_found_alone(report: Report, fault: Fault, healthy: Report) -> None:
    others = {c.name: c for c in report.checks if c.status is not Status.OK}
    assert others.keys() == {fault.check}, others
    found = others[fault.check]
    assert found.status is fault.status
    for part in fault.words:
        assert part in found.finding
    assert fault.fix in found.fix
    assert "\n" not in found.finding + found.fix
    # Only that check fails; skipped checks depend on it and say so.
    names = {c.name for c in healthy.checks} | {fault.check}
    assert {c.name for c in report.checks} == names - set(fault.hides)
    hidden = {entry.name for entry in report.not_checked} - {"clock"}
    assert hidden == set(fault.hides)
    assert report.status is fault.status


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_finds_a_planted_fault_and_nothing_else(
    patient: Patient, healthy: Report, fault: Fault
) -> None:
    fault.plant(patient)
    patient.write_manifest()
    before = contents(patient.data_dir)
    assert_found_alone(report := patient.examine(), fault, healthy)
    assert contents(patient.data_dir) == before
    if fault.repairs:
        (fix,) = [c.fix for c in report.checks if c.name == fault.check]
        path = f"{Path(LEEWAY).parent}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(fix, shell=True, check=True, capture_output=True, env={"PATH": path})
        repaired = patient.examine()
        assert [c for c in repaired.checks if c.status is not Status.OK] == []
        assert [entry.name for entry in repaired.not_checked] == ["clock"]


@pytest.mark.fault(30)
def test_the_file_of_authorizers_is_read_where_it_is_mounted_from(patient: Patient) -> None:
    for flag in ("authorization-mode", "authorization-webhook-config-file"):
        set_flag(flag, None)(patient)
    set_flag("authorization-webhook-version", None)(patient)
    set_flag("authorization-config", f"{ETCETERA}/authorizers.yaml")(patient)
    patient.write_manifest()
    shown = patient.manifest.read_text()
    patient.manifest.write_text(shown.replace("/var/lib/leeway", str(patient.manifest.parent)))

    def finding() -> str:
        checks = {check.name: check for check in patient.examine().checks}
        assert checks["access cache"].status is Status.OK
        return checks["access cache"].finding

    assert "not on this machine" in finding()
    (patient.manifest.parent / "authorizers.yaml").write_text(
        "kind: AuthorizationConfiguration\n"
        "authorizers: [{type: Webhook, name: leeway, webhook: {authorizedTTL: 42s}}]\n"
    )
    assert "up to 42s more (authorizedTTL of authorizer leeway)" in finding()


@pytest.mark.fault(1)
@pytest.mark.parametrize("version", ["", "v1beta1", "v1"])
def test_doctor_accepts_each_version_of_the_reviews(patient: Patient, version: str) -> None:
    for name in ("authentication-token-webhook-version", "authorization-webhook-version"):
        set_flag(name, version or None)(patient)
    patient.write_manifest()
    report = patient.examine()
    assert [c for c in report.checks if c.status is not Status.OK] == []
    findings = {c.name: c.finding for c in report.checks}
    for check in ("token flags", "access flags"):
        assert (
            f"Reviews of {version or 'v1beta1, the default'}, to the server in /etc"
            in findings[check]
        )


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the mode and the content of every file, none of which an examination changes."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(("ahead", "status", "words"), CLOCKS)
def test_the_clock_of_an_api_server(
    patient: Patient, api_server: IssuerServer, ahead: int, status: Status, words: tuple[str, ...]
) -> None:
    tell_time(api_server, ahead)
    (clock,) = [c for c in patient.examine(api_server).checks if c.name == "clock"]
    assert clock.status is status
    for part in words:
        assert part in clock.finding
    assert (clock.fix == "") is (status is Status.OK)


def test_an_api_server_that_cannot_be_trusted(patient: Patient, api_server: IssuerServer) -> None:
    (patient.data_dir.parent / "issuer-ca.crt").write_bytes(other_ca().certificate)
    (clock,) = [c for c in patient.examine(api_server).checks if c.name == "clock"]
    assert clock.status is Status.FAILURE
    assert "certificate" in clock.finding
    assert "--api-server-ca" in clock.fix
    assert api_server.requests == []


ILL = [
    (
        answer(b"[+]ping ok\n[-]signing-key failed: no key\nreadyz check failed\n", 503),
        Status.FAILURE,
        "is not ready: signing-key failed: no key",
    ),
    (answer(b"no", 404), Status.FAILURE, "it answers 404"),
    (
        answer(b"[+]ping ok\n[!]configuration warning: it is broken\nreadyz check passed\n"),
        Status.WARNING,
        "ready, but: configuration warning: it is broken",
    ),
    (raw(b"SSH-2.0\r\n"), Status.FAILURE, "failed: its answer is not HTTP"),
]


@pytest.mark.parametrize(("behaviour", "status", "part"), ILL)
def test_an_unhealthy_server(
    patient: Patient, tmp_path: Path, behaviour: Behaviour, status: Status, part: str
) -> None:
    pair = read_pair(patient.data_dir / "tls", "server")
    with issuer_server(tmp_path, pair) as server:
        server.behaviours["/readyz?verbose"] = behaviour
        patient.server = server.url
        (found,) = [c for c in patient.examine().checks if c.name == "server"]
    assert found.status is status
    assert part in found.finding
    assert "kill -HUP" in found.fix


def test_a_server_with_a_certificate_of_another_ca(patient: Patient, tmp_path: Path) -> None:
    with issuer_server(tmp_path) as server:
        patient.server = server.url
        (found,) = [c for c in patient.examine().checks if c.name == "server"]
    assert found.status is Status.FAILURE
    assert "the certificate of https://127.0.0.1" in found.finding
    assert server.requests == []


def run(patient: Patient, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["--data-dir", str(patient.data_dir), "--server", patient.server]
    command = [sys.executable, "-m", "webhook", "doctor", *words, *more]
    environment = {name: v for name, v in os.environ.items() if not name.startswith("LEEWAY_D")}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def test_a_healthy_setup_is_healthy(patient: Patient, api_server: IssuerServer) -> None:
    around = ["--api-server", api_server.url, "--api-server-ca", str(api_server.ca_file)]
    ran = run(patient, *around, "--manifest", str(patient.manifest))
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    lines = [line for line in ran.stdout.splitlines() if line.startswith("  ")]
    assert len(lines) == 32
    assert {line[len("  kube-apiserver certificate  ") :].split()[0] for line in lines} == {"ok"}
    assert ran.stdout.endswith("\n\nHEALTHY: nothing wrong in 32 checks\n")


def test_nothing_secret_is_shown(patient: Patient) -> None:
    secrets = [
        line
        for path in [*patient.data_dir.glob("*/*.pem"), *patient.data_dir.glob("tls/*.key")]
        for line in path.read_text().splitlines()[1:-1]
    ]
    for fault in (cut_key, old_crl, damage_store, old_kubeconfig):
        fault(patient)
    patient.edit("kubeconfig/tokenreview.yaml", "client-key-data: ", "client-key-data: [")
    patient.edit("kubeconfig/subjectaccessreview.yaml", "client-key-data: ", "client-key-data: *")
    for output in ("text", "json", "yaml"):
        ran = run(patient, "-o", output)
        assert ran.returncode == 1, ran.stderr
        assert "kubeconfig/tokenreview.yaml is not YAML at line" in ran.stdout
        encoded = [base64.b64encode(secret.encode()).decode()[:40] for secret in secrets]
        assert len(secrets) > 20
        for secret in [*secrets, *encoded]:
            assert secret not in ran.stdout + ran.stderr
