"""The results of claims, and the table that shows them."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

_HEADINGS: Final = ("claim", "measured", "against", "ratio", "limit", "")


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value, or what it is compared with; ``name`` says what it is a value of."""

    name: str
    value: float
    unit: str

    def __str__(self) -> str:
        shown = f"{self.value:,.0f}" if abs(self.value) >= 100 else f"{self.value:.3g}"
        return f"{self.name} {shown} {self.unit}"


@dataclass(frozen=True, slots=True)
class Row:
    """One claim. ``ratio``, how many times better than ``against`` it is, must reach ``floor``.

    With a ``ceiling``, ``ratio`` is how many times as much as ``against`` it costs, and
    must not exceed the ceiling. If both are 0, there is no limit.
    ``notes`` are printed below the table. ``skipped`` says why nothing was measured.
    """

    claim: str
    measured: Figure | None = None
    against: Figure | None = None
    ratio: float = 0.0
    floor: float = 0.0
    ceiling: float = 0.0
    notes: Sequence[str] = field(default_factory=tuple)
    skipped: str = ""

    @property
    def verdict(self) -> str:
        """``ok``, ``MISSED`` or ``skipped``."""
        if self.skipped:
            return "skipped"
        if not self.floor and not self.ceiling:
            return "no limit"
        if self.ceiling:
            return "ok" if self.ratio <= self.ceiling else "MISSED"
        return "ok" if self.ratio >= self.floor else "MISSED"


def rate_row(
    claim: str,
    floor: float,
    measured: tuple[str, Sequence[float]],
    against: tuple[str, Sequence[float]],
    unit: str,
    notes: Sequence[str] = (),
) -> Row:
    """Make the row of two rates taken in turn, one value of each a round.

    The ratio is the median of the ratios of the rounds, the figures are medians too; so their
    quotient may differ a little from the ratio.
    """
    ratios = [ours / other for ours, other in zip(measured[1], against[1], strict=True)]
    spread = f"{len(ratios)} rounds, ratios {min(ratios):.2f} to {max(ratios):.2f}"
    return Row(
        claim,
        Figure(measured[0], statistics.median(measured[1]), unit),
        Figure(against[0], statistics.median(against[1]), unit),
        statistics.median(ratios),
        floor,
        notes=(spread, *notes),
    )


def cost_row(
    claim: str,
    ceiling: float,
    measured: tuple[str, Sequence[float]],
    against: tuple[str, Sequence[float]],
    unit: str,
    notes: Sequence[str] = (),
) -> Row:
    """Make the row of two costs taken in turn, as ``rate_row`` does that of two rates."""
    row = rate_row(claim, 0.0, measured, against, unit, notes)
    return replace(row, ceiling=ceiling)


def limit_row(claim: str, measured: tuple[str, Sequence[float]], limit: float, unit: str) -> Row:
    """Make the row of a cost that must not exceed a fixed limit; the figure is the median."""
    name, values = measured
    value = statistics.median(values)
    spread = f"{len(values)} values, {min(values):.3g} to {max(values):.3g} {unit}"
    return Row(
        claim,
        Figure(name, value, unit),
        Figure("at most", limit, unit),
        value / limit,
        ceiling=1.0,
        notes=(spread,) if len(values) > 1 else (),
    )


def render(rows: Sequence[Row]) -> str:
    """Render the report: a table, then the notes of each row."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEADINGS))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    notes = [
        line
        for row in rows
        for line in ("", row.claim, *(f"  {note}" for note in row.notes))
        if row.notes
    ]
    return "\n".join([*table, *notes]) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    if row.skipped:
        return (row.claim, row.skipped, "", "", "", row.verdict)
    limit = f"\u2265 {row.floor:.2f}" if row.floor else "-"
    if row.ceiling:
        limit = f"\u2264 {row.ceiling:.2f}"
    ratio = f"{row.ratio:.2f}"
    return (row.claim, str(row.measured), str(row.against), ratio, limit, row.verdict)


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as a JSON array of objects, ``verdict`` among their members."""
    members = [asdict(row) | {"verdict": row.verdict} for row in rows]
    path.write_text(json.dumps(members, indent=2) + "\n", "utf-8")
