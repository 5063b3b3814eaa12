"""Reads the files that every finished run has."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marquee import hints
from marquee.handlers.core.bundle import bundle_digest, read_spec
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.spec import ModelSpec
from marquee.training.core.config import load_run_config
from marquee.training.core.errors import TrainingError
from marquee.training.core.rejected import Rejected
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import task_of


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What was read from a run's folder. Tasks add their predictions in a subclass."""

    folder: Path
    config: Any
    """The configuration of the run's task."""
    spec: ModelSpec
    digest: str
    """The bundle's digest, as in every served answer."""
    manifest: Any
    """The manifest of the run's task."""
    rejected: tuple[Rejected, ...]
    epochs: tuple[dict[str, Any], ...]
    """The lines of metrics.jsonl."""
    evaluation: dict[str, Any]
    environment: dict[str, Any]
    optimization: dict[str, Any] | None
    """The result of marquee optimize; None before it ran."""

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.resolve().name

    @property
    def measured(self) -> list[Any]:
        """The records of the measured split."""
        records: list[Any] = self.manifest.split(self.evaluation["split"])
        return records

    @property
    def seconds(self) -> float:
        """Time that the training took."""
        return float(self.evaluation.get("train_seconds") or sum(line.get("seconds", 0) for line in self.epochs))

    @property
    def best(self) -> dict[str, Any] | None:
        """The line of the epoch whose weights are served."""
        best = self.evaluation.get("best_epoch")
        return next((line for line in self.epochs if line.get("epoch") == best), None)


def read_run(run: Path, measures: Sequence[str]) -> RunFiles:
    """Reads a finished run.

    Args:
        run: its folder.
        measures: what its ``evaluation.json`` must contain.

    Raises:
        TrainingError: a file is missing or unreadable; the message names it.
    """
    folder = RunFolder(Path(run))
    evaluation = read_object(folder.evaluation)
    for key in measures:
        if key not in evaluation:
            raise TrainingError(f"{folder.evaluation}: has no {key!r}; train the run again")
    try:
        spec, digest = read_spec(folder.bundle), bundle_digest(folder.bundle)
    except BundleError as error:
        raise TrainingError(str(error)) from error
    config = load_run_config(folder.config)
    return RunFiles(
        folder=folder.path,
        config=config,
        spec=spec,
        digest=digest,
        manifest=task_of(config).read_manifest(folder.manifest),
        # Runs of earlier versions have no columns for class and split.
        rejected=tuple(Rejected(*row[:4]) for row in read_rows(folder.rejected, columns=2)),
        epochs=_read_epochs(folder.metrics),
        evaluation=evaluation,
        environment=read_object(folder.environment),
        optimization=read_object(folder.optimization) if folder.optimization.exists() else None,
    )


def known(part: Any) -> dict[str, Any]:
    """An optional object of ``evaluation.json``, empty when absent or null."""
    return part if isinstance(part, dict) else {}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file with one object.

    Raises:
        TrainingError: it is missing, or something else.
    """
    try:
        value = json.loads(_read_text(path))
    except ValueError as error:
        raise TrainingError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise TrainingError(f"{path}: expected one JSON object")
    return value


def read_rows(path: Path, columns: int) -> Iterator[list[str]]:
    """The rows of a CSV file after its header, with at least so many columns.

    They go by position: a class may be called ``path``.

    Raises:
        TrainingError: the file is missing, or no such table.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = csv.reader(stream)
            next(rows, None)
            for row in rows:
                if len(row) < columns:
                    raise TrainingError(f"{path}: line {rows.line_num}: expected {columns} columns, got {len(row)}")
                yield row
    except FileNotFoundError as error:
        raise TrainingError(f"{path}: not found; a report needs a finished run") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{path}: not readable as CSV: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise TrainingError(
            f"{path}: not found; a report needs a finished run; finish it: "
            f"{hints.command('train', '--out', path.parent, '--resume')}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: not readable: {error}") from error


def _read_epochs(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        return tuple(json.loads(line) for line in _read_text(path).splitlines())
    except ValueError as error:
        raise TrainingError(f"{path}: not readable as JSON lines: {error}") from error
