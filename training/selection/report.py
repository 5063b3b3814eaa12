"""The report of a selection: JSON, CSV, Markdown and a chart."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from marquee.handlers.core.schema import to_dict
from marquee.training.core.files import write_atomic, write_json
from marquee.training.selection.comparison import Comparison, Summary, summarise
from marquee.training.selection.decide import FIRST, PAYS, UNCERTAIN, Decision, Step
from marquee.training.selection.measure import Measure
from marquee.training.selection.report_table import Row, as_csv, as_markdown
from marquee.training.selection.store import FoldResult

BASELINE = "constant answer"
"""Name and kind of the row of the baseline."""


@dataclass(kw_only=True)
class Entry:
    """The results of one candidate so far."""

    name: str
    kind: str
    results: list[FoldResult] = field(default_factory=list)
    """Results of the finished folds, in the order of the folds."""
    skipped: str = ""
    """Why the candidate was skipped; empty if it was not."""

    def values(self, measure: Measure) -> list[float]:
        """The metric of each finished fold."""
        return [measure.of(result.metrics) for result in self.results]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The best constant answer, and how much better the chosen candidate is."""

    values: Sequence[float]
    """The metric of each fold."""
    gain: Comparison
    """The chosen candidate minus the constant answer."""
    beaten: bool
    """Whether the gain is large enough and significant."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of :func:`marquee.training.selection.select.select`."""

    entries: tuple[Entry, ...]
    decision: Decision
    ended: str
    """Why no further candidate was measured."""
    folds: int
    items: int
    """Number of items divided into folds."""
    unit: str
    """The plural noun for items."""
    item: str
    """The noun for one."""
    latency: str
    """What the latency includes, as a phrase."""
    val_caveat: str
    """What the validation items were used for besides a measurement, as a clause."""
    measure: Measure
    """The metric that the candidates were compared by."""
    baseline: Baseline | None
    """None for a task whose report does not show it."""
    note: str
    """How the items were divided, where the reader must know; may be empty."""
    winner: dict[str, Any]
    """Metrics of the winner trained on all training items."""
    result: str
    """These metrics in one line."""

    @property
    def rows(self) -> list[Row]:
        """The constant answer, and one row per candidate, in the order of the ladder."""
        steps = {step.name: step for step in self.decision.steps}
        first = [self._baseline_row(self.baseline)] if self.baseline else []
        return first + [self._row(entry, steps.get(entry.name)) for entry in self.entries]

    def to_json(self) -> dict[str, Any]:
        """The whole report as a JSON object."""
        values = {entry.name: entry.values(self.measure) for entry in self.entries}
        if self.baseline:
            values[BASELINE] = list(self.baseline.values)
        return {
            "winner": self.decision.choice,
            "ended": self.ended,
            "folds": self.folds,
            self.unit: self.items,
            "candidates": [{**to_dict(row), self.measure.plural: values[row.candidate]} for row in self.rows],
            "winner_metrics": self.winner,
        }

    def table(self) -> str:
        """The table in Markdown, aligned so that it is readable as plain text."""
        return as_markdown(self.rows, self.folds, self.measure)

    def notes(self) -> list[str]:
        """Remarks below the table: why candidates were skipped, and gains that more folds may confirm."""
        lines = [f"{entry.name} was skipped: {entry.skipped}" for entry in self.entries if entry.skipped]
        for step in self.decision.steps:
            if step.verdict == UNCERTAIN and step.comparison is not None and step.reference == self.decision.choice:
                gain = self.measure.text(self.measure.gain(step.comparison.difference))
                lines.append(
                    f"{step.name} was better than {step.reference} by {gain}{self.measure.gain_unit}, "
                    f"which is not significant over {self.folds} folds; more --folds (and a new --out) may confirm it"
                )
        if self.baseline and not self.baseline.beaten:
            lines.append(
                f"{self.decision.choice} is not significantly better than the best constant answer (p = "
                f"{self.baseline.gain.p:.3f}); the columns may say nothing about what is predicted"
            )
        return [*lines, self.note] if self.note else lines

    def summary(self) -> str:
        """A summary in two sentences."""
        row = next(row for row in self.rows if row.candidate == self.decision.choice)
        refit = self.result
        if self.winner["split"] == "val":
            refit += f" ({self.val_caveat}; rely on the {self.measure.title} over the folds)"
        label = "" if self.measure.higher_is_better else f"{self.measure.title} "
        return (
            f"Chosen: {row.candidate}, {label}{self.measure.phrase(row.mean)} over {self.folds} folds of {self.items} "
            f"{self.unit}; {self.ended}.\nTrained on all training {self.unit}: {refit}."
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
        chart = draw(points, self.decision.choice, self.folds, "svg", self.measure, self.item)
        write_atomic(folder / "selection.svg", chart)
        notes = "".join(f"- {line}\n" for line in self.notes()) + "\n" if self.notes() else ""
        picture = f"![{self._title} against latency](selection.svg)"
        text = f"# Model selection\n\n{self.summary()}\n\n{self.table()}\n\n{notes}{self._legend()}\n\n{picture}\n"
        write_atomic(folder / "selection.md", text)
        write_atomic(folder / "selection.csv", as_csv(rows))
        write_json(folder / "selection.json", self.to_json())

    @property
    def _title(self) -> str:
        return self.measure.title[0].upper() + self.measure.title[1:]

    def _legend(self) -> str:
        gained = "difference from" if self.measure.higher_is_better else f"reduction of the {self.measure.title} of"
        unit = "percentage points" if self.measure.unit == "%" else self.measure.unit
        return (
            f"{self._title}: mean over the folds' held-out {self.unit}. Gain: mean {gained} the best simpler candidate"
            f"{f' in {unit}' if unit else ''}, with the p-value of the corrected resampled t-test. Latency: median "
            f"{self.latency}."
        )

    def _baseline_row(self, baseline: Baseline) -> Row:
        return Row(
            candidate=BASELINE,
            kind="baseline",
            folds=self.folds,
            **_numbers(self._summarise(baseline.values)),
            reference="",
            difference=None,
            p=None,
            latency_ms=None,
            weight_mb=None,
            parameters=None,
            minutes=0.0,
            verdict="baseline",
            reason="",
        )

    def _row(self, entry: Entry, step: Step | None) -> Row:
        complete = len(entry.results) == self.folds
        summary = self._summarise(entry.values(self.measure)) if complete else None
        comparison = step.comparison if step else None
        footprints = [result.footprint for result in entry.results]
        return Row(
            candidate=entry.name,
            kind=entry.kind,
            folds=len(entry.results),
            **_numbers(summary),
            reference=step.reference if step else "",
            difference=self.measure.gain(comparison.difference) if comparison else None,
            p=comparison.p if comparison else None,
            latency_ms=median(f.latency_ms for f in footprints) if footprints else None,
            weight_mb=footprints[0].weight_mb if footprints else None,
            parameters=footprints[0].parameters if footprints else None,
            minutes=sum(result.seconds for result in entry.results) / 60,
            verdict=self._verdict(entry, step),
            reason=entry.skipped,
        )

    def _summarise(self, values: Sequence[float]) -> Summary:
        return summarise(values, self.measure.low, self.measure.high)

    def _verdict(self, entry: Entry, step: Step | None) -> str:
        if entry.name == self.decision.choice:
            return "chosen"
        if step is not None:
            return "a larger one pays" if step.verdict in (FIRST, PAYS) else step.verdict
        if entry.skipped:
            return "skipped"
        return f"unfinished, {len(entry.results)} of {self.folds} folds" if entry.results else "not measured"


def _numbers(summary: Summary | None) -> dict[str, Any]:
    names = ("mean", "sd", "low", "high")
    return {name: getattr(summary, name) if summary else None for name in names}
