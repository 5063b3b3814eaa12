"""The log of a run's epochs."""

import json
import logging
import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from marquee.training.core.files import write_atomic
from marquee.training.core.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class MetricsLog:
    """Metrics of each epoch as JSON lines and, where it is installed, for TensorBoard.

    Args:
        folder: the run's folder; None logs nothing (ranks other than 0).
        upto: number of completed epochs; later lines, of epochs that a resumed run repeats, are removed.
    """

    def __init__(self, folder: Path | None, upto: int) -> None:
        self._path = RunFolder(folder).metrics if folder else None
        self._board = _board(folder, upto + 1) if folder else None
        if self._path is not None and self._path.exists():
            kept = [line for line in self._path.read_text("utf-8").splitlines() if _epoch_of(line) <= upto]
            write_atomic(self._path, "".join(line + "\n" for line in kept))

    def write(self, epoch: int, values: dict[str, float]) -> None:
        """Appends one epoch."""
        if self._path is None:
            return
        with open(self._path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"epoch": epoch, **values}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        if self._board is None:
            return
        for name, value in values.items():
            self._board.add_scalar(name.replace("_", "/", 1), value, epoch)
        self._board.flush()

    def close(self) -> None:
        """Closes the TensorBoard file."""
        if self._board is not None:
            self._board.close()


def _board(folder: Path, purge_step: int) -> "SummaryWriter | None":
    # No `except ImportError`: some extension modules turn Ctrl-C during their import into one.
    if find_spec("tensorboard") is None:
        logger.info(f"tensorboard is not installed: the metrics are in {RunFolder(folder).metrics} alone")
        return None
    from torch.utils.tensorboard import SummaryWriter  # most processes that import this module log nothing

    return SummaryWriter(str(RunFolder(folder).tensorboard), purge_step=purge_step)


def _epoch_of(line: str) -> float:
    """The epoch of a metrics line; infinite for one that a crash truncated."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return math.inf
