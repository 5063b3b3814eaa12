"""Training on the digits on the device, compared with the CPU: accuracy, golden answers, evaluation."""

import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.gpu.compilers import why_not_compiled
from benchmarks.gpu.material import accuracy, cpu_run, digits, quick_config
from benchmarks.gpu.step import Report, Site
from benchmarks.gpu.steps.gauges import Deadline
from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.golden import read_golden, replay
from marquee.handlers.core.input import attempt
from marquee.handlers.core.predictor import Predictor
from marquee.training.core.evaluation import evaluate
from marquee.training.core.run import train

POINTS = 1.0
"""Largest difference of an accuracy from the CPU's, in points, that is right."""
SMALL_POINTS = 5.0
"""The same for the small runs on the CPU, in which one image is more than half a point."""

_COMPILING = 30.0
"""Seconds that must be left before the training with torch.compile is begun."""


def run(site: Site, report: Report) -> None:
    """Trains on the CPU in fp32 and on a GPU in bf16, without and with torch.compile; compares the results."""
    deadline, started = Deadline(site.seconds), time.monotonic()
    reference = accuracy(cpu_run(site))
    seconds = time.monotonic() - started
    report.row("accuracy: CPU, fp32", 100 * reference, "%", note=f"what the others are compared with; {seconds:.0f} s")
    # A CPU without instructions for bf16 computes it some times slower.
    precision = "bf16" if site.full else "auto"
    name = f"accuracy: {site.device}, {precision}, channels_last"
    with report.guard(name):
        bundle = _train(site, report, name, precision, False, reference) / "bundle"
        with report.guard("golden answers"):
            _golden(site, report, bundle)
        with report.guard("evaluation"):
            _evaluation(site, report, bundle)
    if site.full:  # the CPU does not spend its seconds on compilation
        _compiled(site, report, f"{name}, compiled", reference, deadline)


def _compiled(site: Site, report: Report, name: str, reference: float, deadline: Deadline) -> None:
    """The same training with torch.compile: last, since compiling takes long and is wanted least."""
    if reason := why_not_compiled(site.device):
        report.skip(name, reason)
    elif not deadline.allows(_COMPILING):
        report.skip(name, f"compiling is not begun with less than {_COMPILING:g} s left")
    else:
        with report.guard(name):
            _train(site, report, name, "bf16", True, reference)


def _train(site: Site, report: Report, name: str, precision: str, compiled: bool, reference: float) -> Path:
    folder = site.work / ("compiled" if compiled else "plain")
    loop = {"precision": precision, "channels_last": True, "compile": compiled}
    started = time.monotonic()
    metrics = train(quick_config(site, loop=loop), digits(site), folder, report=False)
    seconds, points = time.monotonic() - started, 100 * (metrics["accuracy"] - reference)
    allowed = POINTS if site.full else SMALL_POINTS
    report.row(
        name,
        100 * metrics["accuracy"],
        "%",
        right=abs(points) <= allowed,
        wanted=f"within {allowed:g} points of the CPU",
        note=f"{points:+.2f} points on {metrics['images']} images; {seconds:.0f} s with export and evaluation",
    )
    return folder


def _golden(site: Site, report: Report, bundle: Path) -> None:
    """The bundle's golden answers, which evaluation wrote on the CPU, on the CPU and on the device."""
    found: dict[str, Arrays] = {}
    for device in dict.fromkeys(["cpu", site.device]):
        predictor = Predictor.load(bundle, device)
        samples = read_golden(predictor.bundle, predictor.variant)
        lines = replay(predictor)
        report.row(
            f"golden answers: {device}",
            len(samples) - len(lines),
            f"of {len(samples)} equal",
            right=not lines,
            wanted=f"each within {predictor.variant.tolerance:g} of evaluation's",
            note=lines[0] if lines else "",
        )
        opener = predictor.input.opener()
        batch = predictor.input.collate([attempt(opener.file, sample.data) for sample in samples])
        found[device] = predictor.outputs(batch.inputs)
    _difference(report, "golden answers: largest difference", predictor, found)


def _evaluation(site: Site, report: Report, bundle: Path) -> None:
    """The test images, through the bundle, on the CPU and on the device; training has measured them on the CPU."""
    before, found = accuracy(bundle.parent), dict[str, Arrays]()
    for device in dict.fromkeys(["cpu", site.device]):
        started = time.monotonic()
        predictor = Predictor.load(bundle, device)
        measured = evaluate(predictor, digits(site))
        share = float(measured.metrics["accuracy"])
        report.row(
            f"evaluation: {device}",
            100 * share,
            "%",
            right=abs(share - before) * len(measured.records) < 1.5,
            wanted="training's accuracy, but for one image at most",
            note=f"{len(measured.records)} images in {time.monotonic() - started:.1f} s",
        )
        found[device] = measured.outputs
    _difference(report, "evaluation: largest difference", predictor, found)


def _difference(report: Report, name: str, predictor: Predictor, found: Mapping[str, Arrays]) -> None:
    """The row for the largest difference of a probability between two devices; none where there is but one."""
    if len(found) < 2:
        return
    first, second = found.values()
    apart, tolerance = float(predictor.output.differences(first, second).max()), predictor.variant.tolerance
    same = float(predictor.output.agreement(first, second).mean())
    report.row(
        name,
        apart,
        right=apart <= tolerance,
        wanted=f"at most {tolerance:g} of a probability between {' and '.join(found)}",
        note=f"{100 * same:.4g} % of the answers are the same",
    )
