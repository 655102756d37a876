"""A server with secrets in its settings and files shows none of them anywhere."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import LEEWAY, RunningServer, start_server

pytestmark = pytest.mark.fault(16)
SECRETS = {
    "query": "hunter2query",
    "token": "hunter2token",
    "plugin": "hunter2plugin",
    "argument": "hunter2argument",
}
PLUGIN = f"#!/bin/sh\necho {SECRETS['plugin']}\necho {SECRETS['plugin']} >&2\nexit 7\n"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.touch(mode)
    path.write_text(text)


def prepare(data_dir: Path) -> None:
    write(data_dir / "token", SECRETS["token"])
    write(data_dir / "plugin", PLUGIN, 0o700)
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(data_dir / "plugin"),
            "args": [SECRETS["argument"]],
        }
    }
    kubeconfig = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "a", "user": user}],
    }
    write(data_dir / "kube.yaml", json.dumps(kubeconfig))
    keys = {"jwksURL": f"https://127.0.0.1:1/keys?sig={SECRETS['query']}", "tokenFile": "token"}
    with (data_dir / "leeway.yaml").open("a") as file:
        file.write(f"trustedIssuers: {json.dumps([{'url': 'https://a.example', 'keys': keys}])}\n")
        file.write("objects: {source: kubernetes, kubernetes: {kubeconfig: kube.yaml}}\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("shown"), prepare, readyz=503)
    yield running
    if running.process.poll() is None:
        running.process.terminate()
        running.process.wait()


def assert_hidden(text: str) -> None:
    assert not [kind for kind, secret in SECRETS.items() if secret in text], text


def ready(server: RunningServer) -> str:
    return server.request("GET", "/readyz?verbose").body.decode()


@pytest.mark.bad_input(61)
@pytest.mark.fault(26)
def test_on_health_pages_in_reviews_metrics_and_the_log(server: RunningServer) -> None:
    plugin = server.data_dir / "plugin"
    problems = [
        f"the credential plugin {str(plugin)!r} of {server.data_dir / 'kube.yaml'}",
        "failed: exit code 7",
        "https://127.0.0.1:1/keys?...: it cannot be reached: Connection refused",
    ]
    deadline = time.monotonic() + 60
    while not all(problem in (text := ready(server)) for problem in problems):
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    said = [
        text,
        server.post_review(server.sign(), []).body.decode(),
        server.request("GET", "/metrics").body.decode(),
        server.log(),
    ]
    for part in said:
        assert_hidden(part)


@pytest.mark.bad_input(61)
@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor",),
        ("doctor", "--server", "https://jane:hunter2query@127.0.0.1:1"),
        ("skew", "--server", "https://127.0.0.1:1/?a=hunter2query"),
        ("config", "show"),
        ("serve", "--bind", "//jane:hunter2query@a:1"),
        ("serve", "--log-level", "https://jane:hunter2query@a"),
        ("token", "review", "@//jane:hunter2query@a"),
        ("token", "create", "a", "--duration", "https://a/?b=hunter2query"),
        ("https://jane:hunter2query@a",),
        ("token", "--https://jane:hunter2query@a"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_by_commands(server: RunningServer, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [LEEWAY, *arguments],
        env={"LEEWAY_DATA_DIR": str(server.data_dir), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.stdout + done.stderr
    assert_hidden(done.stdout + done.stderr)
