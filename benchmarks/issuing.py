"""Tokens signed per second: TokenRequests, compared with only the signature.

TokenRequests go over TLS to a server with 2 workers, as root, on one connection and on 16, in
closed loops. The other rate is that of ``cryptography`` signing a token's header and claims with a
key of the same kind, in this process and so on one processor. They are measured in turn, and have
no limit.
"""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from benchmarks.load_client import Plan, Target, ToolMissingError, build, run_load
from benchmarks.report import Row, rate_row
from benchmarks.servers import HOST, WORKERS, leeway_server, make_data_dir
from benchmarks.tokens import make_tokens_here
from webhook.assembly import keyring_of
from webhook.config.paths import TLS_FOLDER
from webhook.rbac.model import ROOT

ALGORITHMS: Final = ("RS256", "ES256")
CONNECTIONS: Final = (1, 16)
_PATH: Final = "/api/v1/namespaces/shop/serviceaccounts/checkout/token"
_REQUEST: Final = {
    "kind": "TokenRequest",
    "apiVersion": "authentication.k8s.io/v1",
    "metadata": {"creationTimestamp": None},
    "spec": {"audiences": [], "expirationSeconds": 3600, "boundObjectRef": None},
    "status": {"token": "", "expirationTimestamp": None},
}


@dataclass(frozen=True, slots=True)
class _Effort:
    rounds: int
    seconds: float
    signatures: int


_FULL: Final = _Effort(5, 4.0, 2_000)
_QUICK: Final = _Effort(2, 1.0, 500)


def run(*, quick: bool) -> list[Row]:
    """Measure each algorithm on each number of connections."""
    effort = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory(prefix="leeway-bench-") as name:
        folder = Path(name)
        try:
            client = build(folder)
        except ToolMissingError as error:
            return [Row(_claim(a, c), skipped=str(error)) for a in ALGORITHMS for c in CONNECTIONS]
        body = folder / "request"
        body.write_text(json.dumps(_REQUEST, separators=(",", ":")) + "\n", "ascii")
        return [row for a in ALGORITHMS for row in _measure(client, folder, body, a, effort)]


def _measure(client: Path, folder: Path, body: Path, algorithm: str, effort: _Effort) -> list[Row]:
    (folder / algorithm).mkdir()
    data_dir = make_data_dir(folder / algorithm, algorithm)
    sign = bare_signer(data_dir)
    issued: dict[int, list[float]] = {count: [] for count in CONNECTIONS}
    bare: dict[int, list[float]] = {count: [] for count in CONNECTIONS}
    with leeway_server(data_dir) as port:
        target = Target(HOST, port, _PATH, data_dir / TLS_FOLDER, ROOT, '"token":"ey')
        run_load(client, target, Plan(body, max(CONNECTIONS), 1.0))
        for _ in range(effort.rounds):
            for count in CONNECTIONS:
                bare[count].append(rate_of(sign, effort.signatures))
                load = run_load(client, target, Plan(body, count, effort.seconds))
                issued[count].append(load.requests_per_second)
    return [
        rate_row(
            _claim(algorithm, count),
            0.0,
            ("TokenRequest", issued[count]),
            ("bare signature", bare[count]),
            "tokens/s",
            [f"{WORKERS} workers; the bare signature on one processor"],
        )
        for count in CONNECTIONS
    ]


def bare_signer(data_dir: Path) -> Callable[[], object]:
    """Return a function that signs a token's header and claims with the key of a data directory."""
    signed = make_tokens_here(data_dir, 1)[0].rpartition(".")[0].encode("ascii")
    key, sha256 = keyring_of(data_dir).signing_key().private_key, hashes.SHA256()
    if isinstance(key, rsa.RSAPrivateKey):
        sign_rsa, scheme = key.sign, padding.PKCS1v15()
        return lambda: sign_rsa(signed, scheme, sha256)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("neither an RSA nor an elliptic-curve key")
    sign_ec, ecdsa = key.sign, ec.ECDSA(sha256)
    return lambda: sign_ec(signed, ecdsa)


def rate_of(work: Callable[[], object], count: int) -> float:
    """Return how many times a second a function can be called, from so many calls."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return count / (time.perf_counter() - started)


def _claim(algorithm: str, connections: int) -> str:
    return f"tokens issued, {algorithm}, {connections} connection{'s' if connections > 1 else ''}"
