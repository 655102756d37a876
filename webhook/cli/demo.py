"""``leeway demo``: a token review over TLS, with a temporary data directory and a real server."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep, time
from types import FrameType
from typing import Final, NoReturn

import click
import msgspec

from keys import jws
from webhook.assembly import authenticator_of, clock_leeway_of, keyring_of, policy_of
from webhook.cli.options import example
from webhook.cli.token import render_explanation
from webhook.config.environment import PREFIX
from webhook.config.load import load_configuration
from webhook.config.paths import TLS_FOLDER
from webhook.errors import DataDirectoryError
from webhook.health_probe import is_healthy
from webhook.kube.token_review import TOKEN_REVIEW_PATH
from webhook.server.connection.stop_signals import hold, release
from webhook.setup.first_records import API_SERVER_USER
from webhook.setup.init import InitOptions, initialise
from webhook.token.explain import explain
from webhook.token.issuer import TokenSpec, issue_token
from webhook.token.outcome import Authenticated

BEHIND_SECONDS: Final = 92
_START_SECONDS: Final = 20
_STOP_SECONDS: Final = 30


@click.command(
    short_help="Watch a token being reviewed, with a temporary data directory.",
    epilog=example("leeway demo"),
)
def demo() -> None:
    """Sign a token, review it over mutual TLS, and see it refused by a clock that is behind."""
    signal.signal(signal.SIGTERM, _leave)
    with tempfile.TemporaryDirectory(prefix="leeway-demo-") as folder:
        data_dir = Path(folder) / "leeway-data"
        _title("leeway init")
        for path in initialise(data_dir, InitOptions(), time()):
            click.echo(f"created {path.relative_to(data_dir)}")
        port = _free_port()
        with _server(data_dir, port):
            accepted = _review(data_dir, port)
    if not accepted:
        raise click.exceptions.Exit(1)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    raise click.exceptions.Exit(128 + number)


def _review(data_dir: Path, port: int) -> bool:
    configuration = load_configuration(data_dir, {}, {})
    keyring = keyring_of(data_dir)
    request = TokenSpec(namespace="argo-run", name="loofah")
    issued = issue_token(request, policy_of(configuration), keyring, time())
    _title("a signed token's claims")
    click.echo(_pretty(jws.parse(issued.token).unverified_payload))

    _title("its TokenReview over mutual TLS")
    answer = _post_review(data_dir, port, issued.token)
    click.echo(_pretty(answer))

    _title(f"the same token, seen {BEHIND_SECONDS} s earlier")
    now = (issued.claims.not_before or 0) - BEHIND_SECONDS
    outcome = authenticator_of(data_dir, configuration, keyring).authenticate(issued.token, (), now)
    explanation = explain(issued.token, outcome, clock_leeway_of(configuration), now)
    click.echo(render_explanation(issued.token, explanation, now))
    answered = bool(msgspec.json.decode(answer)["status"]["authenticated"])
    return answered and not isinstance(outcome, Authenticated)


def _post_review(data_dir: Path, port: int, token: str) -> bytes:
    tls = data_dir / TLS_FOLDER
    context = ssl.create_default_context(cafile=str(tls / "ca.crt"))
    context.load_cert_chain(tls / f"{API_SERVER_USER}.crt", tls / f"{API_SERVER_USER}.key")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token},
    }
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", TOKEN_REVIEW_PATH, msgspec.json.encode(review), headers)
        return connection.getresponse().read()
    finally:
        connection.close()


@contextmanager
def _server(data_dir: Path, port: int) -> Iterator[None]:
    log = data_dir / "serve.log"
    command = [sys.executable, "-m", "webhook", "serve", "--data-dir", str(data_dir)]
    _title(f"leeway serve, on 127.0.0.1:{port}")
    # A signal between Popen and try would leave the server running, so signals are blocked. The
    # server inherits the blocked signals, and unblocks them itself.
    hold()
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, "--bind", f"127.0.0.1:{port}"],
            # Variables for another server must not change the demonstration.
            env={k: v for k, v in os.environ.items() if not k.startswith(PREFIX)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        release()
        _wait_until_ready(data_dir, port, process, log)
        click.echo("ready")
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(
    data_dir: Path, port: int, process: subprocess.Popen[bytes], log: Path
) -> None:
    context = ssl.create_default_context(cafile=str(data_dir / TLS_FOLDER / "ca.crt"))
    deadline = monotonic() + _START_SECONDS
    while process.poll() is None and monotonic() < deadline:
        if is_healthy(port, "/readyz", context):
            return
        sleep(0.05)
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    raise DataDirectoryError(
        f"the server did not become ready: {lines[-1] if lines else 'it printed nothing'}"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _title(text: str) -> None:
    click.secho(f"\n== {text}", bold=True)


def _pretty(document: bytes) -> str:
    return msgspec.json.format(document, indent=2).decode("utf-8")
