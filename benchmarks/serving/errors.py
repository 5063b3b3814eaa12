"""The one error of this package's contenders."""

from marquee.training.errors import TrainingError


class ContenderError(TrainingError):
    """A contender did not start, answers wrongly or not at all; the benchmark goes on without it and says so."""
