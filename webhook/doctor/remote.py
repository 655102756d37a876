"""What can be asked: a running server of ours, and the clock of an API server."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keys.encoding import decode_json
from keys.errors import KeysError
from keys.files import read_public_file
from keys.jwk import parse_jwks
from keys.keyring import Keyring
from keys.messages import shown
from webhook.assembly import clock_leeway_of
from webhook.config.model import EVERY_ADDRESS, Configuration
from webhook.doctor.asking import (
    Answer,
    NobodyAnswersError,
    Place,
    ask,
    ask_for_dates,
    place_of,
)
from webhook.doctor.clock import check_offset, estimate_offset
from webhook.doctor.findings import Examination, Loaded, Verdict, failure, ok, warning
from webhook.doctor.fixes import RELOAD, Fixes
from webhook.doctor.signing_keys import check_published
from webhook.errors import ServerUnreachableError
from webhook.https_url import HTTPSAddress
from webhook.outbound.https import client_context
from webhook.token.issuer import CONFIGURATION_PATH, JWKS_PATH

_READY_PATH: Final = "/readyz?verbose"
_PATHS: Final = (_READY_PATH, CONFIGURATION_PATH, JWKS_PATH)


@dataclass(frozen=True, slots=True)
class Reach:
    """What is asked over the network.

    Without ``server`` it is the one that ``server.bind`` names; without ``api_server`` no clock is
    compared. ``api_server_ca`` has the CAs of its certificate, None means the system's.
    """

    server: HTTPSAddress | None = None
    api_server: HTTPSAddress | None = None
    api_server_ca: Path | None = None


def examine_server(
    exam: Examination,
    reach: Reach,
    configuration: Loaded[Configuration],
    keyring: Loaded[Keyring],
    ca: Loaded[bytes],
    fixes: Fixes,
) -> None:
    """Check that a server is ready, and publishes the issuer and the keys of the directory."""
    answers: dict[str, Answer] = {}

    def ready() -> Verdict:
        place = _place(reach, configuration.get(), fixes)
        try:
            context = client_context(ca=ca.get().decode("ascii"))
            answers.update({path: ask(place, context, path) for path in _PATHS})
        except NobodyAnswersError as error:
            say = warning if reach.server is None else failure
            return say(str(error), fixes.leeway("serve"))
        return _judge_readiness(answers[_READY_PATH], place)

    exam.check(
        "server", ready, f"{RELOAD}; or give --server, if it is not the server of this directory"
    )
    if len(answers) < len(_PATHS):
        for name in ("discovery document", "published keys"):
            exam.leave_out(name, "it needs a running server")
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


def examine_clock(exam: Examination, reach: Reach, configuration: Loaded[Configuration]) -> None:
    """Check how far the API server's clock is from this one."""
    address = reach.api_server
    if address is None:
        exam.leave_out("clock", "give the API server's URL with --api-server")
        return

    def check() -> Verdict:
        leeway = clock_leeway_of(configuration.get())
        ca = reach.api_server_ca
        context = client_context(ca=read_public_file(ca).decode("ascii") if ca else None)
        samples = ask_for_dates(place_of(address), context)
        return check_offset(estimate_offset(samples), address.display, leeway)

    exam.check(
        "clock", check, "give the URL with --api-server, and its CA's file with --api-server-ca"
    )


def _place(reach: Reach, configuration: Configuration, fixes: Fixes) -> Place:
    if reach.server is not None:
        return place_of(reach.server)
    host, _, port = configuration.server.bind.rpartition(":")
    host = host.strip("[]")
    address = EVERY_ADDRESS.get(host, host)
    # Its certificate is for the name by which clients call it.
    return Place(address, int(port), next(iter(fixes.hosts), address))


def _judge_readiness(answer: Answer, place: Place) -> Verdict:
    lines = answer.body.decode("utf-8", "replace").splitlines()
    if answer.status != 200:
        bad = [line.removeprefix("[-]") for line in lines if line.startswith("[-]")]
        why = ", ".join(bad) or f"it answers {answer.status}"
        return failure(f"the server at {place} is not ready: {why[:500]}", RELOAD)
    noted = [line.removeprefix("[!]") for line in lines if line.startswith("[!]")]
    if noted:
        return warning(f"the server at {place} is ready, but: {', '.join(noted)[:500]}", RELOAD)
    return ok(f"ready at {place}")


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
