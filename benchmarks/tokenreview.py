"""Claim: TokenReviews are answered several times as fast as by a plain Flask and PyJWT webhook.

Both servers have 2 worker processes and the same certificates; 16 keep-alive TLS connections with
a client certificate send the next request when they have their answer. The servers are measured
in turn, each started again for every measurement. Cold means that no token is sent twice to
a server, so that no cache can help; warm means the same token every time. The load client and the
servers share the machine's processors.
"""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.load_client import Load, Plan, ToolMissingError, build, review_target, run_load
from benchmarks.report import Row, rate_row
from benchmarks.servers import (
    BASELINE_THREADS,
    WORKERS,
    baseline_server,
    leeway_server,
    make_data_dir,
)
from benchmarks.tokens import make_tokens_of, token_review
from webhook.config.load import load_configuration
from webhook.kube.token_review import TOKEN_REVIEW_PATH

CONNECTIONS: Final = 16
_FLOORS: Final = {"warm": 4.0, "cold": 3.0}
_CLAIMS: Final = {"warm": "TokenReview, same token", "cold": "TokenReview, all tokens different"}
_EXPECTED: Final = '"authenticated":true'


@dataclass(frozen=True, slots=True)
class Effort:
    """The number of rounds, and how long each measures."""

    rounds: int
    seconds: float
    warm_up_seconds: float
    cold_tokens: int
    warm_up_tokens: int


FULL: Final = Effort(5, 4.0, 2.0, 60_000, 4_000)
QUICK: Final = Effort(3, 1.0, 1.0, 12_000, 1_000)

Server = Callable[[], AbstractContextManager[int]]


@dataclass(frozen=True, slots=True)
class Bench:
    """The servers, and the requests to them."""

    client: Path
    data_dir: Path
    servers: dict[str, Server]
    effort: Effort
    # Files of request bodies.
    same: Path
    different: Path
    warm_up: Path


def run(*, quick: bool) -> list[Row]:
    """Measure warm and cold."""
    with tempfile.TemporaryDirectory(prefix="leeway-bench-") as name:
        folder = Path(name)
        try:
            client = build(folder)
        except ToolMissingError as error:
            return [Row(claim, skipped=str(error)) for claim in _CLAIMS.values()]
        data_dir = make_data_dir(folder)
        configuration = load_configuration(data_dir, {}, {})
        servers: dict[str, Server] = {
            "leeway": lambda: leeway_server(data_dir),
            "Flask + PyJWT": lambda: baseline_server(data_dir, configuration),
        }
        bench = prepare(client, data_dir, servers, QUICK if quick else FULL)
        return [_measure(bench, kind) for kind in _CLAIMS]


def prepare(client: Path, data_dir: Path, servers: dict[str, Server], effort: Effort) -> Bench:
    """Sign the tokens, and write them beside the data directory as the bodies of reviews."""
    configuration = load_configuration(data_dir, {}, {})
    audience = configuration.audiences[0]
    tokens = make_tokens_of(data_dir, effort.cold_tokens + effort.warm_up_tokens)
    bodies = [token_review(token, audience) + "\n" for token in tokens]
    files = [data_dir.parent / name for name in ("same", "different", "warm-up")]
    parts = [bodies[:1], bodies[: effort.cold_tokens], bodies[effort.cold_tokens :]]
    for file, part in zip(files, parts, strict=True):
        file.write_text("".join(part), "ascii")
    return Bench(client, data_dir, servers, effort, *files)


def _measure(bench: Bench, kind: str) -> Row:
    ours, baseline, notes = measure_in_turn(bench, kind)
    notes.append(
        f"{CONNECTIONS} connections, {WORKERS} workers; the baseline's with {BASELINE_THREADS} "
        "threads each"
    )
    if kind == "cold":
        notes.append(f"{bench.effort.cold_tokens:,} different tokens, none sent twice to a server")
    return rate_row(_CLAIMS[kind], _FLOORS[kind], ours, baseline, "requests/s", notes)


def measure_in_turn(
    bench: Bench, kind: str
) -> tuple[tuple[str, list[float]], tuple[str, list[float]], list[str]]:
    """Return the names and the rates (requests/s) of the two servers, one a round, and notes.

    ``kind`` is ``warm`` or ``cold``. Which of them is measured first changes with each round.
    """
    loads: dict[str, list[Load]] = {name: [] for name in bench.servers}
    for number in range(bench.effort.rounds):
        in_order = list(bench.servers.items())
        for name, server in in_order if number % 2 == 0 else reversed(in_order):
            loads[name].append(_load(bench, server, kind))
    ours, other = (
        (name, [load.requests_per_second for load in runs]) for name, runs in loads.items()
    )
    return ours, other, [_summary(name, runs) for name, runs in loads.items()]


def _load(bench: Bench, server: Server, kind: str) -> Load:
    cold = kind == "cold"
    effort = bench.effort
    warm_up = Plan(
        bench.warm_up if cold else bench.same, CONNECTIONS, effort.warm_up_seconds, once=cold
    )
    plan = Plan(bench.different if cold else bench.same, CONNECTIONS, effort.seconds, once=cold)
    with server() as port:
        target = review_target(port, TOKEN_REVIEW_PATH, bench.data_dir, _EXPECTED)
        run_load(bench.client, target, warm_up)
        return run_load(bench.client, target, plan)


def _summary(name: str, loads: list[Load]) -> str:
    p50 = median(load.p50_ms for load in loads)
    p99 = median(load.p99_ms for load in loads)
    rate = median(load.requests_per_second for load in loads)
    busy = median(load.client_cpu_seconds / load.seconds for load in loads)
    return (
        f"{name}: {rate:,.0f} requests/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms; "
        f"the client kept {busy:.0%} of one processor busy"
    )
