"""Everything that is measured about loaded variants: answers, speed, memory."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from marquee.handlers.accuracy import paired_drop
from marquee.handlers.golden import read_golden
from marquee.handlers.host import this_host
from marquee.handlers.images import load
from marquee.handlers.measurement import Measurement
from marquee.handlers.predictor import Outputs, sigmoid, softmax
from marquee.handlers.spec import GoldenSpec, ModelSpec, OutputSpec
from marquee.training.calibration import calibrate
from marquee.training.errors import OptimizeError
from marquee.training.golden import write_answers
from marquee.training.metrics import confidence_metrics, effective_images
from marquee.training.multi_label import multi_label_confidence_metrics
from marquee.training.optimize.config import OptimizeConfig
from marquee.training.optimize.material import Material
from marquee.training.optimize.process import VariantProcess
from marquee.training.optimize.timing import Timing, time_variants
from marquee.training.progress import Progress


@dataclass(frozen=True)
class Measured:
    """One variant."""

    measurement: Measurement
    output: OutputSpec | None
    """Its own temperature and thresholds; None: the model's."""
    golden: Outputs
    """For the golden samples, in their order."""
    expected: str
    """Path inside the bundle for its golden answers."""


@dataclass(frozen=True)
class _Answers:
    """Answers on the judged images."""

    probabilities: np.ndarray
    """float64 (N, labels)."""
    predicted: np.ndarray
    """int64 (N,), or bool (N, labels) where an image may have several."""


def measure_variants(
    processes: Sequence[VariantProcess],
    spec: ModelSpec,
    material: Material,
    config: OptimizeConfig,
    device: str,
    threads: int,
    progress: Progress,
    leave_out: Callable[[str, str], None],
) -> dict[str, Measured]:
    """Measures loaded variants side by side; the first is what the others are compared with.

    Args:
        processes: the variants.
        spec: of the bundle.
        material: images.
        config: how long.
        device: where they run.
        threads: of each.
        progress: told about it.
        leave_out: told the name of a variant that cannot answer real images, and the reason.

    Raises:
        OptimizeError: the first one cannot.
    """
    samples = read_golden(material.folder, spec, spec.variants[0])
    golden = np.stack([load(sample.data, spec.image) for sample in samples])
    with tempfile.TemporaryDirectory(prefix="marquee-") as temporary:
        folder = Path(temporary)
        files = {"golden": golden, "judged": material.judged.pixels}
        if material.validation is not None and len(material.validation):
            files["validation"] = material.validation.pixels
        for name, pixels in files.items():
            np.save(folder / f"{name}.npy", pixels, allow_pickle=False)
        outputs: dict[str, dict[str, Outputs]] = {}
        with progress.task("asking each variant", len(processes)) as task:
            for process in processes:
                try:
                    outputs[process.name] = {name: process.outputs(folder / f"{name}.npy") for name in files}
                except OptimizeError as error:
                    if process is processes[0]:
                        raise
                    leave_out(process.name, str(error))
                task.advance(process.name)
        processes = [process for process in processes if process.name in outputs]
        timings = time_variants(processes, folder / "judged.npy", config, progress)
    found: dict[str, Measured] = {}
    first: _Answers | None = None
    for number, process in enumerate(processes):
        own = outputs[process.name]
        output = spec.output if number == 0 else _recalibrated(own.get("validation"), material, spec)
        answers = _answers(own["judged"], output, spec)
        first = first or answers
        found[process.name] = Measured(
            measurement=_measurement(process, answers, first, timings[process.name], material, spec, device, threads),
            output=None if number == 0 else output,
            golden=own["golden"],
            expected=spec.variants[0].expected if number == 0 else f"golden/expected-{process.name}.json",
        )
    return found


def _recalibrated(outputs: Outputs | None, material: Material, spec: ModelSpec) -> OutputSpec:
    """Temperature and thresholds of a variant's own logits; the model's where there is nothing to fit them on."""
    if outputs is None or material.run is None or material.validation is None or material.validation.targets is None:
        return spec.output
    return calibrate(outputs, material.validation.targets, material.run.config.export).output


def _answers(outputs: Outputs, output: OutputSpec, spec: ModelSpec) -> _Answers:
    activation = sigmoid if spec.multi_label else softmax
    probabilities = activation(outputs.logits / output.temperature)
    predicted = probabilities >= output.threshold if spec.multi_label else probabilities.argmax(axis=1)
    return _Answers(probabilities, predicted)


def _right(predicted: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Bool (N,): the label, or all labels, are as wanted."""
    equal: np.ndarray = np.asarray(predicted == wanted)
    return np.asarray(equal.all(axis=1)) if equal.ndim == 2 else equal


def _measurement(
    process: VariantProcess,
    answers: _Answers,
    first: _Answers,
    timing: Timing,
    material: Material,
    spec: ModelSpec,
    device: str,
    threads: int,
) -> Measurement:
    variant = next(one for one in spec.variants if one.name == process.name)
    apart = np.abs(answers.probabilities - first.probabilities).max(axis=1)
    plain = Measurement(
        host=this_host(device),
        date=now(),
        threads=threads,
        images=len(material.judged),
        agreement=float(_right(answers.predicted, first.predicted).mean()),
        difference=float(np.quantile(apart, 0.99)),
        latency_p50_ms=timing.latency_p50_ms,
        latency_p99_ms=timing.latency_p99_ms,
        images_per_second=timing.images_per_second,
        load_seconds=round(process.loaded.seconds, 3),
        memory_bytes=process.memory(),
        file_bytes=sum((material.folder / name).stat().st_size for name in variant.files),
        kernels=process.loaded.kernels,
    )
    targets = material.judged.targets
    if targets is None:
        return plain
    right, before = _right(answers.predicted, targets), _right(first.predicted, targets)
    groups = material.judged.groups
    lost = before.astype(float) - right
    drop = paired_drop(before, right, None if groups is None else effective_images(lost, groups))
    metrics = multi_label_confidence_metrics if spec.multi_label else confidence_metrics
    return replace(
        plain,
        effective_images=None if groups is None else effective_images(np.zeros(len(right)), groups),
        accuracy=float(right.mean()),
        drop=drop.value,
        drop_interval=drop.interval,
        ece=metrics(answers.probabilities, targets)["ece"],
    )


def write_golden_answers(folder: Path, spec: ModelSpec, measured: Mapping[str, Measured]) -> GoldenSpec:
    """Writes each variant's golden answers into the bundle ``folder``; returns all golden files.

    Args:
        folder: the bundle.
        spec: with the first variant's golden answers, which stay as they are.
        measured: variants, the first one first.
    """
    first = spec.variants[0]
    samples = read_golden(folder, spec, first)
    files = dict(spec.golden.files)
    for name, one in measured.items():
        if name == first.name:
            continue
        probabilities = _answers(one.golden, one.output or spec.output, spec).probabilities
        distances = [None] * len(samples) if one.golden.distances is None else one.golden.distances.tolist()
        inputs = [(sample.file, sample.label) for sample in samples]
        answers = zip(probabilities, distances, strict=True)
        files[one.expected] = write_answers(folder / one.expected, inputs, answers)
    return GoldenSpec(files=files)


def now() -> str:
    """The time as ISO 8601, UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
