"""The learning-rate range test (Smith, "Cyclical learning rates for training neural networks", 2017, section 3.3).

The rate grows exponentially over a few real training steps. The loss shows at which rates the model starts to learn and
at which it diverges. The trained weights are discarded.
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

from marquee.training.core.assemble import build_trainer
from marquee.training.core.config import RunConfig
from marquee.training.core.context import RunContext
from marquee.training.core.device import resolve_device
from marquee.training.core.files import write_atomic
from marquee.training.core.loop import NonFiniteLossError, Trainer, deferred_signals
from marquee.training.core.optim import check_optimizer
from marquee.training.core.out_of_memory import explained
from marquee.training.core.progress import Progress
from marquee.training.core.records import read_data
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.sampler import DistributedBatchSampler, Loader
from marquee.training.core.task import task_of
from marquee.training.tools.rate_range import RateRange, check_plot_name

logger = logging.getLogger(__name__)

SMOOTHING = 0.9
"""Decay of the exponential moving average of the loss."""
DIVERGED = 4.0
"""The test ends when the smoothed loss exceeds this many times its lowest value."""
CLEAR = 5.0
"""Number of standard errors that the smoothed loss must fall by to count as a descent."""


@dataclass(frozen=True, kw_only=True)
class RateCurve:
    """The measured losses and the suggested learning rate."""

    rates: tuple[float, ...]
    """The learning rate of each step."""
    losses: tuple[float, ...]
    """The training loss of each step, before its update."""
    smoothed: tuple[float, ...]
    """Bias-corrected exponential moving average of the losses."""
    diverged: bool
    """True if the test ended before the last rate because the loss diverged."""
    suggestion: float | None
    """The rate at which the steepest descent begins; None if there is no clear descent."""
    tenth_of_lowest: float | None
    """A tenth of the rate at the lowest smoothed loss; None if there is no clear descent."""
    note: str
    """A remark about an unusual curve; empty otherwise."""


def find_learning_rate(config: RunConfig, data: Path, rates: RateRange, progress: Progress) -> RateCurve:
    """Trains on ``data`` with an increasing learning rate, from the initial weights of a run.

    Model, optimiser, loss, augmentation, mixing, batch size and precision are as configured; the schedule, the warm-up,
    progressive resizing and the cache of decoded images are not used. No file is written.

    Raises:
        TrainingError: training failed; the message says what happened and what to do.
    """
    task = task_of(config)
    config = replace(config, loop=task.short_loop(config.loop))
    device = resolve_device(config.loop.device)
    task.check(config)
    check_optimizer(config.optimizer)
    manifest, _ = read_data(config, data, progress)
    config = task.resolve(config, manifest)
    network = task.build(config, manifest)
    with tempfile.TemporaryDirectory() as folder, explained(device):
        context = RunContext(folder=RunFolder(Path(folder)), device=device, progress=progress)
        trainer = build_trainer(config, manifest, network, context)
        logger.info(f"{task.title(config)} on {device} in {trainer.precision}, {rates.steps} steps")
        return _sweep(trainer, rates, progress)


def _sweep(trainer: Trainer, rates: RateRange, progress: Progress) -> RateCurve:
    losses: list[float] = []
    smoothed: list[float] = []
    diverged = False
    trainer.set_mode(epoch=0)
    batches = _endless(trainer.train_loader, trainer.sampler)
    # A Ctrl-C while the loader's process is being forked would be lost: Python ignores exceptions of fork hooks.
    with deferred_signals() as signals, progress.task("learning rate", rates.steps) as task:
        for step, (rate, batch) in enumerate(zip(rates.rates(), batches, strict=False)):
            try:
                loss, _ = trainer.step(tuple(batch), step, rate)
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


def _endless(loader: Loader, sampler: DistributedBatchSampler) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for epoch in itertools.count():
        sampler.epoch = epoch
        yield from loader


def _bias_corrected_mean(values: list[float]) -> float:
    """Bias-corrected exponential moving average (Kingma and Ba, 2015, section 3)."""
    weights = SMOOTHING ** np.arange(len(values))[::-1]
    return float(np.average(values, weights=weights))


def judge(rates: list[float], losses: list[float], diverged: bool) -> RateCurve:
    """Finds the steepest descent of the smoothed loss.

    Lines of smoothed loss against the logarithm of the rate are fitted to sliding windows of a tenth of the steps, up
    to the lowest loss. The suggestion is the rate at which the steepest line begins; not its middle, since the smoothed
    loss lags by some steps.

    A descent is clear if the smoothed loss falls by :data:`CLEAR` standard errors below the mean of the first window;
    the error is estimated from the differences between neighbouring steps.

    Args:
        rates: increasing learning rates.
        losses: the loss at each rate.
        diverged: whether the test ended early because the loss diverged.
    """
    smoothed = [_bias_corrected_mean(losses[: count + 1]) for count in range(len(losses))]
    window = max(5, len(losses) // 10)
    suggestion = tenth_of_lowest = None
    if len(losses) < 2 * window:
        note = "the loss diverged within the first steps; lower --from"
    else:
        lowest = window + int(np.argmin(smoothed[window:]))
        if _falls_clearly(losses, smoothed, window, lowest):
            note = _edge_note(lowest, window, len(losses), diverged)
            suggestion = rates[_steepest(rates, smoothed, window, lowest)]
            tenth_of_lowest = rates[lowest] / 10
        else:
            note = "no clear descent: the fall of the loss is within the noise; try other values of --from and --to"
    return RateCurve(
        rates=tuple(rates),
        losses=tuple(losses),
        smoothed=tuple(smoothed),
        diverged=diverged,
        suggestion=suggestion,
        tenth_of_lowest=tenth_of_lowest,
        note=note,
    )


def _falls_clearly(losses: list[float], smoothed: list[float], window: int, lowest: int) -> bool:
    initial = float(np.mean(losses[:window]))
    variance = float(np.var(np.diff(losses[: lowest + 1]))) / 2  # a difference has the variance of both neighbours
    # Variances of an exponential mean and of the mean over the first steps.
    error = np.sqrt(variance * ((1 - SMOOTHING) / (1 + SMOOTHING) + 1 / window))
    return bool(initial - smoothed[lowest] > CLEAR * error)


def _steepest(rates: list[float], smoothed: list[float], window: int, lowest: int) -> int:
    """The step at which the steepest line begins."""
    logs = np.log10(rates)
    starts = range(max(1, lowest - window + 2))
    slopes = [np.polyfit(logs[i : i + window], smoothed[i : i + window], 1)[0] for i in starts]
    return int(np.argmin(slopes))


def _edge_note(lowest: int, window: int, steps: int, diverged: bool) -> str:
    if not diverged and lowest >= steps - window:
        return "the loss was still falling at the last rate; raise --to"
    return ""


def plot_curve(curve: RateCurve, path: Path) -> None:
    """Plots raw and smoothed loss against the learning rate, with the suggestion, as an .svg, .png or .pdf file."""
    from matplotlib.figure import Figure  # slow to import, and needed only for a plot

    check_plot_name(path)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="0.75", label="loss per step")
    axes.plot(curve.rates, curve.smoothed, color="C0", label="smoothed")
    if curve.suggestion is not None:
        axes.axvline(curve.suggestion, color="C1", label=f"suggestion {curve.suggestion:.1e}")
    if curve.tenth_of_lowest is not None:
        axes.axvline(curve.tenth_of_lowest, color="C2", linestyle="--", label="a tenth of the rate at the lowest loss")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=curve.note or None)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.lower()[1:])
    write_atomic(path, content.getvalue())
