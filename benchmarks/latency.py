"""Claim: at half of the maximum load, even slow answers are fast.

One server with 2 workers reviews tokens that it has seen. Each round measures the maximum
rate with a closed loop, then keeps a quarter, half and three quarters of it with an open loop: a
request is due at its time whether or not earlier ones have been answered, and its latency is
measured from that time, so that waiting counts. The load client shares the machine's processors.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.load_client import Load, Plan, ToolMissingError, build, review_target, run_load
from benchmarks.report import Row, cost_row
from benchmarks.servers import leeway_server, make_data_dir
from benchmarks.tokens import make_tokens_of, token_review
from webhook.config.load import load_configuration
from webhook.kube.token_review import TOKEN_REVIEW_PATH

CONNECTIONS: Final = 16
SHARES: Final = (0.25, 0.5, 0.75)
_CEILINGS: Final = {0.5: 10.0}
_TOKENS: Final = 200


@dataclass(frozen=True, slots=True)
class _Effort:
    rounds: int
    warm_up_seconds: float
    maximum_seconds: float
    seconds: float


_FULL: Final = _Effort(5, 2.0, 3.0, 8.0)
_QUICK: Final = _Effort(2, 1.0, 1.0, 1.0)


def run(*, quick: bool) -> list[Row]:
    """Measure each share of the maximum."""
    effort = _QUICK if quick else _FULL
    with tempfile.TemporaryDirectory(prefix="leeway-bench-") as name:
        folder = Path(name)
        try:
            client = build(folder)
        except ToolMissingError as error:
            return [Row(_claim(share), skipped=str(error)) for share in SHARES]
        data_dir = make_data_dir(folder)
        audience = load_configuration(data_dir, {}, {}).audiences[0]
        bodies = folder / "bodies"
        tokens = make_tokens_of(data_dir, _TOKENS)
        bodies.write_text("".join(token_review(token, audience) + "\n" for token in tokens))
        loads: dict[float, list[Load]] = {share: [] for share in SHARES}
        maxima = []
        with leeway_server(data_dir) as port:
            target = review_target(port, TOKEN_REVIEW_PATH, data_dir, '"authenticated":true')

            def load(seconds: float, rate: float = 0.0) -> Load:
                return run_load(client, target, Plan(bodies, CONNECTIONS, seconds, rate))

            load(effort.warm_up_seconds)
            for _ in range(effort.rounds):
                maxima.append(load(effort.maximum_seconds).requests_per_second)
                for share in SHARES:
                    loads[share].append(load(effort.seconds, share * maxima[-1]))
    return [latency_row(share, loads[share], maxima) for share in SHARES]


def latency_row(share: float, loads: Sequence[Load], maxima: Sequence[float]) -> Row:
    """Make the row of one share of the maximum: how many times the median p99 is."""
    shown = ", ".join(
        f"{name} {median(getattr(load, field) for load in loads):.2f} ms"
        for name, field in (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"))
    )
    held = median(load.requests_per_second for load in loads)
    notes = [
        f"{held:,.0f} of {median(maxima):,.0f} requests/s over {CONNECTIONS} connections: {shown}, "
        f"max {max(load.max_ms for load in loads):.1f} ms"
    ]
    return cost_row(
        _claim(share),
        _CEILINGS.get(share, 0.0),
        ("p99", [load.p99_ms for load in loads]),
        ("p50", [load.p50_ms for load in loads]),
        "ms",
        notes,
    )


def _claim(share: float) -> str:
    return f"latency of a TokenReview at {share:.0%} of the maximum load"
