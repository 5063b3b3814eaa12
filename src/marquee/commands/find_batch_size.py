"""Find the largest batch whose training step fits in memory, and how many images a second each measured batch gives.

On a CPU the largest is predicted from a few small batches, so that the machine never runs out of memory; what counts
there is the fastest. Model, optimiser and precision are set as for marquee train. Nothing is written.

Example: marquee find-batch-size --data photos --model.arch resnet18
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import tyro

from marquee.commands.cli import config_file, parse_arguments
from marquee.commands.main import interruptible
from marquee.commands.run_help import show_help_if_asked
from marquee.training.config import RunConfig
from marquee.training.memory_limit import MemoryLimit, mib

if TYPE_CHECKING:
    from marquee.training.batch_size_finder import BatchSizes


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    data: Path
    """Folder or table of labelled images."""
    config: Optional[Path] = None
    """YAML file with any of the fields below, or a recipe (quick, finetune, scratch-small, strong); the command
    line wins over it."""
    start: Annotated[int, tyro.conf.arg(name="from")] = 1
    """First batch size to try, a power of two."""
    memory_fraction: float = MemoryLimit.fraction
    """Share of the memory available now that may be used; the rest is for loader processes and file caches."""
    memory_bytes: int = MemoryLimit.size
    """The limit in bytes, in place of the fraction; 0: by the fraction."""
    json: bool = False
    """Print the result as one JSON object."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        self.limit()
        if self.start < 1 or self.start & (self.start - 1):
            raise ValueError(f"from: expected a power of two, got {self.start}")

    def limit(self) -> MemoryLimit:
        """The memory that may be used."""
        return MemoryLimit(fraction=self.memory_fraction, size=self.memory_bytes)


def main() -> None:
    """Entry point."""
    show_help_if_asked("find-batch-size", Arguments, __doc__)
    default = Arguments(data=tyro.MISSING, run=config_file() or RunConfig())
    arguments = parse_arguments("find-batch-size", Arguments, __doc__, default)
    with interruptible():
        from marquee.training.batch_size_finder import find_batch_size
        from marquee.training.progress import Progress
    found = find_batch_size(arguments.run, arguments.data, arguments.start, arguments.limit(), Progress())
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        _print(found)


def _print(found: "BatchSizes") -> None:
    print(f"{'batch':>8s} {'memory':>12s} {'images/s':>10s}")
    for item in found.measured:
        print(f"{item.batch_size:8d} {mib(item.peak_bytes):>12s} {item.images_per_second:10.1f}")
    print(f"memory an image: {found.bytes_per_image / 2**20:.2f} MiB, and {mib(found.base_bytes)} without any")
    how = "predicted" if found.predicted else "measured"
    print(f"largest batch in {mib(found.limit_bytes)} on {found.device} in {found.precision}: {found.largest} ({how})")
    print(f"fastest measured batch: {found.fastest}; next: --loop.batch-size {found.fastest}")
