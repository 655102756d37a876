"""A kube-apiserver as a cluster runs it, with an etcd, without controllers and nodes."""

import base64
import http.client
import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from keys.pem import private_key_pem, public_key_pem
from keys.pki import CertifiedKey, make_ca, make_server_certificate
from tests.e2e.harness import AUDIENCE, HOST, TIMEOUT, Answer, free_port
from tests.e2e.kubectl import Printed
from tests.secrets_made import printed
from tests.support import signing_key

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ASSETS = os.environ.get("KUBEBUILDER_ASSETS", "")
ISSUER = AUDIENCE
LEGACY_ISSUER = "kubernetes/serviceaccount"
SIGNING_KEY = signing_key("RS256", "cluster")
NAMESPACE = "demo"
READER = f"system:serviceaccount:{NAMESPACE}:reader"
"""Has the role ``reader`` in Leeway, which reads this namespace's ConfigMaps."""
_START_SECONDS = 90.0
_DAY = timedelta(days=1)


def program(name: str) -> str:
    """Return the path of a program of ``$KUBEBUILDER_ASSETS``, or skip."""
    if not ASSETS:
        pytest.skip(
            "KUBEBUILDER_ASSETS is not set; set it to a folder with kube-apiserver, etcd and "
            "kubectl, as `setup-envtest use` of controller-runtime prints it"
        )
    path = Path(ASSETS) / name
    if not path.is_file():
        pytest.skip(f"KUBEBUILDER_ASSETS is {ASSETS}, which has no {name}")
    return str(path)


@dataclass(frozen=True)
class Authority:
    """The cluster's CA, and the certificate of an administrator."""

    ca: CertifiedKey
    admin: CertifiedKey


def make_authority() -> Authority:
    """Make a CA and a client certificate in the group ``system:masters``."""
    now = datetime.now(UTC)
    ca = make_ca("kubernetes", now)
    ca_key = load_pem_private_key(ca.private_key, None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
            x509.NameAttribute(NameOID.COMMON_NAME, "admin"),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.load_pem_x509_certificate(ca.certificate).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .sign(ca_key, hashes.SHA256())
    )
    return Authority(ca, CertifiedKey(certificate.public_bytes(Encoding.PEM), private_key_pem(key)))


@dataclass
class APIServer:
    """A kube-apiserver in a process of its own; called by its administrator."""

    port: int
    folder: Path
    authority: Authority
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    def log(self) -> str:
        return (self.folder / "kube-apiserver.log").read_text()

    @cached_property
    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        context.load_cert_chain(self.folder / "admin.crt", self.folder / "admin.key")
        return context

    @contextmanager
    def client(self) -> Iterator[http.client.HTTPSConnection]:
        """Open a connection that is kept alive."""
        connection = http.client.HTTPSConnection(
            HOST, self.port, context=self.context, timeout=TIMEOUT
        )
        with closing(connection):
            yield connection

    def request(self, method: str, path: str, value: object = None) -> Answer:
        """Send one request on a connection of its own."""
        with self.client() as connection:
            return exchange(connection, method, path, value)

    def create(self, path: str, value: Mapping[str, object]) -> str:
        """Create an object, and return its UID."""
        answer = self.request("POST", path, value)
        assert answer.status == 201, answer.body
        uid: str = answer.json["metadata"]["uid"]
        return uid

    def kubectl(self, *arguments: str, token: str = "", stdin: str = "") -> Printed:
        """Run kubectl as the administrator, or with a bearer token instead."""
        caller = ["--token", token] if token else ["--kubeconfig", str(self.kubeconfig)]
        if token:
            caller += ["--server", self.url, "--certificate-authority", str(self.ca_file)]
            caller += ["--kubeconfig", os.devnull]
        command = [program("kubectl"), "--cache-dir", str(self.folder / "cache"), *caller]
        done = subprocess.run(
            [*command, *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        printed(("kubectl", *arguments), done.stdout, done.stderr)
        return Printed(done.returncode, done.stdout, done.stderr)

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl as the administrator, and return what it prints."""
        done = self.kubectl(*arguments, stdin=stdin)
        assert done.code == 0, done.err
        return done.out


def exchange(
    connection: http.client.HTTPSConnection, method: str, path: str, value: object = None
) -> Answer:
    """Send one request and read its answer to the end.

    An answer of kube-apiserver is not noted among what Leeway has shown: it repeats tokens.
    """
    body = None if value is None else json.dumps(value).encode()
    connection.request(method, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    headers = {name.lower(): text for name, text in response.getheaders()}
    return Answer(response.status, headers, response.read())


@contextmanager
def running_api_server(
    folder: Path, etcd_port: int, authority: Authority, flags: Mapping[str, str | None]
) -> Iterator[APIServer]:
    """Run a kube-apiserver, and wait until it is ready; ``flags`` as in ``started_api_server``."""
    with started_api_server(folder, etcd_port, authority, flags) as api_server:
        wait_until_ready(api_server)
        yield api_server


@contextmanager
def started_api_server(
    folder: Path, etcd_port: int, authority: Authority, flags: Mapping[str, str | None]
) -> Iterator[APIServer]:
    """Start a kube-apiserver; ``flags`` are added to those of every one, or remove them (None)."""
    port = free_port()
    folder.mkdir()
    now = datetime.now(UTC)
    server = make_server_certificate(authority.ca, "kube-apiserver", [HOST], now)
    files = {
        "ca.crt": authority.ca.certificate,
        "server.crt": server.certificate,
        "server.key": server.private_key,
        "admin.crt": authority.admin.certificate,
        "admin.key": authority.admin.private_key,
        "sa.key": private_key_pem(SIGNING_KEY.private_key),
        "sa.pub": public_key_pem(SIGNING_KEY.verification_key.public_key),
        "admin.kubeconfig": kubeconfig(
            f"https://{HOST}:{port}",
            authority,
            {
                "client-certificate-data": _text(authority.admin.certificate),
                "client-key-data": _text(authority.admin.private_key),
            },
        ),
    }
    for name, data in files.items():
        (folder / name).touch(0o600)
        (folder / name).write_bytes(data)
    all_flags: dict[str, str | None] = {
        "etcd-servers": f"http://{HOST}:{etcd_port}",
        "secure-port": str(port),
        "bind-address": HOST,
        "advertise-address": HOST,
        # An address of the loopback network cannot be an endpoint.
        "endpoint-reconciler-type": "none",
        "tls-cert-file": str(folder / "server.crt"),
        "tls-private-key-file": str(folder / "server.key"),
        "client-ca-file": str(folder / "ca.crt"),
        "cert-dir": str(folder / "certs"),
        "service-account-issuer": ISSUER,
        "service-account-jwks-uri": f"https://{HOST}:{port}/openid/v1/jwks",
        "service-account-key-file": str(folder / "sa.pub"),
        "service-account-signing-key-file": str(folder / "sa.key"),
        "api-audiences": AUDIENCE,
        "service-cluster-ip-range": "10.96.0.0/16",
        # Pods need no service account that a controller would have to make.
        "disable-admission-plugins": "ServiceAccount",
        **flags,
    }
    words = (f"--{name}={value}" for name, value in all_flags.items() if value is not None)
    command = [program("kube-apiserver"), *words]
    with (folder / "kube-apiserver.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    api_server = APIServer(port, folder, authority, process)
    try:
        yield api_server
    finally:
        # A clean shutdown would take a minute, and is not tested.
        process.kill()
        process.wait()


def kubeconfig(url: str, authority: Authority, user: Mapping[str, str]) -> bytes:
    """Write a kubeconfig for an API server."""
    cluster = {"server": url, "certificate-authority-data": _text(authority.ca.certificate)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps(document, indent=2).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wait_until_ready(api_server: APIServer) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and api_server.process.poll() is None:
        try:
            if api_server.request("GET", "/readyz").status == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"kube-apiserver did not become ready:\n{api_server.log()[-5000:]}")
