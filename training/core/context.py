"""The context of a run."""

from dataclasses import dataclass, field

import torch

from marquee.training.core.distributed import ProcessGroup
from marquee.training.core.progress import Progress
from marquee.training.core.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Everything about a run that is neither its configuration nor its data."""

    folder: RunFolder
    """The folder that it writes to."""
    device: torch.device
    """The device of this process."""
    progress: Progress
    """Where progress is reported."""
    world: ProcessGroup = field(default_factory=ProcessGroup)
    """The processes that train together."""
