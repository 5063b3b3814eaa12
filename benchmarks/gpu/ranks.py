"""A training run of which every process says what weights it ended with; started by torchrun.

``torchrun -m benchmarks.gpu.ranks CONFIG DATA OUT``: the arguments are those of :mod:`benchmarks.gpu.training`. Each
process writes ``OUT.rank-N``: the SHA-256 of its network's weights and buffers, and ends with torchrun.
"""

import ctypes
import hashlib
import signal
import sys
from pathlib import Path

from torch import nn

from benchmarks.gpu import training
from marquee.training.core.checkpoint import TrainingState
from marquee.training.core.loop import Trainer

_PR_SET_PDEATHSIG = 1
"""Of ``<sys/prctl.h>``."""


def digests(out: Path) -> list[str]:
    """What the processes of a run have written, in no order."""
    return [path.read_text("utf-8") for path in out.parent.glob(f"{out.name}.rank-*")]


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write_digests(out: Path) -> None:
    """Makes every trainer of this process write its weights' digest when it has fitted."""
    original = Trainer.fit

    def fit(self: Trainer, state: TrainingState) -> TrainingState:
        ended = original(self, state)
        out.with_name(f"{out.name}.rank-{self.world.rank}").write_text(_digest(self.model), "utf-8")
        return ended

    Trainer.fit = fit  # type: ignore[method-assign]


def _end_with_parent() -> None:
    """On Linux, kills this process when torchrun ends, which starts each in a session of its own."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_parent()
    _write_digests(Path(sys.argv[3]))
    sys.exit(training.main())
