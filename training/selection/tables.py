"""Selection for tables: a number or a class for each row."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import ClassVar

import numpy as np

from marquee.training.core.dataset import groups_of
from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.selection.measure import ACCURACY, Measure, error_measure
from marquee.training.selection.selectable import Folds, Metrics, Selectable
from marquee.training.selection.table_folds import make_table_folds, train_and_validate
from marquee.training.tasks import task_named
from marquee.training.tasks.classification.metrics import classification_metrics
from marquee.training.tasks.tabular.config import TableRunConfig
from marquee.training.tasks.tabular.manifest import Record, TableManifest, indices_of, numbers_of
from marquee.training.tasks.tabular.metrics import regression_metrics
from marquee.training.tasks.tabular.models import check_model


class TableSelection(Selectable[TableRunConfig]):
    """Everything but the answers."""

    unit = "rows"
    item = "row"
    latency = "for single rows on this machine, without reading the request"
    val_caveat = "which also served early stopping and calibration"
    task: ClassVar[str]
    """Name of the task."""

    def check(self, candidates: Mapping[str, tuple[str, TableRunConfig]], base: TableRunConfig) -> None:
        """All candidates read the same columns and are measured on the same rows."""
        for name, (kind, config) in candidates.items():
            if kind != "train":
                raise TrainingError(f"candidate {name}: kind: expected train, which is the only kind for tables")
            for part in ("table", "split"):
                for field in fields(getattr(base, part)):
                    given, common = (getattr(getattr(one, part), field.name) for one in (config, base))
                    if given != common:
                        raise TrainingError(
                            f"candidate {name}: config.{part}.{field.name}: must be the same for all candidates; "
                            f"set it on the command line or in --config"
                        )

    def read(self, base: TableRunConfig, data: Path, progress: Progress) -> tuple[TableManifest, list[Rejected]]:
        """See :meth:`marquee.training.tasks.tabular.task.Tabular.read`."""
        manifest: TableManifest
        manifest, rejected = task_named(self.task).read(base, data, progress)
        return manifest, rejected

    def final(self, base: TableRunConfig, manifest: TableManifest) -> tuple[TableManifest, list[str]]:
        """All rows, of which a part is for validation."""
        return train_and_validate(manifest, base)

    def folds(self, base: TableRunConfig, manifest: TableManifest, count: int) -> Folds:
        """See :func:`marquee.training.selection.table_folds.make_table_folds`."""
        return make_table_folds(manifest, base, count)

    def digest_lines(self, manifest: TableManifest) -> list[str]:
        """The schema, and all that determines the folds."""
        rows = (f"{r.sha256} {r.target} {r.group} {r.time!r}" for r in manifest.records)
        return [repr(manifest.spec), *rows]

    def unavailable(self, config: TableRunConfig, manifest: TableManifest) -> str:
        """A package that is not installed."""
        try:
            check_model(config.model)
        except TrainingError as error:
            return str(error)
        return ""


class RegressionSelection(TableSelection):
    """Candidates are compared by RMSE, in the unit of the target."""

    task = "tabular-regression"
    recorded = ("rmse", "mae", "r2")

    def baseline(self, folds: Folds) -> list[Metrics]:
        """The mean of the rows that a fold does not hold out."""
        return [_constant_number(*_parts(fold)) for fold in folds.manifests]

    def measure(self, folds: Folds, baseline: Sequence[Metrics]) -> Measure:
        """RMSE; a gain is a share of the constant answer's."""
        rmses = [metrics["rmse"] or 0.0 for metrics in baseline]
        return error_measure("rmse", "rmses", "RMSE", folds.manifests[0].unit, float(np.mean(rmses)) or 1.0)


class ClassificationSelection(TableSelection):
    """Candidates are compared by accuracy."""

    task = "tabular-classification"
    recorded = ("accuracy", "balanced_accuracy", "nll")

    def baseline(self, folds: Folds) -> list[Metrics]:
        """The most common class of the rows that a fold does not hold out, with the classes' shares."""
        return [_constant_class(*_parts(fold), fold.labels) for fold in folds.manifests]

    def measure(self, folds: Folds, baseline: Sequence[Metrics]) -> Measure:
        """Accuracy."""
        return ACCURACY


def _parts(fold: TableManifest) -> tuple[list[Record], list[Record]]:
    """The rows that a fold does not hold out, and those that it does."""
    return [record for record in fold.records if record.split != "test"], fold.split("test")


def _constant_number(known: Sequence[Record], held_out: Sequence[Record]) -> Metrics:
    targets = numbers_of(held_out)
    return regression_metrics(np.full(len(targets), numbers_of(known).mean()), targets)


def _constant_class(known: Sequence[Record], held_out: Sequence[Record], labels: Sequence[str]) -> Metrics:
    shares = np.bincount(indices_of(known, labels), minlength=len(labels)) / len(known)
    targets = indices_of(held_out, labels)
    metrics: Metrics = classification_metrics(np.tile(shares, (len(targets), 1)), targets, groups_of(held_out))
    return metrics
