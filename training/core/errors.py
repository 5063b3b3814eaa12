"""The errors of training.

::

    TrainingError
    ├── DataError          the data set cannot be used as it is
    ├── CheckpointError    a checkpoint is damaged or belongs to another run
    └── ExportError        the exported program's answers differ from the trained model's

Scripts print them as one line and exit with 1.
"""

from marquee.handlers.core.errors import ServingError


class TrainingError(Exception):
    """Base of every error that this package raises on purpose."""


class DataError(TrainingError):
    """The data set cannot be used as it is; the message names the path and what to do."""


class CheckpointError(TrainingError):
    """A checkpoint is damaged or belongs to another configuration."""


class ExportError(TrainingError):
    """The exported program's answers differ from the trained model's."""


class OptimizeError(TrainingError):
    """A variant cannot be built or measured; the message says why, and the other variants are still built."""


def reason_of(error: BaseException) -> str:
    """Why a part of the work failed, in one line, for a table in which the other parts go on.

    The errors of this project say it themselves; of others the kind is named, too.
    """
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
    if isinstance(error, (TrainingError, ServingError)):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
