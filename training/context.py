"""Where a run takes place."""

from dataclasses import dataclass, field

import torch

from marquee.training.distributed import World
from marquee.training.progress import Progress
from marquee.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Everything about a run that is neither its configuration nor its data."""

    folder: RunFolder
    """What it writes into."""
    device: torch.device
    """That this process computes on."""
    progress: Progress
    """Told about it."""
    world: World = field(default_factory=World)
    """The processes that train together."""
