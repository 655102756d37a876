"""Claim: TokenReviews are answered several times as fast as by a plain Flask and PyJWT webhook.

Both servers have 2 worker processes and the same certificates; 16 keep-alive TLS connections with
a client certificate send the next request when they have their answer. The servers are measured
in turn, each started anew for every measurement. Cold means that no token is ever sent twice to
a server, so that no cache can help; warm means one token all the time. The load client and the
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
from webhook.config_file import load_configuration
from webhook.data_dir import TOKEN_REVIEW_PATH

CONNECTIONS: Final = 16
_FLOORS: Final = {"warm": 4.0, "cold": 3.0}
_CLAIMS: Final = {"warm": "TokenReview, same token", "cold": "TokenReview, all tokens different"}
_EXPECTED: Final = '"authenticated":true'


@dataclass(frozen=True, slots=True)
class _Effort:
    rounds: int
    seconds: float
    warm_up_seconds: float
    cold_tokens: int
    warm_up_tokens: int


_FULL: Final = _Effort(5, 4.0, 2.0, 60_000, 4_000)
_QUICK: Final = _Effort(3, 1.0, 1.0, 12_000, 1_000)

_Server = Callable[[], AbstractContextManager[int]]


@dataclass(frozen=True, slots=True)
class _Bench:
    client: Path
    data_dir: Path
    servers: dict[str, _Server]
    effort: _Effort
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
        bench = _prepare(folder, client, _QUICK if quick else _FULL)
        return [_measure(bench, kind) for kind in _CLAIMS]


def _prepare(folder: Path, client: Path, effort: _Effort) -> _Bench:
    data_dir = make_data_dir(folder)
    configuration = load_configuration(data_dir, {}, {})
    audience = configuration.audiences[0]
    tokens = make_tokens_of(data_dir, effort.cold_tokens + effort.warm_up_tokens)
    bodies = [token_review(token, audience) + "\n" for token in tokens]
    files = [folder / name for name in ("same", "different", "warm-up")]
    parts = [bodies[:1], bodies[: effort.cold_tokens], bodies[effort.cold_tokens :]]
    for file, part in zip(files, parts, strict=True):
        file.write_text("".join(part), "ascii")
    servers: dict[str, _Server] = {
        "leeway": lambda: leeway_server(data_dir),
        "Flask + PyJWT": lambda: baseline_server(data_dir, configuration),
    }
    return _Bench(client, data_dir, servers, effort, *files)


def _measure(bench: _Bench, kind: str) -> Row:
    loads: dict[str, list[Load]] = {name: [] for name in bench.servers}
    for _ in range(bench.effort.rounds):
        for name, server in bench.servers.items():
            loads[name].append(_load(bench, server, kind))
    rates = {name: [load.requests_per_second for load in runs] for name, runs in loads.items()}
    ours, baseline = rates.items()
    notes = [_summary(name, runs) for name, runs in loads.items()]
    notes.append(
        f"{CONNECTIONS} connections, {WORKERS} workers; the baseline's with {BASELINE_THREADS} "
        "threads each"
    )
    if kind == "cold":
        notes.append(f"{bench.effort.cold_tokens:,} different tokens, none sent twice to a server")
    return rate_row(_CLAIMS[kind], _FLOORS[kind], ours, baseline, "requests/s", notes)


def _load(bench: _Bench, server: _Server, kind: str) -> Load:
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
