"""Run a manifest's containers outside a container, and review a token there."""

import base64
import json
import os
import re
import shlex
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import yaml

from tests.deploy.deploy_schemas import DEPLOY
from tests.e2e.harness import (
    LEEWAY,
    RunningServer,
    free_port,
    request_on,
    review_of,
    wait_until_ready,
)
from tests.etcd_member import need_program
from tests.secrets_made import token_made
from tests.support import wait_until

IMAGE_USER = 65532
_MAKE_CERTS = DEPLOY / "etcd" / "make-certs.sh"


def make_certs(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script that makes the certificates of an etcd."""
    command = ["sh", _MAKE_CERTS, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run_copy(command: list[str], paths: Mapping[str, Path]) -> None:
    """Run the shell command of an init container with its mount paths moved."""
    script = command[-1]
    for inside, outside in paths.items():
        assert inside in script, inside
        script = script.replace(inside, shlex.quote(str(outside)))
    script = script.replace(str(IMAGE_USER), str(os.getuid()))
    # The image's sh is dash.
    done = subprocess.run(
        [*command[:-1], script], capture_output=True, text=True, check=False, umask=0o022
    )
    assert (done.returncode, done.stderr) == (0, ""), done


def files_in(folder: Path) -> dict[str, int]:
    """Return the mode of each file by its path."""
    return {
        str(path.relative_to(folder)): path.stat().st_mode & 0o7777
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def serving(
    container: Mapping[str, Any], data_dir: Path, log_file: Path
) -> Iterator[RunningServer]:
    """Run the container's arguments, on a free port and another data directory."""
    port = free_port()
    (bind,) = [word for word in container["args"] if word.endswith(":8443")]
    arguments = [f"127.0.0.1:{port}" if word == bind else word for word in container["args"]]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    environment["LEEWAY_DATA_DIR"] = str(data_dir)
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [LEEWAY, *arguments],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = RunningServer(data_dir, port, log_file, process)
    try:
        wait_until_ready(server)
        yield server
        server.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def assert_signer_runs(container: Mapping[str, Any], data_dir: Path, folder: Path) -> None:
    """Run a signer's arguments with another port and socket, send its probes, and stop it."""
    port = free_port()
    (bind,) = [word for word in container["args"] if word.endswith(":8444")]
    arguments = [f"127.0.0.1:{port}" if word == bind else word for word in container["args"]]
    socket_file = folder / "run" / "signer.sock"
    environment = {**os.environ, "LEEWAY_DATA_DIR": str(data_dir)}
    environment["LEEWAY_SIGNER_SOCKET"] = str(socket_file)
    folder.mkdir()
    with (folder / "signer.log").open("wb") as log:
        process = subprocess.Popen(
            [LEEWAY, *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for name in ("startupProbe", "livenessProbe"):
            assert f":{container[name]['httpGet']['port']}" in bind
            url = f"http://127.0.0.1:{port}{container[name]['httpGet']['path']}"
            wait_until(partial(is_answered, url))
        assert socket_file.is_socket()
        process.terminate()
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def is_answered(url: str) -> bool:
    """Return whether a probe of plain HTTP succeeds."""
    try:
        with urlopen(url, timeout=15) as answer:
            return bool(answer.status == 200)
    except URLError:
        return False


def created_token(data_dir: Path) -> str:
    """Return a token of ``argo-run/loofah``, as ``leeway token create`` prints it."""
    token = subprocess.run(
        [LEEWAY, "token", "create", "loofah", "-n", "argo-run"],
        env={**os.environ, "LEEWAY_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    token_made(token)
    return token


def probe_status(probe: Mapping[str, Any], server: RunningServer) -> int:
    """Send a probe as a kubelet does: no certificate is verified, and none is presented."""
    assert probe["httpGet"]["scheme"] == "HTTPS"
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return server.request("GET", probe["httpGet"]["path"], context=context).status


def review_with(kubeconfig: Path, token: str, server: RunningServer, folder: Path) -> Any:
    """Post a TokenReview as kube-apiserver does with a webhook kubeconfig, and return the answer.

    The host that the kubeconfig names is verified; the connection goes to the server of the test.
    """
    parts = yaml.safe_load(kubeconfig.read_text())
    (cluster,) = [entry["cluster"] for entry in parts["clusters"]]
    (user,) = [entry["user"] for entry in parts["users"]]
    for name, data in (
        ("ca.crt", cluster["certificate-authority-data"]),
        ("client.crt", user["client-certificate-data"]),
        ("client.key", user["client-key-data"]),
    ):
        (folder / name).write_bytes(base64.b64decode(data))
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    url = urlsplit(cluster["server"])
    assert url.port == 8443
    connection = _Redirected(str(url.hostname), server.port, context=context, timeout=15)
    body = json.dumps(review_of(token)).encode()
    with closing(connection):
        answer = request_on(
            connection, "POST", url.path, body, {"Content-Type": "application/json"}
        )
    assert answer.status == 201, answer.body
    return answer.json


class _Redirected(HTTPSConnection):
    """Verifies one host and connects to the loopback address."""

    def connect(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=15)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(plain, server_hostname=self.host)


def loopback_addresses(count: int) -> list[str]:
    """Return addresses of the machine itself that no other process of the tests uses."""
    high, low = divmod(os.getpid() % 62_500, 250)
    return [f"127.{high + 1}.{low + 1}.{number + 1}" for number in range(count)]


@contextmanager
def members_running(
    hosts: Mapping[str, str],
    arguments: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]],
    folder: Path,
) -> Iterator[None]:
    """Run one etcd for each list of arguments, and wait until all are healthy.

    ``hosts`` has the address of each name. Each member listens on its own address, so that the
    ports are those of the manifest.
    """
    etcd, addresses = need_program("etcd"), list(hosts.values())
    with ExitStack() as stack:
        processes = []
        for number, (words, environment) in enumerate(zip(arguments, environments, strict=True)):
            own = {**hosts, "0.0.0.0": addresses[number]}
            # Earlier versions do not start while a variable and a flag say the same.
            variables = {name: _moved(value, own) for name, value in environment.items()}
            log = stack.enter_context((folder / f"etcd-{number}.log").open("wb"))
            process = subprocess.Popen(
                [etcd, *(_moved(word, own) for word in words)],
                env={"PATH": os.environ["PATH"], **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        for number in range(len(addresses)):
            log_file = folder / f"etcd-{number}.log"
            wait_until(partial(_serves_clients, log_file, processes[number]))
        yield


def _moved(text: str, hosts: Mapping[str, str]) -> str:
    for name, address in hosts.items():
        text = re.sub(rf"(?<=://){re.escape(name)}(?=:)", address, text)
    return text


def _serves_clients(log_file: Path, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, log_file.read_text()
    return "ready to serve client requests" in log_file.read_text()
