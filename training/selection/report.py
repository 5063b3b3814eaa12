"""The report of a selection: JSON, CSV, Markdown and a chart."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from marquee.handlers.core.schema import to_dict
from marquee.training.core.files import write_atomic, write_json
from marquee.training.selection.comparison import Summary, summarise
from marquee.training.selection.decide import FIRST, PAYS, UNCERTAIN, Decision, Step
from marquee.training.selection.store import FoldResult


@dataclass(kw_only=True)
class Entry:
    """The results of one candidate so far."""

    name: str
    kind: str
    results: list[FoldResult] = field(default_factory=list)
    """Results of the finished folds, in the order of the folds."""
    skipped: str = ""
    """Why the candidate was skipped; empty if it was not."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table; a field is None while its value is unknown, because not all folds are measured."""

    candidate: str
    kind: str
    folds: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    reference: str
    difference: float | None
    p: float | None
    latency_ms: float | None
    weight_mb: float | None
    parameters: int | None
    minutes: float
    verdict: str
    reason: str
    """Why the candidate was skipped; empty if it was not."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of :func:`marquee.training.selection.select.select`."""

    entries: tuple[Entry, ...]
    decision: Decision
    ended: str
    """Why no further candidate was measured."""
    folds: int
    images: int
    """Number of images divided into folds."""
    winner: dict[str, Any]
    """Metrics of the winner trained on all training images."""

    @property
    def rows(self) -> list[Row]:
        """One row per candidate, in the order of the ladder."""
        steps = {step.name: step for step in self.decision.steps}
        return [self._row(entry, steps.get(entry.name)) for entry in self.entries]

    def to_json(self) -> dict[str, Any]:
        """The whole report as a JSON object."""
        accuracies = {entry.name: [result.accuracy for result in entry.results] for entry in self.entries}
        return {
            "winner": self.decision.choice,
            "ended": self.ended,
            "folds": self.folds,
            "images": self.images,
            "candidates": [{**to_dict(row), "accuracies": accuracies[row.candidate]} for row in self.rows],
            "winner_metrics": self.winner,
        }

    def table(self) -> str:
        """The table in Markdown, aligned so that it is readable as plain text."""
        cells = [list(_HEADER)] + [_cells(row, self.folds) for row in self.rows]
        widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADER))]
        lines = [
            "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(lines)

    def notes(self) -> list[str]:
        """Remarks below the table: why candidates were skipped, and gains that more folds may confirm."""
        lines = [f"{entry.name} was skipped: {entry.skipped}" for entry in self.entries if entry.skipped]
        for step in self.decision.steps:
            if step.verdict == UNCERTAIN and step.comparison is not None and step.reference == self.decision.choice:
                lines.append(
                    f"{step.name} was better than {step.reference} by {_percent(step.comparison.difference)} points, "
                    f"which is not significant over {self.folds} folds; more --folds (and a new --out) may confirm it"
                )
        return lines

    def summary(self) -> str:
        """A summary in two sentences."""
        row = next(row for row in self.rows if row.candidate == self.decision.choice)
        refit = f"{self.winner['split']} accuracy {self.winner['accuracy']:.4f} on {self.winner['images']} images"
        if self.winner["split"] == "val":
            refit += " (which also selected its checkpoint; rely on the accuracy over the folds)"
        return (
            f"Chosen: {row.candidate}, {_percent(row.mean)} % over {self.folds} folds of {self.images} images; "
            f"{self.ended}.\nTrained on all training images: {refit}."
        )

    def write(self, folder: Path) -> None:
        """Writes ``selection.json``, ``.csv``, ``.md`` and ``.svg``."""
        from marquee.training.selection.chart import Point, draw  # imports matplotlib, which nothing else needs

        rows = self.rows
        points = [
            Point(row.candidate, row.mean, row.low, row.high, row.latency_ms, row.weight_mb)
            for row in rows
            if row.mean is not None
            and row.low is not None
            and row.high is not None
            and row.latency_ms is not None
            and row.weight_mb is not None
        ]
        write_atomic(folder / "selection.svg", draw(points, self.decision.choice, self.folds, "svg"))
        notes = "".join(f"- {line}\n" for line in self.notes()) + "\n" if self.notes() else ""
        chart = "![Accuracy against latency](selection.svg)"
        text = f"# Model selection\n\n{self.summary()}\n\n{self.table()}\n\n{notes}{_LEGEND}\n\n{chart}\n"
        write_atomic(folder / "selection.md", text)
        write_atomic(folder / "selection.csv", _as_csv(rows))
        write_json(folder / "selection.json", self.to_json())

    def _row(self, entry: Entry, step: Step | None) -> Row:
        complete = len(entry.results) == self.folds
        summary = summarise([result.accuracy for result in entry.results]) if complete else None
        comparison = step.comparison if step else None
        footprints = [result.footprint for result in entry.results]
        return Row(
            candidate=entry.name,
            kind=entry.kind,
            folds=len(entry.results),
            **_numbers(summary),
            reference=step.reference if step else "",
            difference=comparison.difference if comparison else None,
            p=comparison.p if comparison else None,
            latency_ms=median(f.latency_ms for f in footprints) if footprints else None,
            weight_mb=footprints[0].weight_mb if footprints else None,
            parameters=footprints[0].parameters if footprints else None,
            minutes=sum(result.seconds for result in entry.results) / 60,
            verdict=self._verdict(entry, step),
            reason=entry.skipped,
        )

    def _verdict(self, entry: Entry, step: Step | None) -> str:
        if entry.name == self.decision.choice:
            return "chosen"
        if step is not None:
            return "a larger one pays" if step.verdict in (FIRST, PAYS) else step.verdict
        if entry.skipped:
            return "skipped"
        return f"unfinished, {len(entry.results)} of {self.folds} folds" if entry.results else "not measured"


_HEADER = (
    "candidate",
    "folds",
    "accuracy %",
    "sd",
    "95 % interval",
    "gain (p) over",
    "latency ms",
    "MB",
    "parameters",
    "minutes",
    "verdict",
)
_LEGEND = (
    "Accuracy: mean over the folds' held-out images. Gain: mean difference from the best simpler candidate in "
    "percentage points, with the p-value of the corrected resampled t-test. Latency: median for single images on this "
    "machine, without decoding."
)


def _numbers(summary: Summary | None) -> dict[str, Any]:
    names = ("mean", "sd", "low", "high")
    return {name: getattr(summary, name) if summary else None for name in names}


def _cells(row: Row, folds: int) -> list[str]:
    gain = ""
    if row.difference is not None and row.p is not None:
        p = "p < 0.001" if row.p < 0.001 else f"p = {row.p:.3f}"
        gain = f"{100 * row.difference:+.2f} ({p}) {row.reference}"
    return [
        row.candidate,
        f"{row.folds}/{folds}",
        _percent(row.mean),
        _percent(row.sd),
        f"{_percent(row.low)} to {_percent(row.high)}" if row.mean is not None else "",
        gain,
        "" if row.latency_ms is None else f"{row.latency_ms:.1f}",
        "" if row.weight_mb is None else f"{row.weight_mb:.1f}",
        "" if row.parameters is None else f"{row.parameters:,}",
        f"{row.minutes:.1f}" if row.folds else "",
        row.verdict,
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _as_csv(rows: list[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_dict(row) for row in rows)
    return buffer.getvalue()
