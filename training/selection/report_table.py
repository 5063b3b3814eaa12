"""The table of a report, as Markdown and as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from marquee.handlers.core.schema import to_dict
from marquee.training.selection.measure import Measure


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table; a field is None while its value is unknown, because not all folds are measured."""

    candidate: str
    kind: str
    folds: int
    mean: float | None
    """Of the metric that candidates are compared by."""
    sd: float | None
    low: float | None
    high: float | None
    reference: str
    difference: float | None
    """The gain over the reference, in units of the metric; positive is better."""
    p: float | None
    latency_ms: float | None
    weight_mb: float | None
    parameters: int | None
    minutes: float
    verdict: str
    reason: str
    """Why the candidate was skipped; empty if it was not."""


def as_markdown(rows: Sequence[Row], folds: int, measure: Measure) -> str:
    """The table, aligned so that it is readable as plain text."""
    header = (
        "candidate",
        "folds",
        measure.heading,
        "sd",
        "95 % interval",
        "gain (p) over",
        "latency ms",
        "MB",
        "parameters",
        "minutes",
        "verdict",
    )
    lines_of_cells = [header, *(_cells(row, folds, measure) for row in rows)]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines_of_cells]  # a unit may contain one
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def as_csv(rows: Sequence[Row]) -> str:
    """The table with a header and plain numbers."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_dict(row) for row in rows)
    return buffer.getvalue()


def _cells(row: Row, folds: int, measure: Measure) -> list[str]:
    gain = ""
    if row.difference is not None and row.p is not None:
        p = "p < 0.001" if row.p < 0.001 else f"p = {row.p:.3f}"
        sign = "" if row.difference < 0 else "+"
        gain = f"{sign}{measure.text(row.difference)} ({p}) {row.reference}"
    return [
        row.candidate,
        f"{row.folds}/{folds}",
        measure.text(row.mean),
        measure.text(row.sd),
        f"{measure.text(row.low)} to {measure.text(row.high)}" if row.mean is not None else "",
        gain,
        "" if row.latency_ms is None else f"{row.latency_ms:.1f}",
        "" if row.weight_mb is None else f"{row.weight_mb:.1f}",
        "" if row.parameters is None else f"{row.parameters:,}",
        f"{row.minutes:.1f}" if row.folds else "",
        row.verdict,
    ]
