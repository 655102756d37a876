"""``python -m benchmarks.soak``: memory and answers during an hour at half load.

A real ``leeway serve`` has 2 workers, each with a ``server.maxWorkerBytes`` of 128 MiB. First
their caches of verified tokens are filled to their limit, so that their growth does not count.
Then the maximum rate is measured, and half of it is kept as an open-loop load: known tokens, new
tokens, which evict known ones from the caches, access reviews, refused tokens. With it come a few
changes a second, a revocation a minute, two steps of a key rotation, and reloads.

Resident memory is read every 10 seconds. Its value at a time is the median of the minute before,
since it varies with the requests in progress. Exit code 1 if the memory of the server or of a
worker is at the end more than 1.05 times what it was after five minutes, or if any answer was not
as expected.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from threading import Event
from typing import Final

import click

from benchmarks.load_client import Load, LoadError, Plan, ToolMissingError, build, run_load
from benchmarks.processes import resident_bytes
from benchmarks.report import Figure, Row, render
from benchmarks.servers import WORKERS, RunningServer, leeway_process, make_data_dir
from benchmarks.soak_traffic import (
    ACCOUNTS,
    MAX_WORKER_BYTES,
    REPEATED_TOKENS,
    SHARES,
    Tally,
    Traffic,
    bodies_file,
    prepare,
)
from benchmarks.tokens import make_tokens_of, token_review
from webhook.config.load import load_configuration

LIMIT: Final = 1.05
MARK_MINUTES: Final = 5.0
_SAMPLE_SECONDS: Final = 10.0
_MEDIAN_SECONDS: Final = 60.0
_LINE_SECONDS: Final = 300.0
_MAXIMUM_SECONDS: Final = 10.0
_CONNECTIONS: Final = 16
_FILL_CONNECTIONS: Final = 32
_FILL_CHUNK: Final = 20_000
# The least memory of a cached token, and of a worker without any: `make bench BENCH_FLAGS=memory`.
_TOKEN_BYTES: Final = 800
_BARE_BYTES: Final = 50 * 1024 * 1024
# A shorter run fills less of the caches: it shows that everything works, not how memory behaves.
_FULL_MINUTES: Final = 10.0
_MEGABYTE: Final = 1e6


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident bytes of the master and of each worker, so many seconds after the start."""

    seconds: float
    master: int
    workers: tuple[int, ...]

    @property
    def total(self) -> int:
        """Of all processes; pages that they share count in each."""
        return self.master + sum(self.workers)


@click.command()
@click.option("--minutes", type=click.FloatRange(min=1), default=60.0, show_default=True)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all of it."
)
def main(minutes: float, json_file: Path | None) -> None:
    """Keep half of the maximum load and report. Exit code 1 if a limit is missed."""
    with tempfile.TemporaryDirectory(prefix="leeway-soak-") as name:
        folder = Path(name)
        try:
            client = build(folder)
        except ToolMissingError as error:
            raise click.ClickException(f"the load client cannot be built: {error}") from error
        data_dir = make_data_dir(folder)
        tally, samples = Tally(), list[Sample]()
        try:
            _run(client, data_dir, minutes, tally, samples)
        except (LoadError, RuntimeError) as error:
            tally.fail(str(error))
        rows = memory_rows(samples, mark_of(minutes))
        click.echo(render(rows), nl=False)
        click.echo("\n" + "\n".join(traffic_lines(tally)))
        if json_file is not None:
            members = {
                "minutes": minutes,
                "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
                "tally": {name: [asdict(leg) for leg in legs] for name, legs in tally.legs.items()},
                "errors": tally.errors,
                "samples": [asdict(sample) for sample in samples],
            }
            json_file.write_text(json.dumps(members, indent=2) + "\n", "utf-8")
    sys.exit(tally.errors > 0 or not rows or any(row.verdict == "MISSED" for row in rows))


def _run(client: Path, data_dir: Path, minutes: float, tally: Tally, samples: list[Sample]) -> None:
    """Soak, and put the results into ``tally`` and ``samples``. Raises RuntimeError."""
    tokens = make_tokens_of(data_dir, REPEATED_TOKENS, ACCOUNTS)
    prepare(data_dir, tokens)
    stop = Event()
    # One process for signing, forked here, before there are threads.
    with ProcessPoolExecutor(1) as signer, leeway_process(data_dir) as server:
        signer.submit(abs, 0).result()
        filling = Traffic(client, data_dir, server, tally, stop, 0.0)
        _fill(filling, min(1.0, minutes / _FULL_MINUTES))
        plan = Plan(bodies_file(data_dir, "known tokens"), _CONNECTIONS, _MAXIMUM_SECONDS)
        maximum = run_load(client, filling.target("known tokens"), plan).requests_per_second
        rates = {kind: share * maximum / 2 for kind, share in SHARES.items()}
        _say(f"maximum {maximum:,.0f} requests/s, held are {sum(rates.values()):,.0f}")
        started = time.monotonic()
        traffic = Traffic(client, data_dir, server, tally, stop, started + minutes * 60)
        with ThreadPoolExecutor(len(rates) + 3) as threads:
            try:
                running = [threads.submit(traffic.change_permissions)]
                running.append(threads.submit(traffic.disturb, minutes))
                for kind, rate in rates.items():
                    if kind == "new tokens":
                        running.append(threads.submit(traffic.run_new_tokens, rate, signer))
                    else:
                        running.append(threads.submit(traffic.run_kind, kind, rate))
                _sample(traffic, started, samples)
            finally:
                stop.set()
        for thread in running:
            thread.result()


def _fill(traffic: Traffic, share: float) -> None:
    """Send more tokens than the caches of the workers can contain, each once."""
    # More than fit, because connections are distributed unevenly.
    count = int(share * WORKERS * (MAX_WORKER_BYTES - _BARE_BYTES) / _TOKEN_BYTES)
    _say(f"filling the caches with {count:,} tokens")
    audience = load_configuration(traffic.data_dir, {}, {}).audiences[0]
    file = bodies_file(traffic.data_dir, "fill")
    while count > 0:
        tokens = make_tokens_of(traffic.data_dir, min(count, _FILL_CHUNK), ACCOUNTS)
        file.write_text("".join(token_review(token, audience) + "\n" for token in tokens), "ascii")
        plan = Plan(file, _FILL_CONNECTIONS, 300, once=True)
        run_load(traffic.client, traffic.target("known tokens"), plan)
        count -= len(tokens)
        _say(f"{count:,} to go")
    file.unlink(missing_ok=True)


def _sample(traffic: Traffic, started: float, samples: list[Sample]) -> None:
    """Read memory until the end, and print a line now and then. Raises RuntimeError."""
    workers = traffic.server.workers()
    due, line_due = started, started + _LINE_SECONDS
    while due <= traffic.deadline:
        time.sleep(max(0.0, due - time.monotonic()))
        due += _SAMPLE_SECONDS
        samples.append(_sample_now(traffic.server, workers, started))
        if due > line_due:
            line_due += _LINE_SECONDS
            _say(line_of(samples[-1], traffic.tally))


def _sample_now(server: RunningServer, workers: Sequence[int], started: float) -> Sample:
    if (now := server.workers()) != list(workers):
        raise RuntimeError(f"the workers were {workers}, and are {now}: one of them has ended")
    sizes = tuple(resident_bytes(pid) for pid in workers)
    return Sample(time.monotonic() - started, resident_bytes(server.pid), sizes)


def line_of(sample: Sample, tally: Tally) -> str:
    """Print the progress."""
    requests = sum(load.requests for legs in tally.legs.values() for load in legs)
    workers = " + ".join(f"{size / _MEGABYTE:,.1f}" for size in sample.workers)
    return (
        f"{sample.seconds / 60:3.0f} min: {requests:,} requests, {tally.changes:,} changes, "
        f"{tally.errors} errors; resident {sample.total / _MEGABYTE:,.1f} MB, "
        f"the workers' {workers}"
    )


def mark_of(minutes: float) -> float:
    """Return the time in seconds whose memory the end is compared with."""
    return min(MARK_MINUTES, minutes / 2) * 60


def memory_rows(samples: Sequence[Sample], mark: float) -> list[Row]:
    """Compare the memory at the end with that at a mark: of the server and of each worker.

    Both are medians of the minute until then. No rows where there are no samples until the mark.
    """
    before = _minute_until(samples, mark)
    if not before or samples[-1].seconds < mark:
        return []
    after = _minute_until(samples, samples[-1].seconds)
    names = ["resident memory, all processes"]
    names += [f"resident memory, worker {number + 1}" for number in range(len(before[0].workers))]
    columns = [[[sample.total, *sample.workers] for sample in minute] for minute in (before, after)]
    rows = []
    for place, name in enumerate(names):
        first, last = (median(line[place] for line in column) for column in columns)
        rows.append(
            Row(
                name,
                Figure(f"at {samples[-1].seconds / 60:.0f} min", last / _MEGABYTE, "MB"),
                Figure(f"at {mark / 60:.0f} min", first / _MEGABYTE, "MB"),
                last / first,
                ceiling=LIMIT,
            )
        )
    return rows


def _minute_until(samples: Sequence[Sample], seconds: float) -> list[Sample]:
    return [s for s in samples if seconds - _MEDIAN_SECONDS < s.seconds <= seconds]


def traffic_lines(tally: Tally) -> list[str]:
    """Return lines with the number of answers and their latencies."""
    lines = [_kind_line(kind, legs) for kind, legs in tally.legs.items() if legs]
    lines.append(f"changes: {tally.changes:,}")
    lines.append(f"errors: {tally.errors}")
    return lines + [f"  {problem}" for problem in tally.problems[:10]]


def _kind_line(kind: str, legs: Sequence[Load]) -> str:
    requests, seconds = sum(leg.requests for leg in legs), sum(leg.seconds for leg in legs)
    return (
        f"{kind}: {requests:,} requests, {requests / seconds:,.0f}/s; of {len(legs)} legs: "
        f"p50 {median(leg.p50_ms for leg in legs):.2f} ms, "
        f"p99 {median(leg.p99_ms for leg in legs):.2f} ms "
        f"(the worst leg's {max(leg.p99_ms for leg in legs):.2f} ms), "
        f"max {max(leg.max_ms for leg in legs):.1f} ms"
    )


def _say(text: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


if __name__ == "__main__":
    main()
