"""Claim: a server answers soon after it starts, in little more than the time its libraries take.

It is the time from the start of ``leeway serve`` to the last byte of the answer to a TokenReview
over mutual TLS, sent again every 2 ms until there is an answer. It is compared with the time of a
Python that only imports flask, cryptography, jwt and gunicorn. Both are measured in turn, with
everything in the page cache, and compiled as pip does it.
"""

import compileall
import http.client
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.load_client import LoadError
from benchmarks.report import Row, cost_row
from benchmarks.servers import HOST, WORKERS, leeway_server, make_data_dir
from benchmarks.tokens import make_tokens, token_review
from webhook.assembly import keyring_of, policy_of
from webhook.config.load import load_configuration
from webhook.config.paths import TLS_FOLDER
from webhook.kube.token_review import TOKEN_REVIEW_PATH
from webhook.setup.first_records import API_SERVER_USER

CEILING: Final = 1.5
IMPORTS: Final = "import flask, cryptography, jwt, gunicorn"
_ROOT: Final = Path(__file__).parent.parent
_CLAIM: Final = "start to first answer"
_ROUNDS: Final = 15
_QUICK_ROUNDS: Final = 5
_POLL_SECONDS: Final = 0.002
_GIVE_UP_SECONDS: Final = 30.0
_EXPECTED: Final = b'"authenticated":true'


@dataclass(frozen=True, slots=True)
class _Question:
    """The request that is sent until there is an answer."""

    context: ssl.SSLContext
    body: str


def run(*, quick: bool) -> list[Row]:
    """Measure both in turn, after a start of each that does not count."""
    for package in ("keys", "webhook"):
        # The first import of a checkout compiles it, unless the environment forbids that.
        compileall.compile_dir(_ROOT / package, quiet=1)
    with tempfile.TemporaryDirectory(prefix="leeway-bench-") as name:
        data_dir = make_data_dir(Path(name))
        question = _question(data_dir)
        seconds = [
            (_seconds_to_answer(data_dir, question), _seconds_to_import())
            for _ in range(1 + (_QUICK_ROUNDS if quick else _ROUNDS))
        ]
    ours, imports = zip(*seconds[1:], strict=True)
    measured = "leeway serve", [1000 * value for value in ours]
    against = IMPORTS, [1000 * value for value in imports]
    notes = [f"{WORKERS} workers; both started by the same Python, {sys.executable}"]
    return [cost_row(_CLAIM, CEILING, measured, against, "ms", notes)]


def _question(data_dir: Path) -> _Question:
    configuration = load_configuration(data_dir, {}, {})
    (token,) = make_tokens(keyring_of(data_dir), policy_of(configuration), 1)
    tls = data_dir / TLS_FOLDER
    context = ssl.create_default_context(cafile=tls / "ca.crt")
    context.load_cert_chain(tls / f"{API_SERVER_USER}.crt", tls / f"{API_SERVER_USER}.key")
    return _Question(context, token_review(token, configuration.audiences[0]))


def _seconds_to_answer(data_dir: Path, question: _Question) -> float:
    started = time.perf_counter()
    with leeway_server(data_dir, wait=False) as port:
        while (answer := _ask(port, question)) is None:
            if time.perf_counter() - started > _GIVE_UP_SECONDS:
                raise LoadError(f"no answer within {_GIVE_UP_SECONDS:.0f} s")
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - started
        if _EXPECTED not in answer:
            raise LoadError(f"the first answer is {answer.decode('utf-8', 'replace')}")
    return seconds


def _ask(port: int, question: _Question) -> bytes | None:
    """Return the complete answer, None without one."""
    with closing(
        http.client.HTTPSConnection(HOST, port, context=question.context, timeout=_GIVE_UP_SECONDS)
    ) as connection:
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", TOKEN_REVIEW_PATH, question.body, headers)
            return connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return None


def _seconds_to_import() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - started
