"""A line for each fault, and whether the run meets its limits."""

import json
from collections.abc import Mapping, Sequence

from .window import Window

_HEAD = (
    f"{'':<4}{'fault':<32}{'injected':>9}{'requests':>10}{'failed':>8}{'lost':>6}{'wrong':>7}"
    f"{'p99 ms':>8}  slowest of its limit"
)


def table(windows: Sequence[Window]) -> str:
    """Return the report as text."""
    return "\n".join([_HEAD, *(_line(window) for window in windows)])


def _line(window: Window) -> str:
    row = str(window.row or "")
    if window.skipped:
        return f"{row:<4}{window.name:<32}skipped: {window.skipped}"
    slowest = window.slowest
    told = str(slowest or "")
    return (
        f"{row:<4}{window.name:<32}{window.injected:>9,}{window.requests:>10,}"
        f"{window.failed.total():>8,}{window.lost:>6}{window.wrong_count:>7}"
        f"{window.p99 * 1000:>8.0f}  {told}"
    ).rstrip()


def details(windows: Sequence[Window]) -> str:
    """Return what was wrong, over its limit, or an allowed failure, fault by fault."""
    lines = []
    for window in windows:
        label = f"{window.row or ''} {window.name}".strip()
        lines += [f"{label}: {problem}" for problem in (*window.problems, *window.over)]
    return "\n".join(lines)


def as_json(windows: Sequence[Window], seed: int) -> str:
    """Return the complete report, for tests."""
    faults: list[Mapping[str, object]] = [
        {
            "row": window.row,
            "name": window.name,
            "injected": window.injected,
            "requests": window.requests,
            "failed": dict(window.failed),
            "lost": window.lost,
            "wrong": window.wrong_count,
            "problems": window.problems,
            "over": window.over,
            "skipped": window.skipped,
            "p99": window.p99,
            "measured": [
                {"what": m.what, "wall": m.spent.wall, "others": m.spent.others, "limit": m.limit}
                for m in window.measured
            ],
        }
        for window in windows
    ]
    return json.dumps({"seed": seed, "faults": faults}, indent=1)
