"""The data that variants are calibrated and evaluated on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from marquee.handlers.core.arrays import Arrays, concatenate, rows
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.engines.exported import load_program
from marquee.handlers.core.input import attempt
from marquee.handlers.core.spec import ModelSpec
from marquee.handlers.outputs.classification import LOGITS_AND_DISTANCE
from marquee.handlers.outputs.distance import Distance, distance_of
from marquee.training.core.checkpoint import CheckpointStore, load_weights
from marquee.training.core.config import RunConfig, load_run_config
from marquee.training.core.dataset import groups_of
from marquee.training.core.errors import OptimizeError
from marquee.training.core.export import widen
from marquee.training.core.progress import Progress
from marquee.training.core.records import locate
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.sampler import resolve_workers
from marquee.training.core.task import Task, task_for, task_of
from marquee.training.optimize.config import OptimizeConfig

LEAST_CALIBRATION = 10
"""With fewer items, outliers would determine the quantization ranges."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Items in the form that the engine takes."""

    inputs: Arrays
    targets: np.ndarray | None
    """See :meth:`marquee.training.core.task.Task.targets`; None if the items are not labelled."""
    groups: tuple[str, ...] | None = None
    """Group of each item; None if no two items share a group."""

    def __len__(self) -> int:
        return rows(self.inputs)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of marquee train, read from its folder."""

    config: RunConfig
    manifest: Any
    model: nn.Module
    """The exported weights, on the CPU in eval mode."""

    @property
    def task(self) -> Task[Any]:
        """The task that the run was trained for."""
        return task_of(self.config)


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """The bundle, and the items that its variants are calibrated and evaluated on."""

    bundle: Bundle
    """The bundle that variants are added to: a copy of the original with only its first variant."""
    run: Run | None
    """None for an imported model, for which there is only the bundle."""
    distance: Distance | None
    """Distance tables fitted to the features; None if the model does not measure the distance."""
    calibration: Samples
    """Items that calibrate the quantization."""
    calibration_records: tuple[Any, ...]
    """Manifest records of the calibration items; empty without a run."""
    validation: Samples | None
    """Items that the calibration of each variant's probabilities is fitted on; None without a run."""
    judged: Samples
    """Items that predictions are evaluated on."""
    judged_split: str
    """The split that they are from; empty without a run, for they are the bundle's own samples then."""

    @property
    def spec(self) -> ModelSpec:
        """The bundle's spec."""
        return self.bundle.spec

    @property
    def judged_on(self) -> str:
        """The items that predictions are evaluated on, in words."""
        unit = task_for(self.spec).unit
        return f"{len(self.judged)} {f'{self.judged_split} {unit}' if self.judged_split else f'{unit} of the bundle'}"


def read_run(folder: Path, spec: ModelSpec, data: Path | None = None, progress: Progress | None = None) -> Run | None:
    """The run that the bundle came from; None if ``folder`` is not a run of marquee train.

    Args:
        folder: the run's folder.
        spec: of its bundle.
        data: where its data set lies now; None: where it was.
        progress: where progress is reported; None: nowhere.

    Raises:
        OptimizeError: it is one, but its weights are missing.
        DataError: its data set is not there.
    """
    files = RunFolder(folder)
    if not files.is_begun:
        return None
    config = load_run_config(files.config)
    task = task_of(config)
    manifest = locate(config, folder, data, progress or Progress(quiet=True))
    best = CheckpointStore(files.checkpoints).find("best")
    if best is None:
        raise OptimizeError(f"{files.checkpoints}: the weights of the run are missing; variants are built from them")
    model = task.rebuild(config, spec)
    load_weights(best, model)
    return Run(config=config, manifest=manifest, model=widen(model).eval())


def read_records(records: Sequence[Any], spec: ModelSpec, progress: Progress) -> Samples:
    """Reads items of a manifest with the served preprocessing."""
    task, parts = task_for(spec), []
    with progress.task(f"reading {task.unit}", len(records)) as bar:
        for inputs in task.batches(spec, records, resolve_workers(-1, len(records))):
            parts.append(inputs)
            bar.advance(count=rows(inputs))
    groups = tuple(groups_of(records))
    shared = len(set(groups)) < len(groups)
    return Samples(inputs=concatenate(parts), targets=task.targets(spec, records), groups=groups if shared else None)


def read_files(files: Sequence[Path], spec: ModelSpec) -> Samples:
    """Reads unlabelled files with the served preprocessing; unreadable files are left out."""
    source = spec.input.create()
    items = [attempt(source.opener().file, file.read_bytes()) for file in files]
    return Samples(inputs=source.collate(items).inputs, targets=None)


def even_sample(task: Task[Any], records: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` records, each stratum in proportion; deterministic."""
    ordered = sorted(records, key=lambda record: (task.stratum(record), record.sha256, record.path))
    if len(ordered) <= count:
        return ordered
    indices = np.linspace(0, len(ordered) - 1, count).round().astype(int)
    return [ordered[index] for index in indices]


def read_datasets(
    bundle: Bundle, run: Run | None, original: Path, config: OptimizeConfig, progress: Progress
) -> Datasets:
    """Reads all data that optimisation needs.

    Args:
        bundle: the bundle to add variants to, a copy with only the first variant.
        run: the run that the items come from; without one, the samples in the bundle are used for everything.
        original: folder of the original bundle, for the distance tables.
        config: how many items to read.
        progress: where progress is reported.
    """
    spec = bundle.spec
    distance = read_tables(Bundle(original, spec))
    if run is None:
        expected = {variant.expected for variant in spec.variants}
        files = tuple(bundle.folder / name for name in (*spec.samples, *spec.golden.files) if name not in expected)
        samples = read_files(files, spec)
        return Datasets(
            bundle=bundle,
            run=None,
            distance=distance,
            calibration=samples,
            calibration_records=(),
            validation=None,
            judged=samples,
            judged_split="",
        )
    manifest, task = run.manifest, run.task
    split = "test" if manifest.split("test") else "val"
    evaluated = manifest.split(split)
    calibration = even_sample(task, manifest.split("train"), config.calibration_images)
    return Datasets(
        bundle=bundle,
        run=run,
        distance=distance,
        calibration=read_records(calibration, spec, progress),
        calibration_records=tuple(calibration),
        validation=read_records(manifest.split("val"), spec, progress),
        judged=read_records(even_sample(task, evaluated, config.max_images), spec, progress),
        judged_split=split,
    )


def read_tables(bundle: Bundle) -> Distance | None:
    """The distance tables of the bundle's first variant; None if it does not measure the distance.

    Raises:
        OptimizeError: the program of a bundle of an earlier version holds no such tables.
    """
    first = bundle.spec.variants[0]
    if LOGITS_AND_DISTANCE not in first.outputs:
        return distance_of(first, bundle.folder)
    # In a bundle of an earlier version, the tables are part of the program.
    program = load_program(bundle.program(first))
    tables = {
        name.rpartition(".")[2]: value for name, value in program.state_dict.items() if ".distance." in f".{name}"
    }
    if set(tables) != {"whitening", "means"}:
        raise OptimizeError(f"{bundle.folder}: its program holds no distance tables; train the run again")
    return Distance(tables["whitening"].numpy(), tables["means"].numpy())
