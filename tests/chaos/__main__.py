"""``python -m tests.chaos [--short] [--seed N] [--rows 36,47] [--json FILE]``.

With ``--store etcd`` two replicas on a real etcd, other faults, and a judge of every answer.
"""

import argparse
import asyncio
import os
import random
import sys
import time
from pathlib import Path

from .driver import FAULTS, drive
from .report import as_json, details, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="every fault once or twice, 2 minutes")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("TEST_CHAOS_SEED", "0")))
    parser.add_argument("--rows", default=",".join(map(str, FAULTS)), help="only these faults")
    parser.add_argument("--json", type=Path, help="write the report there too")
    parser.add_argument("--log", type=Path, default=os.devnull, help="keep the server's log there")
    parser.add_argument("--store", choices=("sqlite", "etcd"), default="sqlite")
    given = parser.parse_args()
    seed = given.seed or random.SystemRandom().randrange(1, 1 << 32)
    print(f"TEST_CHAOS_SEED={seed}", flush=True)
    if given.store == "etcd":
        return _on_etcd(given, seed)
    started = time.monotonic()
    rows = [int(row) for row in given.rows.split(",")]
    windows = asyncio.run(
        drive(seed, not given.short, rows, given.log, lambda text: print(text, file=sys.stderr))
    )
    if given.json:
        given.json.write_text(as_json(windows, seed))
    print(f"\n{table(windows)}\n")
    problems = details(windows)
    if problems:
        print(problems)

    result = "FAILED" if problems else "passed"
    print(f"{result} in {time.monotonic() - started:.0f} s; repeat it with --seed {seed}")
    return 1 if problems else 0


def _on_etcd(given: argparse.Namespace, seed: int) -> int:
    from .store_run import LONG, SHORT, drive_store

    plan = SHORT if given.short else LONG
    report = asyncio.run(
        drive_store(seed, plan, lambda text: print(text, file=sys.stderr, flush=True), given.log)
    )
    if given.json:
        given.json.write_text(report.as_json())
    print(report.text())
    result = "FAILED" if report.problems else "passed"
    print(f"{result}; repeat it with --store etcd --seed {seed}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
