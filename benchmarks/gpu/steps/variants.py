"""A trained bundle in other number formats and compiled, on the device: answers, speed, and the end of a lost device.

The variants are built by what ``marquee optimize`` builds them with, and loaded by what serves them. Evaluation's
answers are those of the bundle's first variant on the CPU, which its golden answers repeat.
"""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import ROOT
from benchmarks.gpu.compilers import why_not_ahead_of_time, why_not_compiled
from benchmarks.gpu.material import cpu_run
from benchmarks.gpu.step import Report, Site, environment
from benchmarks.gpu.steps.aot_inductor import ahead_of_time
from benchmarks.gpu.steps.gauges import Deadline, release
from benchmarks.gpu.steps.speeds import Calls, Engine, tell_speeds
from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.golden import compare, read_golden
from marquee.handlers.core.predictor import Predictor
from marquee.training.core.device import resolve_device
from marquee.training.core.progress import Progress
from marquee.training.core.run_folder import RunFolder
from marquee.training.optimize.build import Network
from marquee.training.optimize.builds import Builds
from marquee.training.optimize.config import OptimizeConfig
from marquee.training.optimize.datasets import Datasets, read_datasets, read_run

_ALIKE = 0.98
"""Share of the test images whose label must be evaluation's, in half precision."""
_AHEAD_OF_TIME = "aot-inductor"
_LOST = "the device is lost"
"""What a worker logs before it ends."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured."""

    kinds: tuple[str, ...]
    calls: Calls
    compiling: float
    """Seconds that must be left before something is compiled; on a CPU so many that only ``--minutes 60`` has them."""


def sizes_for(site: Site) -> Sizes:
    """On a GPU every kind and batch; on the CPU, one of each way to load a variant, and few calls."""
    if site.full:
        kinds = ("bf16", "fp16", "compiled-fp32", "compiled-bf16")
        return Sizes(kinds=kinds, calls=Calls(batches=(1, 8, 32, 64, 128, 256), rounds=3, seconds=0.15), compiling=40)
    few = Calls(batches=(1, 8), rounds=2, seconds=0.02)
    return Sizes(kinds=("bf16", "fp16", "compiled-bf16"), calls=few, compiling=900)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Evaluation's answers."""

    predictor: Predictor
    """The bundle's first variant, on the CPU."""
    inputs: Arrays
    """The test images, as an engine takes them."""
    outputs: Arrays
    """What the first variant gives for them."""


def run(site: Site, report: Report) -> None:
    """Speeds in each number format, a lost device, and what is compiled: each as soon as it is there."""
    deadline, sizes = Deadline(site.seconds), sizes_for(site)
    datasets, bundle = build(site, report, sizes.kinds)
    reference = _reference(bundle.folder, datasets)
    engines: dict[str, Engine] = {}
    for variant in bundle.spec.variants:
        if variant.engine != "compiled":
            with report.guard(variant.name):
                engines[variant.name] = load(site, report, bundle, variant.name, reference)
    tell_speeds(report, engines, reference.inputs, sizes.calls, deadline)
    with report.guard("lost device"):
        lose_device(site, report, bundle.folder, deadline)
    for variant in bundle.spec.variants:
        if variant.engine == "compiled":
            compiled(site, report, bundle, variant.name, reference, deadline)
    compiled(site, report, bundle, _AHEAD_OF_TIME, reference, deadline)
    release(resolve_device(site.device))


def compiled(site: Site, report: Report, bundle: Bundle, name: str, reference: Reference, deadline: Deadline) -> None:
    """Compiles a variant, or the first one's program ahead of time, and tells of its answers and its speeds."""
    sizes, is_ahead = sizes_for(site), name == _AHEAD_OF_TIME
    if reason := (why_not_ahead_of_time if is_ahead else why_not_compiled)(site.device):
        report.skip(name, reason)
        return
    if not deadline.allows(sizes.compiling):
        report.skip(name, f"compiling is not begun with less than {sizes.compiling:g} s left")
        return
    with report.guard(name):
        if is_ahead:
            engine = ahead_of_time(site, report, bundle, reference.predictor, reference.inputs, reference.outputs)
        else:
            engine = load(site, report, bundle, name, reference)
        tell_speeds(report, {name: engine}, reference.inputs, sizes.calls, deadline)


def load(site: Site, report: Report, bundle: Bundle, name: str, reference: Reference) -> Engine:
    """Loads a variant on the device and tells of its answers; returns its engine."""
    started = time.monotonic()
    predictor = Predictor.load(bundle.folder, str(resolve_device(site.device)), name)
    engine = predictor.variant.engine
    report.row(f"{name}: loading", time.monotonic() - started, "s", note=f"engine {engine}")
    tell_answers(report, predictor, reference)
    return predictor.engine


def build(site: Site, report: Report, kinds: tuple[str, ...]) -> tuple[Datasets, Bundle]:
    """A copy of the digits' bundle with variants of these kinds; one that cannot be built has a row that says why."""
    run_folder, copy = cpu_run(site), site.work / "bundle"
    shutil.copytree(RunFolder(run_folder).bundle, copy)
    original, progress = Bundle.read(copy), Progress(quiet=True)
    config = OptimizeConfig(variants=kinds, calibration_images=20)
    trained = read_run(run_folder, original.spec)
    datasets = read_datasets(original, trained, copy, config, progress)
    builds = Builds(datasets, config, site.device, progress)
    builds.build(Network(prefix="", model=trained.model if trained else None, distance=datasets.distance), list(kinds))
    for name, reason in builds.left_out.items():
        if not site.full and (name == "fp16" or " cannot be measured here" in reason):  # no GPU; or a CPU without bf16
            report.skip(name, reason)
        else:
            report.row(name, "not built", right=False, note=reason)
    spec = replace(datasets.spec, variants=tuple(builds.variants))
    return datasets, original.with_spec(spec).write()


def _reference(folder: Path, datasets: Datasets) -> Reference:
    first = datasets.spec.variants[0]
    predictor = Predictor.load(folder, "cpu", first.name)
    inputs = datasets.judged.inputs
    return Reference(predictor=predictor, inputs=inputs, outputs=predictor.outputs(inputs))


def tell_answers(report: Report, predictor: Predictor, reference: Reference) -> None:
    """How far a variant's answers on the device are from evaluation's, for golden samples and test images."""
    name, tolerance = predictor.variant.name, predictor.variant.tolerance
    samples = read_golden(reference.predictor.bundle, reference.predictor.variant)
    answers = predictor.predict([sample.data for sample in samples])
    lines = [
        compare(sample, predictor.output, answer if isinstance(answer, InputError) else answer.golden(), tolerance)
        for sample, answer in zip(samples, answers, strict=True)
    ]
    different = [line for line in lines if line is not None]
    exact = predictor.variant.precision == "fp32"
    report.row(
        f"{name}: golden answers that differ",
        len(different),
        f"of {len(samples)}",
        right=not different if exact else None,
        wanted="none" if exact else "",
        note=f"by more than {tolerance:g}" + (f"; first: {different[0]}" if different else ""),
    )
    outputs, output = predictor.outputs(reference.inputs), predictor.output
    differences = output.differences(outputs, reference.outputs, reference.predictor.output)
    alike = float(output.agreement(outputs, reference.outputs, reference.predictor.output).mean())
    report.row(
        f"{name}: largest difference of a probability",
        float(differences.max()),
        right=bool(differences.max() <= tolerance) if exact else None,
        wanted=f"at most {tolerance:g}" if exact else "",
        note=f"{len(differences)} test images",
    )
    report.row(
        f"{name}: labels as evaluation's", alike * 100, "%", right=alike >= _ALIKE, wanted=f"at least {_ALIKE:.0%}"
    )


def lose_device(site: Site, report: Report, bundle: Path, deadline: Deadline) -> None:
    """Tells what a worker does out of memory, and when its device is lost: see :mod:`benchmarks.gpu.steps.worker`."""
    command = [sys.executable, "-m", "benchmarks.gpu.steps.worker", str(bundle), site.device]
    limit = max(1.0, deadline.left)
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=limit, check=False
    )
    sys.stderr.write(done.stderr)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for row in {row["name"]: row for row in rows}.values():  # of what is told several times, the last
        report.row(row["name"], row["value"], right=row["right"], wanted=row["wanted"])
    report.row(
        "lost device: exit code of the worker",
        done.returncode,
        right=done.returncode == 1 and _LOST in done.stderr,
        wanted="1, after which TorchServe starts a new worker",
        note="" if site.full else "simulated: a CPU is not lost",
    )
