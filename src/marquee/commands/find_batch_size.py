"""Find the largest batch whose training step fits in memory, and the throughput of each measured batch size.

On a CPU the largest is predicted from a few small batches, so that the machine never runs out of memory; the fastest
matters more there. Model, optimiser and precision are set as for marquee train. Nothing is written.

Example: marquee find-batch-size --data photos --model.arch resnet18
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
from marquee.training.tools.memory_limit import MemoryLimit, mib

if TYPE_CHECKING:
    from marquee.training.tools.batch_size_finder import BatchSizes


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    data: Path
    """Folder or table of labelled images, or a table of rows."""
    task: Optional[str] = None
    """Task: image-classification (the default), multi-label-classification, tabular-regression or
    tabular-classification."""
    config: Optional[Path] = None
    """YAML file with any of the fields below, or a recipe (quick, finetune, scratch-small, strong); options on the
    command line override it."""
    start: Annotated[int, tyro.conf.arg(name="from")] = 1
    """First batch size to try, a power of two."""
    memory_fraction: float = MemoryLimit.fraction
    """Share of the memory available now that may be used; the rest is for loader processes and file caches."""
    memory_bytes: int = MemoryLimit.size
    """Memory limit in bytes, instead of the fraction; 0: use the fraction."""
    json: bool = False
    """Print the result as one JSON object."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")]

    def __post_init__(self) -> None:
        check_task(self.task, self.run)
        self.limit()
        if self.start < 1 or self.start & (self.start - 1):
            raise ValueError(f"from: expected a power of two, got {self.start}")

    def limit(self) -> MemoryLimit:
        """The memory that may be used."""
        return MemoryLimit(fraction=self.memory_fraction, size=self.memory_bytes)


def main() -> None:
    """Entry point."""
    show_help_if_asked("find-batch-size", Arguments, __doc__)
    default = Arguments(data=tyro.MISSING, run=starting_config())
    arguments = parse_arguments("find-batch-size", Arguments, __doc__, default)
    with interruptible():
        from marquee.training.core.progress import Progress
        from marquee.training.tools.batch_size_finder import find_batch_size
    sizes = find_batch_size(arguments.run, arguments.data, arguments.start, arguments.limit(), Progress())
    if arguments.json:
        print(json.dumps(dataclasses.asdict(sizes)))
    else:
        _print(sizes)


def _print(sizes: "BatchSizes") -> None:
    print(f"{'batch':>8s} {'memory':>12s} {'images/s':>10s}")
    for item in sizes.measured:
        print(f"{item.batch_size:8d} {mib(item.peak_bytes):>12s} {item.images_per_second:10.1f}")
    print(f"memory per image: {sizes.bytes_per_image / 2**20:.2f} MiB, plus {mib(sizes.base_bytes)} for any batch")
    source = "predicted" if sizes.predicted else "measured"
    conditions = f"in {mib(sizes.limit_bytes)} on {sizes.device} in {sizes.precision}"
    print(f"largest batch {conditions}: {sizes.largest} ({source})")
    print(f"fastest measured batch: {sizes.fastest}; next: --loop.batch-size {sizes.fastest}")
