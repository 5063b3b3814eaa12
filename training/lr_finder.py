"""The learning-rate range test (Smith, "Cyclical learning rates for training neural networks", 2017, section 3.3).

The rate grows exponentially over a few real training steps, and the loss shows from where on it is large enough to
learn and where it is too large. Nothing of it is kept.
"""

import io
import itertools
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from marquee.training.assemble import build_model, build_trainer
from marquee.training.config import RunConfig
from marquee.training.context import RunContext
from marquee.training.data.loading import BatchPlan, Loader
from marquee.training.device import resolve_device
from marquee.training.files import write_atomic
from marquee.training.loop import NonFiniteLossError, Trainer, deferred_signals
from marquee.training.models import check_model
from marquee.training.optim import check_optimizer
from marquee.training.progress import Progress
from marquee.training.rate_range import RateRange, check_plot_name
from marquee.training.records import read_data
from marquee.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

SMOOTHING = 0.9
"""Share of the running mean that each step keeps."""
DIVERGED = 4.0
"""The test ends when the smoothed loss is this many times its lowest value."""
CLEAR = 5.0
"""Standard errors that the smoothed loss has to fall by before the fall is believed."""


@dataclass(frozen=True, kw_only=True)
class RateCurve:
    """What the test saw and what it makes of it."""

    rates: tuple[float, ...]
    """The learning rate of each step that was made."""
    losses: tuple[float, ...]
    """The training loss of each step, before its update."""
    smoothed: tuple[float, ...]
    """Its running mean, free of the bias towards zero."""
    diverged: bool
    """True when the test ended before its last rate."""
    suggestion: float | None
    """Where the steepest descent begins; None when there is no clear descent."""
    tenth_of_lowest: float | None
    """A tenth of the rate at the lowest smoothed loss; None when there is no clear descent."""
    note: str
    """What a person should know about the curve; empty for an ordinary one."""


def find_learning_rate(config: RunConfig, data: Path, rates: RateRange, progress: Progress) -> RateCurve:
    """Trains on ``data`` with a growing rate, from the weights that a run would start with.

    Model, optimiser, loss, augmentation, mixing, batch size and precision are the configured ones; the schedule, the
    warm-up, smaller images and the decoded cache are not used. No file is written.

    Raises:
        TrainingError: with what happened and what to do.
    """
    config = replace(config, loop=replace(config.loop, progressive_resizing=1.0))
    device = resolve_device(config.loop.device)
    check_model(config.model)
    check_optimizer(config.optimizer)
    manifest, _ = read_data(config, data, progress)
    model, image = build_model(config, manifest)
    with tempfile.TemporaryDirectory() as nowhere:
        context = RunContext(folder=RunFolder(Path(nowhere)), device=device, progress=progress)
        trainer = build_trainer(config, manifest, model, image, context)
        logger.info(f"{config.model.arch} on {device} in {trainer.precision}, {rates.steps} steps")
        return _sweep(trainer, rates, progress)


def _sweep(trainer: Trainer, rates: RateRange, progress: Progress) -> RateCurve:
    losses: list[float] = []
    smoothed: list[float] = []
    diverged = False
    trainer.set_mode(epoch=0)
    batches = _endless(trainer.train_loader, trainer.plan)
    # A Ctrl-C while the loader's process is being forked would be lost: Python ignores what a fork's hooks raise.
    with deferred_signals() as signals, progress.task("learning rate", rates.steps) as task:
        for step, (rate, (pixels, labels)) in enumerate(zip(rates.rates(), batches, strict=False)):
            try:
                loss, _ = trainer.step(pixels, labels, step, rate)
            except NonFiniteLossError:
                diverged = True
                break
            losses.append(loss)
            smoothed.append(_bias_corrected_mean(losses))
            task.advance(f"{rate:.1e}, loss {smoothed[-1]:.3f}")
            if signals.received:
                raise KeyboardInterrupt
            if smoothed[-1] > DIVERGED * min(smoothed):
                diverged = True
                break
    return judge(rates.rates()[: len(losses)], losses, diverged)


def _endless(loader: Loader, plan: BatchPlan) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for epoch in itertools.count():
        plan.epoch = epoch
        yield from loader


def _bias_corrected_mean(values: list[float]) -> float:
    """Exponential mean that starts at the first value (Kingma and Ba, 2015, section 3)."""
    weights = SMOOTHING ** np.arange(len(values))[::-1]
    return float(np.average(values, weights=weights))


def judge(rates: list[float], losses: list[float], diverged: bool) -> RateCurve:
    """Finds the steepest descent of the smoothed loss.

    Straight lines of smoothed loss against the logarithm of the rate are fitted to every tenth of the steps up to the
    lowest loss. The suggestion is the rate at which the steepest of them begins: its beginning, not its middle, since a
    smoothed loss is some steps late.

    A descent is clear when the smoothed loss falls by :data:`CLEAR` standard errors from the mean of the first tenth;
    the error comes from the differences between neighbouring steps.

    Args:
        rates: growing learning rates.
        losses: the loss of each of them.
        diverged: whether the last ones were cut off.
    """
    smoothed = [_bias_corrected_mean(losses[: count + 1]) for count in range(len(losses))]
    window = max(5, len(losses) // 10)
    suggestion = tenth = None
    if len(losses) < 2 * window:
        note = "the loss diverged within the first steps; lower --from"
    else:
        lowest = window + int(np.argmin(smoothed[window:]))
        if _falls_clearly(losses, smoothed, window, lowest):
            note = _edge_note(lowest, window, len(losses), diverged)
            suggestion = rates[_steepest(rates, smoothed, window, lowest)]
            tenth = rates[lowest] / 10
        else:
            note = "no clear descent: the loss falls no further than chance would have it; try other --from and --to"
    return RateCurve(
        rates=tuple(rates),
        losses=tuple(losses),
        smoothed=tuple(smoothed),
        diverged=diverged,
        suggestion=suggestion,
        tenth_of_lowest=tenth,
        note=note,
    )


def _falls_clearly(losses: list[float], smoothed: list[float], window: int, lowest: int) -> bool:
    begun = float(np.mean(losses[:window]))
    variance = float(np.var(np.diff(losses[: lowest + 1]))) / 2  # neighbours differ by the noise of both
    # Variances of an exponential mean and of the mean over the first steps.
    error = np.sqrt(variance * ((1 - SMOOTHING) / (1 + SMOOTHING) + 1 / window))
    return bool(begun - smoothed[lowest] > CLEAR * error)


def _steepest(rates: list[float], smoothed: list[float], window: int, lowest: int) -> int:
    """The step at which the steepest line begins."""
    logs = np.log10(rates)
    begins = range(max(1, lowest - window + 2))
    slopes = [np.polyfit(logs[i : i + window], smoothed[i : i + window], 1)[0] for i in begins]
    return int(np.argmin(slopes))


def _edge_note(lowest: int, window: int, steps: int, diverged: bool) -> str:
    if not diverged and lowest >= steps - window:
        return "the loss was still falling at the last rate; raise --to"
    return ""


def plot_curve(curve: RateCurve, path: Path) -> None:
    """Draws raw and smoothed loss against the rate, with the suggestion, into an .svg, .png or .pdf file."""
    from matplotlib.figure import Figure  # heavy, and only for a plot

    check_plot_name(path)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="0.75", label="loss of a step")
    axes.plot(curve.rates, curve.smoothed, color="C0", label="smoothed")
    if curve.suggestion is not None:
        axes.axvline(curve.suggestion, color="C1", label=f"suggestion {curve.suggestion:.1e}")
    if curve.tenth_of_lowest is not None:
        axes.axvline(curve.tenth_of_lowest, color="C2", linestyle="--", label="a tenth of the lowest loss's rate")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=curve.note or None)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lower()[1:])
    write_atomic(path, content.getvalue())
