"""What a selection needs of a task: folds, the metric to compare, the constant answer and which settings can work."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from marquee.training.core.config import RunConfig
from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.selection.measure import Measure

C = TypeVar("C", bound=RunConfig)
"""The task's configuration."""

Metrics = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Folds:
    """The folds of a data set."""

    manifests: Sequence[Any]
    """One for each fold: what it holds out is ``test``."""
    items: int
    """Number of items that are divided into folds."""
    test_per_train: float | None = None
    """Mean over the folds of held-out items divided by the others; None: 1 / (k - 1), as in k-fold cross-validation."""
    note: str = ""
    """How the items were divided, where the reader of the report must know."""


class CheapProbe(Protocol):
    """A candidate of the kind ``probe``: what all folds share is computed once."""

    def train(self, manifest: Any, out: Path) -> dict[str, Any]:
        """Fits it on the training items of ``manifest`` and writes a run folder with a bundle; returns the metrics."""


class Selectable(ABC, Generic[C]):
    """One kind of data and answers whose candidates can be compared."""

    unit: ClassVar[str]
    """The plural noun for items, which is also the name of their number in metrics."""
    item: ClassVar[str]
    """The noun for one of them."""
    recorded: ClassVar[tuple[str, ...]]
    """Metrics that are kept of each fold."""
    latency: ClassVar[str]
    """What the latency in the report includes, as a phrase."""
    val_caveat: ClassVar[str]
    """What the validation items were used for besides a measurement, as a clause."""

    @abstractmethod
    def check(self, candidates: "Mapping[str, tuple[str, C]]", base: C) -> None:
        """Checks the settings before anything is read.

        Args:
            candidates: name -> its kind (probe or train) and its configuration.
            base: the configuration that they override.

        Raises:
            TrainingError: a setting cannot work, or differs among candidates that must have it in common.
        """

    @abstractmethod
    def read(self, base: C, data: Path, progress: Progress) -> tuple[Any, list[Rejected]]:
        """The items of a data set, and what is left out.

        Raises:
            DataError: the data set cannot be used.
        """

    @abstractmethod
    def final(self, base: C, manifest: Any) -> tuple[Any, list[str]]:
        """The manifest on which the winner is trained, and warnings about it.

        Raises:
            DataError: the items cannot be split.
        """

    @abstractmethod
    def folds(self, base: C, manifest: Any, count: int) -> Folds:
        """Divides the items; equal contents and seeds give equal folds.

        Raises:
            DataError: there are too few items, or too few of a class.
        """

    @abstractmethod
    def digest_lines(self, manifest: Any) -> list[str]:
        """One line for each item, with everything that determines its fold and its role in training."""

    def baseline(self, folds: Folds) -> list[Metrics]:
        """The metrics of the best constant answer on each fold; none where the report does not show it."""
        return []

    @abstractmethod
    def measure(self, folds: Folds, baseline: Sequence[Metrics]) -> Measure:
        """The metric that candidates are compared by."""

    def unavailable(self, config: C, manifest: Any) -> str:
        """Why a candidate cannot be trained on this machine, in one line; empty if it can.

        Raises:
            TrainingError: it cannot be trained on any.
        """
        return ""

    def probe(self, config: C, folds: Folds, progress: Progress) -> CheapProbe:
        """The probe of a candidate of that kind.

        Raises:
            TrainingError: there is none.
        """
        raise TrainingError(f"kind probe: {self.unit} have no probe; use kind train")
