"""The section about training: curves, and a table of the epochs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from marquee.training.report import figures
from marquee.training.report.run_files import RunFiles
from marquee.training.report.text import duration, number, whole

MOST_EPOCHS = 300


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an epoch's line says of the training and of the validation items."""

    name: str
    """Such as ``Accuracy``."""
    key: str
    """Without ``train_`` and ``val_``."""
    show: Callable[[Any], str]
    caption: str | None = None
    """Under its figure; None: it has no figure."""
    share: bool = False
    """The values are shares, shown in per cent."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure of the section."""

    label: str
    figure: Markup
    caption: str


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One epoch, each cell as it is shown."""

    epoch: int
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EpochTable:
    """The epochs; of more than :data:`MOST_EPOCHS` as many, spread over the training."""

    headings: tuple[str, ...]
    rows: tuple[EpochRow, ...]
    all_epochs: int


def training_context(
    facts: RunFiles, measures: Sequence[Measured], items: str, best_text: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """The values of ``shared/training.html``.

    Args:
        facts: the run.
        measures: each has a figure, and columns in the table.
        items: the plural noun of what is trained on.
        best_text: the best epoch's line -> its validation measures in words.
    """
    best = facts.best
    return {
        "best": best,
        "best_text": best_text(best) if best else "",
        "curves": _curves(facts, measures),
        "epochs": epoch_table(facts.epochs, measures, items, best),
    }


def _curves(facts: RunFiles, measures: Sequence[Measured]) -> list[Curve]:
    best = facts.evaluation.get("best_epoch")
    curves = []
    for measure in measures:
        if measure.caption is None:
            continue
        series = {"training": f"train_{measure.key}", "validation": f"val_{measure.key}"}
        figure = figures.curve(measure.key, facts.epochs, series, best, measure.share)
        curves.append(Curve(label=measure.name, figure=figure, caption=measure.caption))
    rate = figures.curve("lr", facts.epochs, {"learning rate": "lr"}, best)
    return [*curves, Curve(label="Learning rate", figure=rate, caption="Learning rate at the end of each epoch.")]


def epoch_table(
    epochs: Sequence[dict[str, Any]], measures: Sequence[Measured], items: str, best: dict[str, Any] | None
) -> EpochTable:
    """The columns of which an epoch says something.

    Args:
        epochs: the lines of metrics.jsonl.
        measures: each has a column for training and one for validation.
        items: the plural noun of what is trained on, for the throughput.
        best: one of the lines, which is shown in any case.
    """
    columns: list[tuple[str, str, Callable[[Any], str]]] = []
    for part, words in (("train", "Training"), ("val", "Validation")):
        columns += [
            (f"{words} {measure.name if measure.name.isupper() else measure.name.lower()}", key, measure.show)
            for measure in measures
            if any((key := f"{part}_{measure.key}") in line for line in epochs)
        ]
    columns += [
        ("Learning rate", "lr", number),
        (f"{items.capitalize()}/s", f"{items}_per_second", whole),
        ("Time", "seconds", duration),
    ]
    if any("data_seconds" in line for line in epochs):
        columns.append(("Waiting for data", "data_seconds", duration))
    return EpochTable(
        headings=tuple(heading for heading, _, _ in columns),
        rows=tuple(
            EpochRow(epoch=line["epoch"], cells=tuple(show(line.get(key)) for _, key, show in columns))
            for line in _spread(epochs, best)
        ),
        all_epochs=len(epochs),
    )


def _spread(epochs: Sequence[dict[str, Any]], best: dict[str, Any] | None) -> list[dict[str, Any]]:
    """At most :data:`MOST_EPOCHS` lines at equal distances, the first and the last among them, and the best."""
    if len(epochs) <= MOST_EPOCHS:
        return list(epochs)
    shown = {round(i * (len(epochs) - 1) / (MOST_EPOCHS - 1)) for i in range(MOST_EPOCHS)}
    return [line for place, line in enumerate(epochs) if place in shown or line is best]


def throughput(facts: RunFiles, items: str) -> float | None:
    """Training items per second in the median epoch; the first epoch also fills caches."""
    rates = sorted(line[f"{items}_per_second"] for line in facts.epochs if line.get(f"{items}_per_second"))
    if not rates:
        return None
    return float(rates[(len(rates) - 1) // 2] + rates[len(rates) // 2]) / 2
