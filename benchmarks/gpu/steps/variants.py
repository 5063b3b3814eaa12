"""A trained bundle in other number formats and compiled, on the device: answers, speed, and the end of a lost device.

The variants are built by what ``marquee optimize`` builds them with, and loaded by what serves them. Evaluation's
answers are those of the bundle's first variant on the CPU, which its golden answers repeat.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks import ROOT
from benchmarks.gpu.material import cpu_run
from benchmarks.gpu.step import Report, Site, environment
from benchmarks.gpu.steps.gauges import Deadline, release
from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.engines.exported import load_program
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
_NOT_COMPILED = "compiling is not begun with less than {:g} s left"
_LOST = "the device is lost"
"""What a worker logs before it ends."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured."""

    kinds: tuple[str, ...]
    batches: tuple[int, ...]
    rounds: int
    seconds: float
    """Of calls in one measurement of a speed."""
    compiling: float
    """Seconds that must be left before something is compiled; on a CPU so many that only ``--minutes 60`` has them."""


def sizes_for(site: Site) -> Sizes:
    """On a GPU every kind and batch; on the CPU, one of each way to load a variant, and few calls."""
    if site.full:
        kinds = ("bf16", "fp16", "compiled-fp32", "compiled-bf16")
        return Sizes(kinds=kinds, batches=(1, 8, 32, 64, 128, 256), rounds=3, seconds=0.15, compiling=15)
    return Sizes(kinds=("bf16", "fp16", "compiled-bf16"), batches=(1, 8), rounds=2, seconds=0.02, compiling=900)


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
    """See the module."""
    deadline, sizes = Deadline(site.seconds), sizes_for(site)
    datasets, bundle = build(site, report, sizes.kinds)
    reference = _reference(bundle.folder, datasets)
    engines: dict[str, Callable[[Arrays], object]] = {}
    for variant in bundle.spec.variants:
        if variant.engine == "compiled" and not deadline.allows(sizes.compiling):
            report.skip(variant.name, _NOT_COMPILED.format(sizes.compiling))
            continue
        with report.guard(variant.name):
            engines[variant.name] = load(site, report, bundle, variant.name, reference)
    with report.guard("lost device"):
        lose_device(site, report, bundle.folder)
    if deadline.allows(sizes.compiling):
        with report.guard("aot-inductor"):
            engines["aot-inductor"] = ahead_of_time(site, report, bundle, reference)
    else:
        report.skip("aot-inductor", _NOT_COMPILED.format(sizes.compiling))
    tell_speeds(report, engines, reference.inputs, sizes, deadline)
    release(resolve_device(site.device))


def load(site: Site, report: Report, bundle: Bundle, name: str, reference: Reference) -> Callable[[Arrays], object]:
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
        if name == "fp16" and not site.full:
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


def ahead_of_time(site: Site, report: Report, bundle: Bundle, reference: Reference) -> Callable[[Arrays], object]:
    """The first variant's program as AOTInductor compiles it: no engine of the project, but what one would gain.

    Args:
        site: where.
        report: takes the rows.
        bundle: with the program.
        reference: evaluation's answers.

    Returns:
        What runs it.
    """
    from torch._inductor import aoti_compile_and_package, aoti_load_package
    from torch.export.passes import move_to_device_pass

    program, started = load_program(bundle.program(bundle.spec.variants[0])), time.monotonic()
    device = str(resolve_device(site.device))
    if site.full:
        program = move_to_device_pass(program, device)
    # Bundles do not hold the inputs that a program was traced with.
    example = (torch.from_numpy(values).to(device) for values in bundle.spec.input.example(2).values())
    program.example_inputs = (tuple(example), {})
    package = aoti_compile_and_package(program, package_path=str(site.work / "aot.pt2"))
    report.row("aot-inductor: compiling", time.monotonic() - started, "s", note="once; a worker loads the result")
    started = time.monotonic()
    compiled = aoti_load_package(package)
    report.row("aot-inductor: loading", time.monotonic() - started, "s")
    names = bundle.spec.variants[0].outputs

    @torch.inference_mode()
    def call(inputs: Arrays) -> Arrays:
        tensors = [torch.from_numpy(values).to(device) for values in inputs.values()]
        result = compiled(*tensors)
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        return {name: tensor.float().cpu().numpy() for name, tensor in zip(names, outputs, strict=True)}

    output, tolerance = reference.predictor.output, bundle.spec.variants[0].tolerance
    largest = float(output.differences(output.read(call(reference.inputs)), reference.outputs).max())
    report.row(
        "aot-inductor: largest difference of a probability",
        largest,
        right=largest <= tolerance,
        wanted=f"at most {tolerance:g}",
    )
    return call


def tell_speeds(
    report: Report, engines: dict[str, Callable[[Arrays], object]], inputs: Arrays, sizes: Sizes, deadline: Deadline
) -> None:
    """Images a second of each engine at each batch: copies to and from the device count, reading requests does not."""
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(sizes.rounds):
        for batch in sizes.batches:
            arrays = {name: np.array(values[np.arange(batch) % len(values)]) for name, values in inputs.items()}
            for name, engine in engines.items():
                if deadline.allows(4 * sizes.seconds):
                    with report.guard(f"{name}: batch {batch}"):
                        rates.setdefault((name, batch), []).append(batch / _median_seconds(engine, arrays, sizes))
    for (name, batch), measured in rates.items():
        report.row(f"{name}: batch {batch}", statistics.median(measured), "images/s")


def _median_seconds(engine: Callable[[Arrays], object], arrays: Arrays, sizes: Sizes) -> float:
    engine(arrays)  # kernels and memory are chosen at a batch's first call
    durations: list[float] = []
    end = time.monotonic() + sizes.seconds
    while not durations or time.monotonic() < end:
        started = time.perf_counter()
        engine(arrays)  # its result is on the CPU, so that nothing is left to wait for
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def lose_device(site: Site, report: Report, bundle: Path) -> None:
    """Tells what a worker does out of memory, and when its device is lost: see :mod:`benchmarks.gpu.steps.worker`."""
    command = [sys.executable, "-m", "benchmarks.gpu.steps.worker", str(bundle), site.device]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=site.seconds, check=False
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
