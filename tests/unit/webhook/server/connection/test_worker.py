"""The worker and what it needs of gunicorn, which is public."""

import ast
from pathlib import Path

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.workers.base import Worker

from webhook.server.connection import worker
from webhook.server.connection.worker import LeewayWorker


def test_what_is_used_of_gunicorns_worker_is_public() -> None:
    tree = ast.parse(Path(str(worker.__file__)).read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    }
    own = {name for name in vars(LeewayWorker) if not name.startswith("__")}
    assert not {name for name in used - own if name.startswith("_")} & set(vars(Worker))
    for name in ("init_process", "load_wsgi", "init_signals", "run", "notify", "handle_abort"):
        assert callable(getattr(Worker, name))


def test_how_a_worker_leaves_without_stopping_the_server() -> None:
    assert 1 not in (Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR)


@pytest.mark.parametrize(
    "name",
    [
        "ca_certs",
        "certfile",
        "child_exit",
        "control_socket_disable",
        "forwarded_allow_ips",
        "graceful_timeout",
        "keepalive",
        "keyfile",
        "worker_tmp_dir",
    ],
)
def test_a_setting_of_gunicorn(name: str) -> None:
    assert name in Config().settings


def test_the_worker_class_is_what_gunicorn_takes() -> None:
    config = Config()
    config.set("worker_class", "webhook.server.connection.worker.LeewayWorker")
    assert config.worker_class is LeewayWorker


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:8443", "https://127.0.0.1:8443"),
        ("0.0.0.0:8443", "https://localhost:8443"),
        ("[::]:443", "https://localhost:443"),
        ("[::1]:8443", "https://[::1]:8443"),
        ("leeway.example:8443", "https://leeway.example:8443"),
    ],
)
def test_the_line_of_a_server_that_is_ready(bind: str, url: str) -> None:
    line = worker.ready_line(bind, "/data of mine/ca.crt")
    command = f"curl --cacert '/data of mine/ca.crt' {url}/readyz"
    assert line == f"ready at {url}; to check: {command}"
