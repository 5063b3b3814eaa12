"""Writes a scikit-learn estimator into a run folder with a bundle, verified against it on the rows of a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import ModelSpec
from marquee.handlers.outputs.classification import LOGITS
from marquee.handlers.outputs.regression import VALUE
from marquee.training.core.context import RunContext
from marquee.training.core.errors import DataError, TrainingError
from marquee.training.core.evaluation import predict_outputs
from marquee.training.core.exclusive import new_folder
from marquee.training.core.export import export_bundle
from marquee.training.core.golden_writer import write_requests
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected, write_rejected
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import Network, task_of
from marquee.training.importing.provenance import provenance
from marquee.training.importing.scikit_compare import answers_of, ask, check_equal
from marquee.training.importing.scikit_config import TableImportConfig
from marquee.training.importing.scikit_estimators import Model, model
from marquee.training.importing.scikit_file import library, load_estimator
from marquee.training.importing.scikit_network import EstimatorNetwork
from marquee.training.importing.scikit_slots import Slot, Source
from marquee.training.importing.scikit_table import GivenTable, matrix_of, with_splits
from marquee.training.importing.scikit_transformers import class_name
from marquee.training.tasks.tabular.config import (
    TableExportConfig,
    TableRunConfig,
    TableSplitConfig,
    TabularClassificationConfig,
    TabularRegressionConfig,
)
from marquee.training.tasks.tabular.manifest import TableManifest, arrays_in
from marquee.training.tasks.tabular.network import Served, tensors
from marquee.training.tasks.tabular.table_config import TableConfig

MAX_SAMPLES = 300
"""Rows that the bundle keeps for measuring and quantizing its variants."""


@dataclass(frozen=True)
class ImportedTable:
    """The result of an import."""

    spec: ModelSpec
    """The bundle's spec."""
    metrics: dict[str, Any]
    """Of the bundle on the rows that are measured."""
    rejected: tuple[Rejected, ...]
    """Rows that are left out."""


@dataclass(frozen=True)
class Verified:
    """A converted estimator and the rows on which it was found to answer as scikit-learn does."""

    network: EstimatorNetwork
    manifest: TableManifest
    """With splits."""
    rejected: list[Rejected]
    expected: np.ndarray
    """Scikit-learn's answers for all rows of ``manifest``: float64 (N,), or probabilities (N, labels)."""
    facts: dict[str, Any]
    """For the bundle's provenance."""


def import_table(config: TableImportConfig, out: Path, progress: Progress) -> ImportedTable:
    """Writes the run folder ``out`` with a bundle, or nothing if anything fails.

    Args:
        config: the estimator and the table.
        out: the folder to create; it must not exist.
        progress: where progress is reported.

    Raises:
        TrainingError: ``out`` exists, or the estimator or the table cannot be used; the message says why.
        ExportError: the bundle's answers differ from scikit-learn's.
    """
    with new_folder(out, "marquee import") as staging:
        verified = verify(config)
        run = run_config(config, bool(verified.manifest.labels))
        folder = RunFolder(staging)
        metrics = export_bundle(
            run,
            verified.manifest,
            Network(model=verified.network, input=verified.manifest.spec),
            {
                "data": verified.manifest.digest,
                **provenance(config.model, config.licence, verified.facts),
            },
            RunContext(folder=folder, device=torch.device("cpu"), progress=progress),
        )
        spec = _with_samples(folder, run, verified)
        _check_written(config, folder, verified)
        if verified.rejected:
            write_rejected(folder.rejected, verified.rejected)
    return ImportedTable(spec, metrics, tuple(verified.rejected))


def verify(config: TableImportConfig) -> Verified:
    """Converts the estimator, and compares it with scikit-learn on all rows.

    Raises:
        TrainingError: see :func:`import_table`.
    """
    estimator = load_estimator(config.model)
    table = GivenTable.read(config)
    sources = [Source(name) for name in table.columns_of(estimator)]
    converted = convert(config.model, estimator, sources)
    _check_task(config, converted)
    try:
        manifest, rejected, labels = table.rows(sources, converted.classes)
        manifest = with_splits(manifest, run_config(config, bool(labels)))
    except DataError as error:  # which names the options of marquee train
        raise DataError(str(error).replace("--table.", "--").replace("--split.", "--")) from error
    network = EstimatorNetwork(converted, manifest.spec, sources)
    expected = ask(config, estimator, matrix_of(manifest.records, sources), bool(labels))
    module = Served(network, manifest.spec).eval()
    with torch.inference_mode():
        parts = [module(*tensors(arrays))[0].numpy() for arrays in arrays_in(manifest.spec, manifest.records)]
    difference = check_equal(config.model, manifest.records, answers_of(np.concatenate(parts)), expected)
    facts = {
        "format": "scikit-learn estimator in a file of skops",
        "library": library(),
        "estimator": describe(estimator),
        "rows": len(manifest.records),
        "largest_difference": difference,
        "notes": _notes(config, sources, bool(labels)),
    }
    return Verified(network, manifest, rejected, expected, facts)


def convert(path: Path, estimator: Any, sources: Sequence[Source]) -> Model:
    """Converts an estimator that was loaded from ``path``; the use of each source is noted in it.

    Raises:
        TrainingError: it cannot be imported.
    """
    try:
        return model(estimator, [Slot(source, raw=True, may_be_missing=True) for source in sources])
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from error
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        # A file may hold estimators with attributes of any kind.
        raise TrainingError(f"{path}: is not a fitted estimator as scikit-learn makes them: {error}") from error


def run_config(config: TableImportConfig, classes: bool) -> TableRunConfig:
    """The configuration of a run that exports the estimator."""
    parts: dict[str, Any] = {
        "table": TableConfig(target=config.target),
        "split": TableSplitConfig(val=config.val, test=config.test, by="random"),
        "export": TableExportConfig(interval=config.interval, calibrate=config.calibrate, top_k=config.top_k),
    }
    return TabularClassificationConfig(**parts) if classes else TabularRegressionConfig(**parts)


def describe(estimator: Any) -> str:
    """The classes of a pipeline in one line, such as ``Pipeline(StandardScaler, Ridge)``."""
    inner = [step for _, step in getattr(estimator, "steps", ())]
    if hasattr(estimator, "regressor_"):
        inner = [estimator.regressor_]
    if hasattr(estimator, "transformers_"):
        inner = [step for _, step, _ in estimator.transformers_ if not isinstance(step, str)]
    name = class_name(estimator)
    return f"{name}({', '.join(map(describe, inner))})" if inner else name


def _check_task(config: TableImportConfig, converted: Model) -> None:
    found = "tabular-classification" if converted.classes else "tabular-regression"
    if config.task not in (None, found):
        predicts = "classes" if converted.classes else "a number"
        raise TrainingError(f"--task {config.task}: {config.model} predicts {predicts}; use --task {found}")


def _check_written(config: TableImportConfig, folder: RunFolder, verified: Verified) -> None:
    """Compares the answers of the written bundle, too."""
    predictor = Predictor.load(folder.bundle)
    outputs = predict_outputs(predictor, verified.manifest.records, 0, Progress(quiet=True))
    answers = answers_of(outputs[VALUE] if VALUE in outputs else outputs[LOGITS])
    check_equal(config.model, verified.manifest.records, answers, verified.expected)


def _with_samples(folder: RunFolder, run: TableRunConfig, verified: Verified) -> ModelSpec:
    """Adds rows, evenly over the table, to the bundle."""
    bundle, records = Bundle.read(folder.bundle), verified.manifest.records
    count = min(len(records), MAX_SAMPLES)
    chosen = [records[number * len(records) // count] for number in range(count)]
    samples = dict(write_requests(folder.bundle, "samples", task_of(run), chosen))
    return bundle.with_spec(replace(bundle.spec, samples=samples)).write().spec


def _notes(config: TableImportConfig, sources: Sequence[Source], classes: bool) -> list[str]:
    """What people should know of the bundle."""
    fitted = "temperature" if classes else "intervals"
    notes = [
        f"Metrics and {fitted} are of rows of {config.data.name}; where the estimator was fitted on them, they are "
        "better than for new rows.",
        f"Unfamiliar is what lies outside of the values in {config.data.name}.",
    ]
    if classes and config.calibrate:
        notes.append("Probabilities are those of predict_proba, changed by the temperature.")
    if unused := [source.name for source in sources if source.kind == "unused"]:
        notes.append(f"The estimator does not use {', '.join(unused)}.")
    if any(source.kind == "category" for source in sources):
        notes.append("A category that the estimator does not know is encoded as none of them, and unfamiliar.")
    return notes
