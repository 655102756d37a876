"""Claims: a signature through ``leeway signer`` costs little more than the signature.

The signer is confined to one processor. The client, ``sign_client``, is a process of its own on
another one, if there is another, and calls Sign over one connection, as kube-apiserver does. The
bare signature is that of ``cryptography`` over a token's header and claims with a key of the same
kind, on the signer's processor. Both are measured in turn: latency with one call at a time, the
rate with 16 in flight. ES256 is measured too, without a limit on its rate: its bare signature takes
a tenth of the time of a call.

Then ``leeway serve`` with 2 workers and the signer share all processors, on one data directory.
TokenReviews come at half of the maximum rate, and latency counts from the time when one was due.
The signer signs ``CLUSTER_RATE`` tokens/s beside them, twice as many as the largest cluster that
Kubernetes supports renews: 150,000 Pods, each every 48 minutes. Without a limit, it is measured
with half of the signer's own maximum too, and without signatures. A load that is not held counts as
missed, whatever the ratio.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.issuing import bare_signer, rate_of
from benchmarks.load_client import (
    Load,
    LoadError,
    Plan,
    ToolMissingError,
    build,
    review_target,
    run_load,
)
from benchmarks.processes import processor_time
from benchmarks.report import Figure, Row, cost_row, rate_row
from benchmarks.servers import (
    ROOT,
    RunningSigner,
    confined_to,
    leeway_server,
    make_data_dir,
    signer_process,
)
from benchmarks.tokens import make_tokens_of, token_review
from webhook.config.load import load_configuration
from webhook.kube.token_review import TOKEN_REVIEW_PATH

IN_FLIGHT: Final = 16
ALGORITHMS: Final = ("RS256", "ES256")
ADDED_MS: Final = 1.0
_RATE_FLOORS: Final = {"RS256": 0.8}
_REVIEW_CEILING: Final = 10.0
_REVIEW_CONNECTIONS: Final = 16
CLUSTER_RATE: Final = 104.0
_BESIDE: Final = {
    f"{CLUSTER_RATE:.0f} signatures/s": _REVIEW_CEILING,
    "50% of the signer's": 0.0,
}
_HELD: Final = 0.95
_TOKENS: Final = 200
_SPARE_SECONDS: Final = 60
_MARGIN_SECONDS: Final = 1.5


@dataclass(frozen=True, slots=True)
class _Effort:
    rounds: int
    seconds: float
    signatures: int
    review_rounds: int
    review_seconds: float


_FULL: Final = _Effort(5, 4.0, 4_000, 4, 6.0)
_QUICK: Final = _Effort(3, 1.0, 1_000, 2, 2.0)


@dataclass(slots=True)
class Measured:
    """The loads of an algorithm, and what a bare signature takes; one value of each a round.

    ``costs`` are microseconds of processor time: of the signer a call, and of a bare signature.
    """

    single: list[Load] = field(default_factory=list)
    many: list[Load] = field(default_factory=list)
    bare_rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    bare_costs: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Reviews:
    """TokenReviews beside signatures, the rate they were due at, and the signatures.

    One value of each a round; ``alone`` are TokenReviews at the same rate without signatures.
    """

    alone: list[Load] = field(default_factory=list)
    beside: list[Load] = field(default_factory=list)
    signed: list[Load] = field(default_factory=list)
    due: list[float] = field(default_factory=list)


def run(*, quick: bool) -> list[Row]:
    """Measure all claims."""
    effort = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory(prefix="leeway-bench-") as name:
        folder = Path(name)
        rows = [
            row
            for algorithm in ALGORITHMS
            for row in signing_rows(algorithm, _measure(folder / algorithm, algorithm, effort))
        ]
        try:
            client = build(folder)
        except ToolMissingError as error:
            return [*rows, *(Row(_review_claim(name), skipped=str(error)) for name in _BESIDE)]
        return [*rows, *_measure_reviews(client, folder / "beside", effort)]


def _measure(folder: Path, algorithm: str, effort: _Effort) -> Measured:
    folder.mkdir()
    data_dir = make_data_dir(folder, algorithm)
    signs = bare_signer(data_dir)
    measured = Measured()
    own, *others = sorted(os.sched_getaffinity(0))
    beside = others[0] if others else own
    with signer_process(data_dir, own) as signer:
        _load(signer, data_dir, IN_FLIGHT, 1.0, processor=beside)
        for _ in range(effort.rounds):
            with confined_to(own):
                began = time.process_time()
                measured.bare_rates.append(rate_of(signs, effort.signatures))
                spent = time.process_time() - began
            measured.bare_costs.append(1e6 * spent / effort.signatures)
            measured.single.append(_load(signer, data_dir, 1, effort.seconds, processor=beside))
            before = sum(processor_time(signer.pid))
            many = _load(signer, data_dir, IN_FLIGHT, effort.seconds, processor=beside)
            spent = sum(processor_time(signer.pid)) - before
            measured.many.append(many)
            measured.costs.append(1e6 * spent / many.requests)
    return measured


def signing_rows(algorithm: str, measured: Measured) -> list[Row]:
    """Make the rows of latency and rate."""
    bare_ms = [1000 / rate for rate in measured.bare_rates]
    latency = cost_row(
        f"Sign, {algorithm}, one call at a time",
        1.0,
        ("p50", [load.p50_ms for load in measured.single]),
        (f"bare signature + {ADDED_MS:g} ms:", [value + ADDED_MS for value in bare_ms]),
        "ms",
        [f"bare signature {median(bare_ms):.3g} ms; {_summary(measured.single)}"],
    )
    rate = rate_row(
        f"Sign, {algorithm}, {IN_FLIGHT} calls in flight",
        _RATE_FLOORS.get(algorithm, 0.0),
        ("leeway signer", [load.requests_per_second for load in measured.many]),
        ("bare signature", measured.bare_rates),
        "tokens/s",
        [
            f"one processor for the signer; {_summary(measured.many)}",
            f"processor time a token: {median(measured.costs):.0f} us, "
            f"of a bare signature {median(measured.bare_costs):.0f} us",
        ],
    )
    return [latency, rate]


def _summary(loads: list[Load]) -> str:
    p50, p99 = (median(getattr(load, name) for load in loads) for name in ("p50_ms", "p99_ms"))
    busy = median(load.client_cpu_seconds / load.seconds for load in loads)
    return (
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms; the client, in Python, kept {busy:.0%} of one "
        "processor busy"
    )


def _measure_reviews(client: Path, folder: Path, effort: _Effort) -> list[Row]:
    folder.mkdir()
    data_dir = make_data_dir(folder)
    audience = load_configuration(data_dir, {}, {}).audiences[0]
    bodies = folder / "bodies"
    tokens = make_tokens_of(data_dir, _TOKENS)
    bodies.write_text("".join(token_review(token, audience) + "\n" for token in tokens))
    found = {name: Reviews() for name in _BESIDE}
    seconds = effort.review_seconds
    with leeway_server(data_dir) as port, signer_process(data_dir) as signer:
        target = review_target(port, TOKEN_REVIEW_PATH, data_dir, '"authenticated":true')

        def review(seconds: float, rate: float = 0.0) -> Load:
            return run_load(client, target, Plan(bodies, _REVIEW_CONNECTIONS, seconds, rate))

        review(1.0)
        _load(signer, data_dir, IN_FLIGHT, 1.0)
        for _ in range(effort.review_rounds):
            due = review(effort.seconds).requests_per_second / 2
            alone = review(seconds, due)
            most = _load(signer, data_dir, IN_FLIGHT, effort.seconds).requests_per_second
            for reviews, rate in zip(found.values(), (CLUSTER_RATE, most / 2), strict=True):
                with ThreadPoolExecutor(1) as pool:
                    # From before the reviews until after them.
                    total = seconds + 2 * _MARGIN_SECONDS
                    signing = pool.submit(_load, signer, data_dir, IN_FLIGHT, total, rate)
                    time.sleep(_MARGIN_SECONDS)
                    reviews.beside.append(review(seconds, due))
                    reviews.signed.append(signing.result())
                reviews.alone.append(alone)
                reviews.due.append(due)
    return [reviews_row(name, _BESIDE[name], reviews) for name, reviews in found.items()]


def reviews_row(name: str, ceiling: float, found: Reviews) -> Row:
    """Make the row of reviews beside signatures: how many times the median the p99 is."""
    held, alone, signing = (
        median(load.requests_per_second for load in loads)
        for loads in (found.beside, found.alone, found.signed)
    )
    p50, p99 = (median(getattr(load, at) for load in found.alone) for at in ("p50_ms", "p99_ms"))
    notes = [
        f"{held:,.0f} of {median(found.due):,.0f} reviews/s over {_REVIEW_CONNECTIONS} "
        f"connections, max {max(load.max_ms for load in found.beside):.1f} ms",
        f"without signatures: {alone:,.0f} reviews/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms",
        f"{signing:,.0f} signatures/s: {_summary(found.signed)}",
    ]
    row = cost_row(
        _review_claim(name),
        ceiling,
        ("p99", [load.p99_ms for load in found.beside]),
        ("p50", [load.p50_ms for load in found.beside]),
        "ms",
        notes,
    )
    if held < _HELD * median(found.due):
        # In a queue that grows, slow answers are the usual ones.
        slower = row.measured.value / p50 if row.measured else 0.0
        return replace(
            row,
            against=Figure("the load was not held; p50 without signatures", p50, "ms"),
            ratio=slower,
        )
    return row


def _review_claim(beside: str) -> str:
    return f"TokenReview at 50% of the maximum load, beside {beside}"


def _load(
    signer: RunningSigner,
    data_dir: Path,
    in_flight: int,
    seconds: float,
    rate: float = 0.0,
    *,
    processor: int | None = None,
) -> Load:
    """Run the client, on a processor if one is given. Raises LoadError if a call fails."""
    command = [sys.executable, "-m", "benchmarks.sign_client", str(signer.socket), str(data_dir)]
    command += [str(in_flight), str(seconds), str(rate)]
    with confined_to(processor):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    try:
        output, errors = process.communicate(timeout=seconds + _SPARE_SECONDS)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise LoadError("the client of the signer did not end") from error
    if process.returncode:
        raise LoadError(errors.decode()[-1000:])
    return Load(**json.loads(output))
