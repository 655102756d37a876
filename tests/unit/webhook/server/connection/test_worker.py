"""``worker`` and ``protocol`` lean on names inside gunicorn: here they show when they move."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gunicorn.arbiter import Arbiter
from gunicorn.asgi.lifespan import LifespanManager
from gunicorn.asgi.parser import InvalidHeader, ParseError, PythonProtocol
from gunicorn.asgi.protocol import ASGIProtocol, BodyReceiver
from gunicorn.config import Config
from gunicorn.workers.gasgi import ASGIWorker

from webhook.server.connection import protocol, worker
from webhook.server.connection.protocol import LeewayProtocol
from webhook.server.connection.worker import LeewayWorker

METHODS: list[tuple[type, str, list[str]]] = [
    # Overridden.
    (ASGIProtocol, "__init__", ["self", "worker"]),
    (ASGIProtocol, "connection_made", ["self", "transport"]),
    (ASGIProtocol, "connection_lost", ["self", "exc"]),
    (ASGIProtocol, "pause_writing", ["self"]),
    (ASGIProtocol, "resume_writing", ["self"]),
    (ASGIProtocol, "data_received", ["self", "data"]),
    (ASGIProtocol, "_keepalive_timeout", ["self"]),
    (ASGIProtocol, "_feed_callback_parser", ["self", "data"]),
    (ASGIProtocol, "_on_headers_complete", ["self"]),
    (ASGIProtocol, "_resume_reading", ["self"]),
    (ASGIProtocol, "_will_close", ["self", "request", "response_requires_close"]),
    (ASGIProtocol, "_build_http_scope", ["self", "request", "sockname", "peername"]),
    (ASGIProtocol, "_serve_http_request", ["self", "request", "sockname", "peername"]),
    (ASGIWorker, "handle_exit_signal", ["self"]),
    (ASGIWorker, "handle_quit_signal", ["self"]),
    (ASGIWorker, "_serve", ["self"]),
    (ASGIWorker, "init_signals", ["self"]),
    (ASGIWorker, "init_process", ["self"]),
    (ASGIWorker, "load_wsgi", ["self"]),
    # Called.
    (ASGIProtocol, "_arm_keepalive_timer", ["self"]),
    (ASGIProtocol, "_close_transport", ["self"]),
    (ASGIProtocol, "_safe_write", ["self", "data"]),
    (ASGIProtocol, "_handle_http_request", ["self", "request", "sockname", "peername", "complete"]),
    (ASGIProtocol, "_http1_buffered", ["self"]),
    (ASGIProtocol, "_maybe_resume_reading", ["self"]),
    (ASGIProtocol, "_send_error_response", ["self", "status", "message", "extra_headers"]),
    (BodyReceiver, "signal_disconnect", ["self"]),
    (ASGIWorker, "notify", ["self"]),
    (LifespanManager, "__init__", ["self", "app", "logger", "state"]),
    (LifespanManager, "startup", ["self"]),
    (LifespanManager, "shutdown", ["self"]),
]
PROTOCOL_ATTRIBUTES = {
    "_awaiting_request",
    "_body_receiver",
    "_callback_parser",
    "_closed",
    "_flow_control",
    "_keepalive",
    "_keepalive_handle",
    "_max_buffer_size",
    "_post_request",
    "_pre_request",
    "_reading_paused",
    "_request_ready",
    "_task",
    "app",
    "log",
    "transport",
    "worker",
    "writer",
}
WORKER_ATTRIBUTES = {
    "age",
    "alive",
    "asgi",
    "cfg",
    "lifespan",
    "log",
    "loop",
    "ppid",
    "sockets",
    "state",
}
OWN_ATTRIBUTES = {
    "_has_short_way",
    "_heads",
    "_is_anonymous",
    "_is_refused",
    "_in_request",
    "_last_answer",
    "_stall_timer",
    "_tls",
    "_write_timer",
    "is_ending",
    "trust",
}


@pytest.mark.parametrize(("owner", "name", "parameters"), METHODS)
def test_a_method_of_gunicorn(owner: type, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_which_methods_are_coroutines() -> None:
    for function in (ASGIWorker._serve, LifespanManager.startup, LifespanManager.shutdown):
        assert inspect.iscoroutinefunction(function)
    for function in (ASGIProtocol._feed_callback_parser, ASGIProtocol._on_headers_complete):
        assert not inspect.iscoroutinefunction(function)


def attributes_set_in(function: Callable[..., Any]) -> set[str]:
    """Return the attributes of self that a method assigns."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def attributes_read_in(module: ModuleType, class_name: str) -> set[str]:
    """Return the attributes of self that a class of ours reads or sets."""
    tree = ast.parse(Path(str(module.__file__)).read_text())
    (body,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == class_name)
    return {
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def test_the_attributes_of_a_connection() -> None:
    assert attributes_set_in(ASGIProtocol.__init__) >= PROTOCOL_ATTRIBUTES
    # Names of our own must not meet names of gunicorn's.
    assert not attributes_set_in(ASGIProtocol.__init__) & OWN_ATTRIBUTES


def test_the_attributes_of_a_worker() -> None:
    base = ASGIWorker.__mro__[1]
    known = attributes_set_in(ASGIWorker.__init__) | attributes_set_in(base.__init__)
    known |= attributes_set_in(ASGIWorker.load_wsgi)
    assert known >= WORKER_ATTRIBUTES


def test_the_lists_above_are_complete() -> None:
    own = {name for name in vars(LeewayProtocol) if not name.startswith("__")} | OWN_ATTRIBUTES
    methods = {name for owner, name, _ in METHODS if owner is ASGIProtocol}
    assert attributes_read_in(protocol, "LeewayProtocol") <= own | methods | PROTOCOL_ATTRIBUTES
    own = {name for name in vars(LeewayWorker) if not name.startswith("__")}
    own |= {"draining", "protocols", "anonymous", "_acceptor", "_wake", "_context", "_watch"}
    methods = {name for owner, name, _ in METHODS if owner is ASGIWorker}
    assert attributes_read_in(worker, "LeewayWorker") <= own | methods | WORKER_ATTRIBUTES


def test_the_parser() -> None:
    messages: list[bytes] = []
    parser: PythonProtocol = PythonProtocol(
        on_headers_complete=lambda: messages.append(parser.method)
    )
    parser.feed(b"GET / HTTP/1.1\r\nHOST: a\r\n\r\n")
    assert messages == [b"GET"]
    assert parser.http_version == (1, 1)
    assert parser.headers == [(b"host", b"a")]
    assert issubclass(InvalidHeader, ParseError)


def test_the_body_receiver() -> None:
    assert {"_complete", "_closed"} <= set(BodyReceiver.__slots__)


def test_how_a_worker_leaves_without_stopping_the_server() -> None:
    assert 1 not in (Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR)


@pytest.mark.parametrize(
    "name",
    [
        "asgi_loop",
        "ca_certs",
        "certfile",
        "child_exit",
        "control_socket_disable",
        "forwarded_allow_ips",
        "graceful_timeout",
        "http_parser",
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
