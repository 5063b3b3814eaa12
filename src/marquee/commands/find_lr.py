"""Find a learning rate: a short training with an increasing rate shows where the loss falls fastest.

Model, optimiser, loss, augmentation and batch size are set as for marquee train. Only the files that --out and --plot
name are written.

Example: marquee find-lr --data photos --model.arch resnet18 --plot lr.svg
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import tyro

from marquee.commands.cli import check_task, parse_arguments, starting_config
from marquee.commands.main import interruptible
from marquee.commands.run_help import show_help_if_asked
from marquee.training.core.config import RunConfig
from marquee.training.core.files import write_json
from marquee.training.tools.rate_range import RateRange, check_plot_name

if TYPE_CHECKING:
    from marquee.training.tools.lr_finder import RateCurve

_ROWS = 25
"""Approximate number of rows in the table."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    data: Path
    """Folder or table of labelled images, or a table of rows."""
    out: Optional[Path] = None
    """Write the curve and the suggestion to this JSON file."""
    plot: Optional[Path] = None
    """Draw the curve into this .svg, .png or .pdf file."""
    task: Optional[str] = None
    """Task: image-classification (the default), multi-label-classification, tabular-regression or
    tabular-classification."""
    config: Optional[Path] = None
    """YAML file with any of the fields below, or a recipe (quick, finetune, scratch-small, strong); options on the
    command line override it."""
    start: Annotated[float, tyro.conf.arg(name="from")] = RateRange.start
    """Learning rate of the first step."""
    stop: Annotated[float, tyro.conf.arg(name="to")] = RateRange.stop
    """Learning rate of the last step."""
    steps: int = RateRange.steps
    """Training steps."""
    json: bool = False
    """Print the curve and the suggestion as one JSON object."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")]

    def __post_init__(self) -> None:
        check_task(self.task, self.run)
        self.rates()

    def rates(self) -> RateRange:
        """The rates to try."""
        return RateRange(start=self.start, stop=self.stop, steps=self.steps)


def main() -> None:
    """Entry point."""
    show_help_if_asked("find-lr", Arguments, __doc__)
    default = Arguments(data=tyro.MISSING, run=starting_config())
    arguments = parse_arguments("find-lr", Arguments, __doc__, default)
    if arguments.plot is not None:
        check_plot_name(arguments.plot)
    with interruptible():
        from marquee.training.core.progress import Progress
        from marquee.training.tools.lr_finder import find_learning_rate, plot_curve
    curve = find_learning_rate(arguments.run, arguments.data, arguments.rates(), Progress())
    if arguments.out is not None:
        write_json(arguments.out, dataclasses.asdict(curve))
    if arguments.plot is not None:
        plot_curve(curve, arguments.plot)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(curve)))
    else:
        _print(curve)


def _print(curve: "RateCurve") -> None:
    print(f"{'rate':>10s} {'loss':>10s} {'smoothed':>10s}")
    every = max(1, len(curve.rates) // _ROWS)
    for rate, loss, smoothed in list(zip(curve.rates, curve.losses, curve.smoothed, strict=True))[::every]:
        print(f"{rate:10.2e} {loss:10.4f} {smoothed:10.4f}")
    if curve.diverged:
        print(f"stopped after {len(curve.rates)} steps: the loss diverged")
    if curve.note:
        print(curve.note)
    if curve.suggestion is not None and curve.tenth_of_lowest is not None:
        print(f"a tenth of the rate at the lowest loss: {curve.tenth_of_lowest:.2e}")
        print(f"steepest descent begins at {curve.suggestion:.2e}; next: --optimizer.lr {curve.suggestion:.1e}")
