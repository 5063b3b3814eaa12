"""What every kind of output offers: the arrays that an engine gives -> answers, and their comparison."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .. import outputs
from .counters import Increment, Observation
from .kinds import of_kind
from .oip.metadata import OutputTensor
from .schema import Tagged

if TYPE_CHECKING:  # a command line reads specs without numpy
    import numpy as np

    from .arrays import Arrays
    from .spec import VariantSpec


class Prediction(Protocol):
    """The answer for one item."""

    def as_json(self) -> dict[str, Any]:
        """As it goes over the wire."""

    def golden(self) -> dict[str, Any]:
        """Everything that was computed, as JSON: what a golden answer stores."""

    def observations(self) -> Iterable[Observation]:
        """What is counted of it."""


class Output(Protocol):
    """A kind of output, with what was fitted for one variant."""

    def read(self, arrays: "Arrays") -> "Arrays":
        """Checks what an engine gave, and computes in float64 what an answer starts from.

        Args:
            arrays: by the names of :attr:`marquee.handlers.core.spec.VariantSpec.outputs`, at least one row each.

        Raises:
            BundleError: shapes or values are not what this output needs.
        """

    def predictions(self, arrays: "Arrays") -> Sequence[Prediction]:
        """One a row of what :meth:`read` gave."""

    def differences(self, arrays: "Arrays", others: "Arrays", by: Any = None) -> "np.ndarray":
        """float64 (N,): the largest difference of a served number of each item; what tolerances are about.

        Args:
            arrays: what :meth:`read` gave.
            others: of another variant, for the same items.
            by: that variant's output; None: this one.
        """

    def agreement(self, arrays: "Arrays", others: "Arrays", by: Any = None) -> "np.ndarray":
        """Bool (N,): whether both say the same about an item; arguments as in :meth:`differences`."""

    def check_golden(self, expected: Mapping[str, Any]) -> None:
        """Raises ValueError, TypeError or KeyError where a stored answer is not one of :meth:`Prediction.golden`."""

    def difference(self, expected: Mapping[str, Any], answer: Mapping[str, Any], tolerance: float) -> str | None:
        """Compares an answer with the golden one.

        Args:
            expected: what :meth:`Prediction.golden` gave when the model was evaluated.
            answer: what it gives here, or :meth:`Prediction.as_json` as a client got it.
            tolerance: of the variant.

        Returns:
            None when equal, else a line that says what was expected and what came.
        """

    def zeros(self) -> list[Increment]:
        """Every series of the metrics that :meth:`Prediction.observations` may count, at 0."""


class CalibrationSpec(Tagged):
    """What was fitted on validation data: the part of an output that each variant may have of its own."""

    kind: str

    @classmethod
    def of_kind(cls, kind: str) -> type[Any]:
        """See :class:`marquee.handlers.core.schema.Tagged`."""
        spec: type[Any] = of_kind(outputs, kind, "CALIBRATION")
        return spec


class OutputSpec(Tagged):
    """The part of ``spec.json`` that says what an answer is; a frozen dataclass for each kind."""

    quality: ClassVar[str] = "accuracy"
    """What the quality of answers is measured by, where variants are compared."""

    kind: str
    calibration: Any
    """A :class:`CalibrationSpec`: the first variant's, and that of variants without one of their own."""

    @classmethod
    def of_kind(cls, kind: str) -> type[Any]:
        """See :class:`marquee.handlers.core.schema.Tagged`."""
        spec: type[Any] = of_kind(outputs, kind)
        return spec

    def create(self, variant: "VariantSpec", folder: Path | None) -> Output:
        """Creates the output for a variant, with the variant's own calibration.

        Args:
            variant: of the bundle.
            folder: of the bundle, with the variant's files; None for an output that compares and encodes answers, but
                does not read the arrays of an engine. An archive need not contain the files of every variant.

        Raises:
            BundleError: a file that it needs is missing or damaged.
        """
        raise NotImplementedError

    def tensors(self, variant: "VariantSpec") -> Sequence[OutputTensor]:
        """The tensors of an answer of the Open Inference Protocol, beside those that every model has.

        Args:
            variant: of the bundle, which is served.
        """
        return ()

    def check_names(self, names: tuple[str, ...]) -> None:
        """Raises ValueError where an engine that gives arrays of these names does not give what is needed."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What clients may know of it."""
        raise NotImplementedError
