"""The traffic of a soak: four kinds of reviews as an open-loop load, and changes.

Each kind has its own load client, which runs for a leg of a minute at a time. So connections
are opened again each minute, and each leg has its own latencies.
"""

import base64
import http.client
import json
import os
import signal
import ssl
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Final

from benchmarks.load_client import Load, LoadError, Plan, Target, count_load, review_target
from benchmarks.servers import HOST, RunningServer, script
from benchmarks.tokens import make_tokens_here, token_review
from webhook.assembly import keyring_of, policy_of, store_of
from webhook.config.load import load_configuration
from webhook.config.paths import TLS_FOLDER
from webhook.kube.access_review import ACCESS_REVIEW_PATH
from webhook.kube.token_review import TOKEN_REVIEW_PATH
from webhook.rbac.model import Group, Permission, PermissionType
from webhook.rbac.ranges import prefix_end
from webhook.rbac.records import group_record, permission_record, role_record
from webhook.token.issuer import TokenSpec, issue_token

LEG_SECONDS: Final = 60.0
REPEATED_TOKENS: Final = 4_000
ACCOUNTS: Final = 500
MAX_WORKER_BYTES: Final = 128 * 1024 * 1024
WRITES_PER_SECOND: Final = 4
SHARES: Final = {"known tokens": 0.87, "new tokens": 0.02, "access reviews": 0.1, "refused": 0.01}
"""Of the load. A token never seen before is known the next time."""
_CONNECTIONS: Final = {"known tokens": 16, "new tokens": 8, "access reviews": 8, "refused": 2}
_REFUSED_TOKENS: Final = 300
_ROLE: Final = "soak"
_REVOKE_SECONDS: Final = 60.0


@dataclass(slots=True)
class Tally:
    """The answers so far, shared by all threads; ``problems`` has the first of each kind."""

    legs: dict[str, list[Load]] = field(default_factory=lambda: {kind: [] for kind in SHARES})
    changes: int = 0
    errors: int = 0
    problems: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def add(self, kind: str, load: Load, problem: str) -> None:
        """Count a leg."""
        with self.lock:
            self.legs[kind].append(load)
            self.errors += load.errors
            if problem:
                self.problems.append(f"{kind}: {problem}")

    def fail(self, problem: str) -> None:
        """Count an error."""
        with self.lock:
            self.errors += 1
            self.problems.append(problem)

    def change(self) -> None:
        """Count a change."""
        with self.lock:
            self.changes += 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """A server, the load client, the files of bodies, and the end of the run."""

    client: Path
    data_dir: Path
    server: RunningServer
    tally: Tally
    stop: Event
    deadline: float

    def target(self, kind: str) -> Target:
        """Return the target of a kind of requests."""
        path, expected = TOKEN_REVIEW_PATH, '"authenticated":true'
        if kind == "access reviews":
            path, expected = ACCESS_REVIEW_PATH, '"allowed":true'
        elif kind == "refused":
            expected = '"authenticated":false'
        return review_target(self.server.port, path, self.data_dir, expected)

    def is_over(self) -> bool:
        """Return whether there is too little time for another leg."""
        return self.stop.is_set() or self.deadline - time.monotonic() < 2.0

    def run_kind(self, kind: str, rate: float) -> None:
        """Send bodies that repeat, leg after leg."""
        while not self.is_over():
            self._leg(kind, rate, bodies_file(self.data_dir, kind), once=False)

    def run_new_tokens(self, rate: float, signer: ProcessPoolExecutor) -> None:
        """Send tokens that were never sent before; those of a leg are signed during the last."""
        count = int(rate * LEG_SECONDS) + 2 * _CONNECTIONS["new tokens"]
        number = 0
        ahead: Future[Path] = signer.submit(write_new_tokens, self.data_dir, count, number)
        while not self.is_over():
            file, number = ahead.result(), number + 1
            ahead = signer.submit(write_new_tokens, self.data_dir, count, number)
            self._leg("new tokens", rate, file, once=True)
            file.unlink()

    def _leg(self, kind: str, rate: float, bodies: Path, *, once: bool) -> None:
        seconds = min(LEG_SECONDS, self.deadline - time.monotonic())
        plan = Plan(bodies, _CONNECTIONS[kind], seconds, rate, once)
        try:
            self.tally.add(kind, *count_load(self.client, self.target(kind), plan))
        except LoadError as error:
            self.tally.fail(f"{kind}: {error}")
            # Do not retry as fast as it fails.
            self.stop.wait(1.0)

    def change_permissions(self) -> None:
        """Grant and revoke, add and delete, as root through etcd's API, a few times a second."""
        folder = self.data_dir / TLS_FOLDER
        context = ssl.create_default_context(cafile=folder / "ca.crt")
        context.load_cert_chain(folder / "root.crt", folder / "root.key")
        number = 0
        with closing(
            http.client.HTTPSConnection(HOST, self.server.port, context=context, timeout=30)
        ) as connection:
            while not self.is_over():
                for path, body in _changes(number):
                    self._change(connection, path, body)
                    self.stop.wait(1 / WRITES_PER_SECOND)
                number += 1

    def _change(
        self, connection: http.client.HTTPSConnection, path: str, body: dict[str, object]
    ) -> None:
        try:
            kind = {"Content-Type": "application/json"}
            connection.request("POST", f"/v3/auth/{path}", json.dumps(body), kind)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.tally.fail(f"{path}: {error}")
            return
        if answer.status != 200:
            self.tally.fail(f"{path}: {answer.status} {text[:200]!r}")
        self.tally.change()

    def disturb(self, minutes: float) -> None:
        """Revoke a token each minute; rotate keys, reload and reconfigure at set times."""
        started = time.monotonic()
        events = _events(self.data_dir, self.server.pid)
        due = [(started + share * minutes * 60, name, act) for share, name, act in events]
        revoke_at = started + _REVOKE_SECONDS
        while not self.is_over():
            self.stop.wait(1.0)
            now = time.monotonic()
            if now >= revoke_at:
                revoke_at += _REVOKE_SECONDS
                self._act("revoke", lambda: _leeway(self.data_dir, "revoke", "jti", _uuid()))
            while due and due[0][0] <= now:
                _, name, act = due.pop(0)
                self._act(name, act)

    def _act(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except (OSError, subprocess.SubprocessError) as error:
            self.tally.fail(f"{name}: {error}")
        self.tally.change()


def prepare(data_dir: Path, tokens: Sequence[str]) -> None:
    """Configure the server, write the bodies that repeat, and grant what access reviews ask for."""
    file = data_dir / "leeway.yaml"
    text = file.read_text("utf-8")
    bound = f"maxWorkerBytes: {MAX_WORKER_BYTES}, maxBodyBytes:"
    file.write_text(text.replace("maxBodyBytes:", bound), "utf-8")
    configuration = load_configuration(data_dir, {}, {})
    audience = configuration.audiences[0]
    bodies = {
        "known tokens": [token_review(token, audience) for token in tokens],
        "refused": [token_review(token, audience) for token in _refused(data_dir, tokens)],
        "access reviews": [_access_review(number) for number in range(ACCOUNTS)],
    }
    for kind, lines in bodies.items():
        bodies_file(data_dir, kind).write_text("\n".join(lines) + "\n", "ascii")
    prefix = b"/registry/pods/shop/"
    granted = Permission(prefix, prefix_end(prefix), PermissionType.READ)
    records = [role_record(_ROLE), permission_record(_ROLE, granted)]
    records.append(group_record(Group("system:serviceaccounts:shop", (_ROLE,))))
    with closing(store_of(data_dir, configuration)) as store:
        store.change(lambda _: records)


def bodies_file(data_dir: Path, kind: str) -> Path:
    """Return where the bodies of a kind are."""
    return data_dir / f"{kind.replace(' ', '-')}.bodies"


def write_new_tokens(data_dir: Path, count: int, number: int) -> Path:
    """Sign so many new tokens and write their reviews to a file of that number."""
    audience = load_configuration(data_dir, {}, {}).audiences[0]
    file = bodies_file(data_dir, f"new tokens {number}")
    tokens = make_tokens_here(data_dir, count, ACCOUNTS)
    file.write_text("".join(token_review(token, audience) + "\n" for token in tokens), "ascii")
    return file


def _refused(data_dir: Path, tokens: Sequence[str]) -> list[str]:
    """Return expired tokens, tokens for another audience, and tokens with a wrong signature."""
    policy = policy_of(load_configuration(data_dir, {}, {}))
    keyring, now = keyring_of(data_dir), time.time()
    refused = []
    for number, token in enumerate(tokens[:_REFUSED_TOKENS]):
        name = f"checkout-{number}"
        if number % 3 == 0:
            request, at = TokenSpec("shop", name), now - 7 * 86_400
        elif number % 3 == 1:
            request, at = TokenSpec("shop", name, audiences=("https://vault.example",)), now
        else:
            middle = len(token) - 100
            refused.append(token[:middle] + ("A" * 8) + token[middle + 8 :])
            continue
        refused.append(issue_token(request, policy, keyring, at).token)
    return refused


def _access_review(number: int) -> str:
    attributes = {"namespace": "shop", "verb": "list", "version": "v1", "resource": "pods"}
    spec = {
        "resourceAttributes": attributes,
        "user": f"system:serviceaccount:shop:checkout-{number}",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
    }
    members = {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "spec": spec}
    return json.dumps(members, separators=(",", ":"))


def _changes(number: int) -> list[tuple[str, dict[str, object]]]:
    """Return changes that leave behind what was there before."""
    name = f"visitor-{number}"
    key, end = (
        base64.b64encode(f"/registry/configmaps/soak-{number}{last}".encode()).decode("ascii")
        for last in "/0"
    )
    return [
        ("role/grant", {"name": _ROLE, "perm": {"permType": "READ", "key": key, "range_end": end}}),
        ("user/add", {"name": name, "options": {"no_password": True}}),
        ("user/grant", {"user": name, "role": _ROLE}),
        ("user/revoke", {"name": name, "role": _ROLE}),
        ("user/delete", {"name": name}),
        ("role/revoke", {"role": _ROLE, "key": key, "range_end": end}),
    ]


def _events(data_dir: Path, pid: int) -> list[tuple[float, str, Callable[[], None]]]:
    """Return what happens at which share of the time. The old key stays good: see `keys`."""

    def hang_up() -> None:
        os.kill(pid, signal.SIGHUP)

    def reconfigure() -> None:
        file = data_dir / "leeway.yaml"
        text = file.read_text("utf-8")
        file.write_text(text.replace("maxExpiration: 24h", "maxExpiration: 23h"), "utf-8")

    return [
        (0.2, "publish another key", lambda: _leeway(data_dir, "keys", "rotate")),
        (0.3, "reload", hang_up),
        (0.4, "sign with it", lambda: _leeway(data_dir, "keys", "rotate", "--force")),
        (0.6, "reconfigure", reconfigure),
        (0.8, "reload", hang_up),
    ]


def _leeway(data_dir: Path, *arguments: str) -> None:
    command = [script("leeway"), *arguments, "--data-dir", str(data_dir)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _uuid() -> str:
    return str(uuid.uuid4())
