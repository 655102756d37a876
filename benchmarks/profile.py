"""``python -m benchmarks.profile``: where the time of a TokenReview goes, as a table that adds up.

The total is the processor time of one worker of a real server for a request, in the program
and in the kernel, as the kernel counts it (proc(5)). It is the difference of two runs over 16
keep-alive TLS connections with different numbers of requests, so that handshakes and the start
cancel out. Warm means tokens that the worker has seen, cold a new token in every request. The
parts:

* The kernel's part is counted with the total.
* A server that differs only in its application, which does nothing, is measured in the same way:
  its processor time outside the kernel is the cost of carrying a request. TLS is measured
  separately, in memory, with the same context, records and sizes; the rest is the event loop and
  the connection, which reads the request and writes the answer.
* The functions of Leeway, and the signature, are timed in a third server (``profile_trace.py``)
  under the same load; the figure is the median of all requests. It is time, not processor time,
  whose clock is too slow: on a busy machine it is more.
* The rest of the total is shown as not attributed, such as the garbage collector, and what
  differs between the servers. It is negative if the functions took longer than in the server
  whose total is measured.

Figures are medians of rounds; a round measures everything in turn, each server started again.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import click

from benchmarks.load_client import LoadError, Plan, ToolMissingError, build, review_target, run_load
from benchmarks.processes import ProcessorTime, processor_time
from benchmarks.profile_tls import MemoryConnection, answer_bytes, request_bytes
from benchmarks.profile_trace import TRACED, Times, median_times, read_requests
from benchmarks.servers import RunningServer, leeway_process, make_data_dir, profile_server
from benchmarks.tokens import make_tokens_of, token_review
from webhook.config.load import load_configuration
from webhook.kube.token_review import TOKEN_REVIEW_PATH

CONNECTIONS: Final = 16
KINDS: Final = ("warm", "cold")
KERNEL: Final = "kernel, on the worker's behalf"
CARRIER: Final = "event loop, connection, HTTP"
TLS: Final = "TLS: read and write of a record"
_ANSWER_BYTES: Final = 940
_KNOWN_TOKENS: Final = 200


@dataclass(frozen=True, slots=True)
class _Effort:
    rounds: int
    warm_up: int
    requests: int
    traced: int


_FULL: Final = _Effort(5, 1_000, 20_000, 4_000)
_QUICK: Final = _Effort(1, 500, 4_000, 1_000)


@dataclass(frozen=True, slots=True)
class _Bench:
    client: Path
    folder: Path
    data_dir: Path
    effort: _Effort
    bodies: list[str]

    def send(self, server: RunningServer, bodies: Sequence[str]) -> None:
        """Send each body once."""
        file = self.folder / "bodies"
        file.write_text("".join(bodies), "ascii")
        target = review_target(server.port, TOKEN_REVIEW_PATH, self.data_dir, "{")
        run_load(self.client, target, Plan(file, CONNECTIONS, 300, once=True))

    def batches(self, kind: str, *sizes: int) -> Iterator[list[str]]:
        """Yield bodies, of the same few tokens or of different ones."""
        place = 0
        for size in sizes:
            if kind == "warm":
                known = self.bodies[:_KNOWN_TOKENS]
                yield [known[number % len(known)] for number in range(size)]
            else:
                yield self.bodies[place : place + size]
            place += size


@click.command()
@click.option("--quick", is_flag=True, help="Measure for a shorter time.")
def main(*, quick: bool) -> None:
    """Measure a warm and a cold TokenReview, part by part."""
    with tempfile.TemporaryDirectory(prefix="leeway-profile-") as name:
        folder = Path(name)
        try:
            client = build(folder)
        except ToolMissingError as error:
            raise click.ClickException(f"the load client cannot be built: {error}") from error
        effort = _QUICK if quick else _FULL
        data_dir = make_data_dir(folder)
        audience = load_configuration(data_dir, {}, {}).audiences[0]
        tokens = make_tokens_of(data_dir, 2 * effort.warm_up + effort.requests)
        bodies = [token_review(token, audience) + "\n" for token in tokens]
        bench = _Bench(client, folder, data_dir, effort, bodies)
        try:
            rounds = [_round(bench) for _ in range(effort.rounds)]
        except LoadError as error:
            raise click.ClickException(str(error)) from error
        click.echo(render({kind: _medians([one[kind] for one in rounds]) for kind in KINDS}))


def _medians(rounds: Sequence[Times]) -> Times:
    names = dict.fromkeys(name for times in rounds for name in times)
    return {name: median(times.get(name, 0.0) for times in rounds) for name in names}


def _round(bench: _Bench) -> dict[str, Times]:
    answer = bench.folder / "answer"
    answer.write_bytes(b"{" + b" " * (_ANSWER_BYTES - 2) + b"}")
    with profile_server("bare", bench.data_dir, answer) as server:
        bare = _of_the_processor(bench, server, "warm")
    tls = _tls(bench, answer.read_bytes())
    found = {}
    for kind in KINDS:
        with leeway_process(bench.data_dir, workers=1) as server:
            whole = _of_the_processor(bench, server, kind)
        found[kind] = parts_of(whole, bare, tls, _traced(bench, kind))
    return found


def parts_of(whole: ProcessorTime, bare: ProcessorTime, tls: float, traced: Times) -> Times:
    """Return the parts of a review and, under an empty name, the total.

    All are of one request: ``whole`` and ``bare`` in seconds, the others in nanoseconds.
    """
    parts = {KERNEL: whole.kernel * 1e9, TLS: tls, CARRIER: bare.user * 1e9 - tls}
    for shown in dict.fromkeys(traced_function.shown for traced_function in TRACED):
        if shown in traced:
            parts[shown] = traced[shown]
    return parts | {"": (whole.user + whole.kernel) * 1e9}


def _of_the_processor(bench: _Bench, server: RunningServer, kind: str) -> ProcessorTime:
    """Return seconds per request, from a short run and a long one after it."""
    effort = bench.effort
    sizes = (effort.warm_up, effort.warm_up, effort.requests)
    batches = bench.batches(kind, *sizes)
    # The port is open before there is a worker.
    bench.send(server, next(batches))
    (pid,) = server.workers()
    took = []
    for bodies in batches:
        before = processor_time(pid)
        bench.send(server, bodies)
        after = processor_time(pid)
        took.append(ProcessorTime(after.user - before.user, after.kernel - before.kernel))
    more = sizes[2] - sizes[1]
    return ProcessorTime(*((b - a) / more for a, b in zip(*took, strict=True)))


def _tls(bench: _Bench, answer: bytes) -> float:
    requests = [request_bytes(body.encode("ascii")) for body in bench.bodies[:_KNOWN_TOKENS]]
    connection = MemoryConnection(bench.data_dir)
    return min(connection.nanoseconds(requests, answer_bytes(answer)) for _ in range(5))


def _traced(bench: _Bench, kind: str) -> Times:
    """Return the times of functions, in nanoseconds."""
    with _times_file(bench) as file:
        with profile_server("traced", bench.data_dir, file) as server:
            for bodies in bench.batches(kind, bench.effort.warm_up, bench.effort.traced):
                bench.send(server, bodies)
        return median_times(read_requests(file)[bench.effort.warm_up :])


@contextmanager
def _times_file(bench: _Bench) -> Iterator[Path]:
    file = bench.folder / "times.json"
    yield file
    file.unlink(missing_ok=True)


def render(found: dict[str, Times]) -> str:
    """Return the parts in microseconds and in percent, the rest, and the sum."""
    # A cold review has every part that a warm one has.
    by_length = sorted(found.values(), key=len, reverse=True)
    names = [name for name in dict.fromkeys(n for parts in by_length for n in parts) if name]
    columns = {kind: _column(parts, names) for kind, parts in found.items()}
    width = max(len(name) for name in [*names, "rest, not attributed"])
    lines = ["us of one processor a request".ljust(width) + "".join(f"{k:>17}" for k in columns)]
    for place, name in enumerate([*names, "rest, not attributed", "whole"]):
        cells = "".join(f"{column[place]:>17}" for column in columns.values())
        lines.append(f"{name:<{width}}{cells}")
    lines.append("The time of a function is its own, without that of others here that it calls.")
    return "\n".join(lines)


def _column(parts: Times, names: Sequence[str]) -> list[str]:
    whole = parts[""]
    rest = whole - sum(parts.get(name, 0.0) for name in names)
    values = [parts.get(name) for name in names]
    return [
        "-" if value is None else f"{value / 1e3:8.2f} {value / whole:6.1%}"
        for value in [*values, rest, whole]
    ]


if __name__ == "__main__":
    main()
