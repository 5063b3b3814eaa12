"""Measures loaded variants: predictions, speed and memory."""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from marquee.handlers.core.accuracy import paired_difference, paired_drop
from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.golden import read_golden
from marquee.handlers.core.host import this_host
from marquee.handlers.core.measurement import Measurement
from marquee.handlers.core.output import CalibrationSpec
from marquee.handlers.core.spec import GoldenSpec, VariantSpec
from marquee.training.core.errors import OptimizeError, reason_of
from marquee.training.core.golden_writer import write_answers
from marquee.training.core.progress import Progress
from marquee.training.core.statistics import effective_number
from marquee.training.core.task import task_for
from marquee.training.optimize.config import OptimizeConfig
from marquee.training.optimize.datasets import Datasets, read_files
from marquee.training.optimize.process import VariantProcess, save_inputs
from marquee.training.optimize.timing import Timing, time_variants

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What was measured about one variant."""

    measurement: Measurement
    calibration: CalibrationSpec | None
    """The variant's own calibration; None: the model's."""
    golden: Arrays
    """Outputs for the golden samples, in their order."""
    expected: str
    """Path of the variant's golden answers inside the bundle."""
    rounds: tuple[float, ...]
    """Items per second in each round of the timing, at the batch size that decides the ranking."""
    loses_most: str
    """The class whose items are answered worse, as a sentence; empty where there is none, or no classes."""


@dataclass(frozen=True)
class Place:
    """Where variants run."""

    device: str
    threads: int
    """Threads of each variant."""


@dataclass(frozen=True)
class _Answers:
    """One variant's answers."""

    variant: VariantSpec
    output: Any
    """The variant's output, with its own calibration."""
    calibration: CalibrationSpec | None
    """The variant's own calibration; None: the model's."""
    outputs: Mapping[str, Arrays]
    """Outputs for each set of inputs: ``golden``, ``judged``, and ``validation`` and ``edges`` where there are any."""

    @property
    def judged(self) -> Arrays:
        """Outputs for the evaluated items."""
        return self.outputs["judged"]


def measure_variants(
    processes: Sequence[VariantProcess],
    datasets: Datasets,
    bundle: Bundle,
    config: OptimizeConfig,
    place: Place,
    progress: Progress,
    leave_out: Callable[[str, str], None],
) -> dict[str, Measured]:
    """Measures loaded variants side by side; the first is the reference for the others.

    Args:
        processes: the variants.
        datasets: the items.
        bundle: the bundle with the variants.
        config: rounds and seconds of the timing.
        place: where the variants run.
        progress: where progress is reported.
        leave_out: called with the name of a variant that fails on real inputs or gives other answers than it must, and
            the reason.

    Raises:
        OptimizeError: the first variant fails.
    """
    task = task_for(bundle.spec)
    with tempfile.TemporaryDirectory(prefix="marquee-") as temporary:
        folder = Path(temporary)
        answers = _run(processes, datasets, bundle, folder, progress, leave_out)
        first = answers[processes[0].name]
        if task.equal_variants:
            for name, reason in _departures(answers, first).items():
                leave_out(name, reason)
                del answers[name]
        processes = [process for process in processes if process.name in answers]
        timings = time_variants(processes, folder / "judged", task.batch_sizes, config, progress, leave_out)
        processes = [process for process in processes if process.name in timings]
    measured: dict[str, Measured] = {}
    for process in processes:
        given = answers[process.name]
        try:
            measurement = _measurement(process, timings[process.name], given.variant, bundle, place)
            measurement = _with_quality(measurement, given, first, datasets)
        except Exception as error:
            if given is first:
                raise
            logger.debug("%s", process.name, exc_info=True)
            leave_out(process.name, reason_of(error))
            continue
        measured[process.name] = Measured(
            measurement=measurement,
            calibration=given.calibration,
            golden=given.outputs["golden"],
            expected=first.variant.expected if given is first else f"golden/expected-{process.name}.json",
            rounds=timings[process.name].rounds,
            loses_most="" if given is first else _loses_most(given, first, datasets),
        )
    return measured


def _inputs(datasets: Datasets, bundle: Bundle) -> dict[str, Arrays]:
    """What every variant answers.

    Raises:
        OptimizeError: a golden sample cannot be read.
    """
    spec = bundle.spec
    samples = [bundle.folder / sample.file for sample in read_golden(bundle, spec.variants[0])]
    golden = read_files(samples, spec)
    if len(golden) != len(samples):
        raise OptimizeError(
            f"{len(samples) - len(golden)} golden samples cannot be read; train or import the model again"
        )
    inputs = {"golden": golden.inputs, "judged": datasets.judged.inputs}
    if (edges := task_for(spec).edges(spec)) is not None:
        inputs["edges"] = edges
    if datasets.validation is not None and len(datasets.validation):
        inputs["validation"] = datasets.validation.inputs
    return inputs


def _run(
    processes: Sequence[VariantProcess],
    datasets: Datasets,
    bundle: Bundle,
    folder: Path,
    progress: Progress,
    leave_out: Callable[[str, str], None],
) -> dict[str, _Answers]:
    """The answers of each variant that gives any; writes the inputs to ``folder``."""
    inputs = _inputs(datasets, bundle)
    for name, arrays in inputs.items():
        save_inputs(folder / name, arrays)
    variants = {variant.name: variant for variant in bundle.spec.variants}
    answers: dict[str, _Answers] = {}
    with progress.task("running each variant", len(processes)) as bar:
        for process in processes:
            variant = variants[process.name]
            try:
                outputs = {name: process.outputs(folder / name) for name in inputs}
                calibration = _recalibrated(variant, outputs.get("validation"), datasets, bundle) if answers else None
                answers[process.name] = _Answers(variant, _output(bundle, variant, calibration), calibration, outputs)
            except Exception as error:  # outputs that are no numbers, or that cannot be calibrated
                if process is processes[0]:
                    raise
                logger.debug("%s", process.name, exc_info=True)
                leave_out(process.name, reason_of(error))
            bar.advance(process.name)
    return answers


def _departures(answers: Mapping[str, _Answers], first: _Answers) -> dict[str, str]:
    """Variant that gives another answer than the first one, beyond its tolerance -> the first such answer."""
    found: dict[str, str] = {}
    for name, given in answers.items():
        lines = _differences(given, first) if given is not first else []
        if lines:
            exactness = (
                f"not exact enough for this model: {len(lines)} answers differ from those of {first.variant.name}"
            )
            found[name] = f"{exactness}; first: {lines[0]}"
    return found


def _differences(given: _Answers, first: _Answers) -> list[str]:
    """A line for each answer that differs from the first variant's by more than the tolerance."""
    lines = []
    for name in given.outputs:
        pairs = (one.output.predictions(one.outputs[name]) for one in (first, given))
        for expected, got in zip(*pairs, strict=True):
            line = given.output.difference(expected.golden(), got.golden(), given.variant.tolerance)
            lines += [] if line is None else [line]
    return lines


def _output(bundle: Bundle, variant: VariantSpec, calibration: CalibrationSpec | None) -> Any:
    return bundle.spec.output.create(replace(variant, calibration=calibration), None)


def _recalibrated(
    variant: VariantSpec, outputs: Arrays | None, datasets: Datasets, bundle: Bundle
) -> CalibrationSpec | None:
    """The calibration fitted to a variant's own outputs; None if there are no labelled items to fit it on."""
    if outputs is None or datasets.run is None or datasets.validation is None or datasets.validation.targets is None:
        return None
    output = _output(bundle, variant, None)
    return datasets.run.task.calibrate(datasets.run.config, output, outputs, datasets.validation.targets).calibration


def _measurement(
    process: VariantProcess, timing: Timing, variant: VariantSpec, bundle: Bundle, place: Place
) -> Measurement:
    """Speed and memory; :func:`_with_quality` adds the quality of the answers."""
    return Measurement(
        host=this_host(place.device),
        date=now(),
        threads=place.threads,
        images=0,
        agreement=0.0,
        difference=0.0,
        latency_p50_ms=timing.latency_p50_ms,
        latency_p99_ms=timing.latency_p99_ms,
        images_per_second=timing.images_per_second,
        load_seconds=round(process.loaded.seconds, 3),
        memory_bytes=process.memory(),
        file_bytes=sum((bundle.folder / name).stat().st_size for name in variant.files),
        kernels=process.loaded.kernels,
    )


def _with_quality(measurement: Measurement, answers: _Answers, first: _Answers, datasets: Datasets) -> Measurement:
    """``measurement`` with the quality of the answers: accuracy, and agreement with those of the first variant."""
    differences = answers.output.differences(answers.judged, first.judged, first.output)
    agreement = answers.output.agreement(answers.judged, first.judged, first.output)
    measurement = replace(
        measurement,
        images=len(datasets.judged),
        agreement=float(agreement.mean()),
        difference=float(np.quantile(differences, 0.99)),
    )
    targets, groups, task = datasets.judged.targets, datasets.judged.groups, task_for(datasets.spec)
    if targets is None:
        return measurement
    scores, first_scores = (task.scores(item.output, item.judged, targets) for item in (answers, first))
    effective = None if groups is None else effective_number(first_scores.astype(float) - scores, groups)
    paired = paired_difference if task.quality.graded else paired_drop
    drop = paired(first_scores, scores, effective)
    return replace(
        measurement,
        effective_images=None if groups is None else effective_number(np.zeros(len(scores)), groups),
        accuracy=float(scores.mean()),
        drop=drop.value,
        drop_interval=drop.interval,
        ece=task.calibration_error(answers.output, answers.judged, targets),
    )


def _loses_most(answers: _Answers, first: _Answers, datasets: Datasets) -> str:
    targets, task = datasets.judged.targets, task_for(datasets.spec)
    if targets is None:
        return ""
    before, after = (task.scores(item.output, item.judged, targets) for item in (first, answers))
    return task.loses_most(answers.output, targets, before, after)


def write_golden_answers(bundle: Bundle, measured: Mapping[str, Measured]) -> GoldenSpec:
    """Writes each variant's golden answers into the bundle; returns all golden files.

    Args:
        bundle: a bundle with the golden answers of the first variant, which are not changed.
        measured: the measured variants by name.
    """
    first = bundle.spec.variants[0]
    samples = read_golden(bundle, first)
    files = dict(bundle.spec.golden.files)
    for variant in bundle.spec.variants:
        if variant is first or variant.name not in measured:
            continue
        result = measured[variant.name]
        sealed = replace(variant, calibration=result.calibration, expected=result.expected)
        answers = _output(bundle, variant, result.calibration).predictions(result.golden)
        entries = (
            {"file": sample.file, **sample.expected, **answer.golden()}
            for sample, answer in zip(samples, answers, strict=True)
        )
        files |= write_answers(bundle, sealed, entries)
    return GoldenSpec(files=files)


def now() -> str:
    """The current time in UTC as ISO 8601, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
