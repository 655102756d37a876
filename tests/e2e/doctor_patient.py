"""A healthy setup for ``leeway doctor``, and ways to break it."""

import base64
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from typing import Any

import yaml

from keys.jwk import to_jwk
from keys.pem import generate_signing_key
from keys.pki import CertifiedKey, make_ca, make_client_certificate, make_server_certificate
from tests.issuer_server import IssuerServer
from tests.support import revocation_list
from webhook.assembly import keyring_of
from webhook.config.paths import read_pair
from webhook.doctor.diagnosis import Options, examine
from webhook.doctor.findings import Report
from webhook.doctor.remote import Targets
from webhook.https_url import parse_https_url

from .harness import HOST, LEEWAY, free_port

ETCETERA = "/etc/kubernetes/leeway"
FLAGS = {
    "authentication-token-webhook-config-file": f"{ETCETERA}/tokenreview.yaml",
    "authentication-token-webhook-version": "v1",
    "authorization-mode": "Node,RBAC,Webhook",
    "authorization-webhook-config-file": f"{ETCETERA}/subjectaccessreview.yaml",
    "authorization-webhook-version": "v1",
    "service-account-issuer": "https://kubernetes.default.svc",
}


@dataclass
class Patient:
    """A healthy setup of one test, until the test plants a fault."""

    data_dir: Path
    manifest: Path
    server: str
    flags: dict[str, str] = field(default_factory=lambda: dict(FLAGS))
    more_flags: list[str] = field(default_factory=list)
    mounts: bool = True

    def write_manifest(self) -> None:
        words = [f"--{name}={value}" for name, value in self.flags.items()] + self.more_flags
        mounted = [{"name": "leeway", "mountPath": ETCETERA, "readOnly": True}]
        container = {
            "name": "kube-apiserver",
            "command": ["kube-apiserver", *words],
            "volumeMounts": mounted if self.mounts else [],
        }
        volume = {"name": "leeway", "hostPath": {"path": "/var/lib/leeway", "type": "Directory"}}
        spec = {"containers": [container], "volumes": [volume]}
        document = {"apiVersion": "v1", "kind": "Pod", "spec": spec}
        self.manifest.write_text(yaml.safe_dump(document))

    def examine(self, api_server: IssuerServer | None = None) -> Report:
        targets = Targets(parse_https_url(self.server))
        if api_server is not None:
            url = parse_https_url(api_server.url)
            targets = Targets(parse_https_url(self.server), url, api_server.ca_file)
        return examine(Options(self.data_dir, {}, targets, self.manifest), time())

    def write(self, name: str, data: bytes) -> None:
        """Replace a file, and leave its mode as it is."""
        path = self.data_dir / name
        if not path.exists():
            path.touch(0o600)
        path.write_bytes(data)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.data_dir / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new).encode())

    def edit_json(self, name: str, change: Callable[[Any], None]) -> None:
        value = json.loads((self.data_dir / name).read_bytes())
        change(value)
        self.write(name, json.dumps(value).encode())

    def edit_kubeconfig(self, stem: str, section: str, field: str, value: object) -> None:
        name = f"kubeconfig/{stem}.yaml"
        document = yaml.safe_load((self.data_dir / name).read_bytes())
        document[f"{section}s"][0][section][field] = value
        self.write(name, yaml.safe_dump(document).encode())

    def ca(self) -> CertifiedKey:
        return read_pair(self.data_dir / "tls", "ca")

    def write_pair(self, name: str, pair: CertifiedKey) -> None:
        self.write(f"tls/{name}.crt", pair.certificate)
        self.write(f"tls/{name}.key", pair.private_key)

    def leeway(self, *words: str) -> None:
        command = [LEEWAY, *words, "--data-dir", str(self.data_dir)]
        subprocess.run(command, check=True, capture_output=True)


def set_flag(name: str, value: str | None) -> Callable[[Patient], None]:
    def plant(patient: Patient) -> None:
        patient.flags.pop(name, None)
        if value is not None:
            patient.flags[name] = value

    return plant


def set_state(patient: Patient, *states: str) -> None:
    def change(schedule: Any) -> None:
        for entry, state in zip(schedule["keys"], states, strict=True):
            entry["state"] = state

    patient.edit_json("keys/schedule.json", change)


def age_pending(patient: Patient) -> None:
    def change(schedule: Any) -> None:
        for entry in schedule["keys"]:
            entry["since"] -= 10 * 86400

    patient.edit_json("keys/schedule.json", change)


def add_weak_key(patient: Patient) -> None:
    key = patient.data_dir / "keys" / "old.pem"
    subprocess.run(
        ["openssl", "genrsa", "-traditional", "-out", key, "1024"], check=True, capture_output=True
    )
    key.chmod(0o600)


def cut_key(patient: Patient) -> None:
    path = sorted((patient.data_dir / "keys").glob("*.pem"))[0]
    path.write_bytes(path.read_bytes()[:100])


def server_pair(patient: Patient, days: float, *hosts: str, ca: CertifiedKey | None = None) -> None:
    """Make a certificate that is good for a year, ``days`` from now on."""
    moment = datetime.now(UTC) + timedelta(days=days)
    names = hosts or (HOST, "::1", "localhost")
    pair = make_server_certificate(ca or patient.ca(), "leeway", names, moment)
    patient.write_pair("server", pair)


def other_ca() -> CertifiedKey:
    return make_ca("another", datetime.now(UTC))


def client_pair(patient: Patient, file: str, user: str, days: float = 0) -> None:
    moment = datetime.now(UTC) + timedelta(days=days)
    patient.write_pair(file, make_client_certificate(patient.ca(), user, moment))


def use_server_certificate(patient: Patient) -> None:
    pair = make_server_certificate(patient.ca(), "kube-apiserver", [], datetime.now(UTC))
    patient.write_pair("kube-apiserver", pair)


def made_through_root(patient: Patient, user: str) -> CertifiedKey:
    """Make a client certificate that the ordinary certificate of root has signed."""
    root = read_pair(patient.data_dir / "tls", "root")
    pair = make_client_certificate(root, user, datetime.now(UTC))
    return CertifiedKey(pair.certificate + root.certificate, pair.private_key)


def chain_through_root(patient: Patient) -> None:
    patient.write_pair("kube-apiserver", made_through_root(patient, "kube-apiserver"))


def kubeconfig_through_root(patient: Patient) -> None:
    set_client_pair(patient, "root", made_through_root(patient, "root"))


def set_client_pair(patient: Patient, stem: str, pair: CertifiedKey) -> None:
    for name, data in (("certificate", pair.certificate), ("key", pair.private_key)):
        text = base64.b64encode(data).decode()
        patient.edit_kubeconfig(stem, "user", f"client-{name}-data", text)


def old_ca(patient: Patient) -> None:
    pair = make_ca("leeway CA", datetime.now(UTC) - timedelta(days=4000))
    patient.write_pair("ca", pair)


def old_crl(patient: Patient) -> None:
    start = datetime.now(UTC) - timedelta(days=3)
    patient.write("tls/ca.crl", revocation_list(patient.ca(), start=start))


def old_kubeconfig(patient: Patient) -> None:
    moment = datetime.now(UTC) - timedelta(days=400)
    set_client_pair(patient, "root", make_client_certificate(patient.ca(), "root", moment))


def trust_other_ca(patient: Patient) -> None:
    text = base64.b64encode(other_ca().certificate).decode()
    patient.edit_kubeconfig("subjectaccessreview", "cluster", "certificate-authority-data", text)


def damage_store(patient: Patient) -> None:
    data = bytearray((patient.data_dir / "auth.db").read_bytes())
    place = data.rindex(b"kube-apiserver")
    data[place] ^= 1
    patient.write("auth.db", bytes(data))


def add_configuration(patient: Patient, text: str) -> None:
    path = patient.data_dir / "leeway.yaml"
    path.write_text(f"{path.read_text()}{text}\n")


def trust_keys(patient: Patient, issuer: str, unusual: dict[str, str]) -> None:
    """Trust another issuer's key that has our key's name, and an unusual key beside it."""
    (own,) = keyring_of(patient.data_dir).verification_keys()
    other = replace(generate_signing_key("ES256").verification_key, kid=own.kid)
    keys = [to_jwk(other), *([unusual] if unusual else [])]
    (patient.data_dir / "trusted.json").write_text(json.dumps({"keys": keys}))
    source = "keys: {jwksFile: trusted.json}"
    add_configuration(patient, f"trustedIssuers: [{{url: '{issuer}', {source}}}]")


def no_server(patient: Patient) -> None:
    patient.server = f"https://{HOST}:{free_port()}"
