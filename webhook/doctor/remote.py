"""Checks over the network: a running Leeway, and the clock of an API server."""

import ssl
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import sleep, time
from typing import Final, NamedTuple

from keys.encoding import decode_json
from keys.errors import KeysError
from keys.files import read_public_file
from keys.jwk import parse_jwks
from keys.keyring import Keyring
from keys.messages import shown
from webhook.assembly import clock_leeway_of
from webhook.config.model import EVERY_ADDRESS, Configuration
from webhook.doctor.clock import Sample, check_offset, estimate_offset
from webhook.doctor.findings import (
    Examination,
    MissingError,
    Prerequisite,
    Verdict,
    failure,
    ok,
    warning,
)
from webhook.doctor.fixes import RELOAD, Fixes
from webhook.doctor.signing_keys import check_published
from webhook.errors import ServerUnreachableError
from webhook.https_url import HTTPSAddress
from webhook.outbound.errors import CertificateRefusedError, NotListeningError, OutboundError
from webhook.outbound.https import Client, Deadline, Endpoint, client_context, endpoint_of
from webhook.token.issuer import CONFIGURATION_PATH, JWKS_PATH

_READY_PATH: Final = "/readyz?verbose"
_PATHS: Final = (_READY_PATH, CONFIGURATION_PATH, JWKS_PATH)
_TIMEOUT_SECONDS: Final = 5.0
_MAX_BODY_BYTES: Final = 1024 * 1024
_SAMPLES: Final = 5
# Not a simple fraction of a second, so that the samples meet the other clock at different points
# of its second.
_PAUSE_SECONDS: Final = 0.23


@dataclass(frozen=True, slots=True)
class Targets:
    """The servers to send requests to.

    Without ``server`` it is the one at ``server.bind``; without ``api_server`` no clock is
    compared. ``api_server_ca`` has the CAs of its certificate, None means the system's.
    """

    server: HTTPSAddress | None = None
    api_server: HTTPSAddress | None = None
    api_server_ca: Path | None = None


class Reply(NamedTuple):
    """A response, and its Date header with the times around it."""

    status: int
    body: bytes
    sample: Sample


class NobodyAnswersError(ServerUnreachableError):
    """No process listens at the address."""


def examine_server(
    exam: Examination,
    targets: Targets,
    configuration: Prerequisite[Configuration],
    keyring: Prerequisite[Keyring],
    ca: Prerequisite[bytes],
    fixes: Fixes,
    *,
    is_webhook: bool = False,
) -> None:
    """Check that a server is ready, and publishes the issuer and the keys of the directory.

    A directory with a signer needs none, unless it ``is_webhook`` of an API server.
    """
    answers: dict[str, Reply] = {}

    def ready() -> Verdict:
        endpoint = _server_endpoint(targets, configuration.get(), fixes)
        try:
            context = client_context(ca=ca.get().decode("ascii"))
            answers.update({path: get(endpoint, context, path) for path in _PATHS})
        except NobodyAnswersError as error:
            if configuration.get().signer and targets.server is None and not is_webhook:
                raise MissingError(f"{error}, and a signer needs no server") from error
            say = warning if targets.server is None else failure
            return say(str(error), fixes.leeway("serve"))
        return _check_readiness(answers[_READY_PATH], endpoint)

    exam.check(
        "server", ready, f"{RELOAD}; or give --server, if it is not the server of this directory"
    )
    if len(answers) < len(_PATHS):
        for name in ("discovery document", "published keys"):
            exam.skip(name, "it needs a running server")
        return
    exam.check(
        "discovery document",
        lambda: _check_discovery(answers[CONFIGURATION_PATH].body, configuration.get().issuer),
        RELOAD,
    )
    exam.check(
        "published keys",
        lambda: check_published(
            keyring.get(), lambda: parse_jwks(answers[JWKS_PATH].body).keys, RELOAD
        ),
        RELOAD,
    )


def examine_clock(
    exam: Examination, targets: Targets, configuration: Prerequisite[Configuration]
) -> None:
    """Check how far the API server's clock is from this one."""
    address = targets.api_server
    if address is None:
        exam.skip("clock", "give the API server's URL with --api-server")
        return

    def check() -> Verdict:
        leeway = clock_leeway_of(configuration.get())
        ca = targets.api_server_ca
        context = client_context(ca=read_public_file(ca).decode("ascii") if ca else None)
        samples = []
        for turn in range(_SAMPLES):
            if turn:
                sleep(_PAUSE_SECONDS)
            # Whatever the answer is, it has a Date.
            samples.append(get(endpoint_of(address), context, "/livez").sample)
        return check_offset(estimate_offset(samples), address.display, leeway)

    exam.check(
        "clock", check, "give the URL with --api-server, and its CA's file with --api-server-ca"
    )


def get(endpoint: Endpoint, context: ssl.SSLContext, path: str) -> Reply:
    """Request a path; the time to connect is not part of its sample.

    Raises ServerUnreachableError.
    """
    deadline = Deadline(_TIMEOUT_SECONDS)
    try:
        with closing(Client(endpoint, context)) as client:
            client.connect(deadline)
            sent = time()
            with client.get(path, {}, deadline, _MAX_BODY_BYTES) as response:
                sample = Sample(response.header("Date"), sent, time())
                return Reply(response.status, response.read(), sample)
    except NotListeningError as error:
        raise NobodyAnswersError(f"nothing listens at {endpoint.url}") from error
    except CertificateRefusedError as error:
        why = f"the certificate of {endpoint.url} is not accepted: {error.why}"
        raise ServerUnreachableError(why) from error
    except OutboundError as error:
        raise ServerUnreachableError(f"the request to {endpoint.url} failed: {error}") from error


def _server_endpoint(targets: Targets, configuration: Configuration, fixes: Fixes) -> Endpoint:
    if targets.server is not None:
        return endpoint_of(targets.server)
    host, _, port = configuration.server.bind.rpartition(":")
    host = host.strip("[]")
    address = EVERY_ADDRESS.get(host, host)
    # Its certificate is for the name that clients use.
    name = next(iter(fixes.hosts), address)
    return endpoint_of(HTTPSAddress("", name, int(port), "/"))._replace(address=address)


def _check_readiness(reply: Reply, endpoint: Endpoint) -> Verdict:
    lines = reply.body.decode("utf-8", "replace").splitlines()
    if reply.status != 200:
        bad = [line.removeprefix("[-]") for line in lines if line.startswith("[-]")]
        why = ", ".join(bad) or f"it answers {reply.status}"
        return failure(f"the server at {endpoint.url} is not ready: {why[:500]}", RELOAD)
    noted = [line.removeprefix("[!]") for line in lines if line.startswith("[!]")]
    if noted:
        warnings = ", ".join(noted)[:500]
        return warning(f"the server at {endpoint.url} is ready, but: {warnings}", RELOAD)
    return ok(f"ready at {endpoint.url}")


def _check_discovery(body: bytes, issuer: str) -> Verdict:
    try:
        document = decode_json(body)
    except KeysError as error:
        raise ServerUnreachableError(f"the discovery document is {error}") from error
    found = document.get("issuer") if isinstance(document, dict) else None
    if found != issuer:
        finding = f"the server's issuer is {shown(str(found))}, in leeway.yaml it is {issuer!r}"
        return failure(finding, RELOAD)
    return ok(f"issuer {issuer}")
