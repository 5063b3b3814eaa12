"""Logits -> one of several labels, with calibrated probabilities."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ..core.arrays import Arrays
from ..core.counters import Family, Increment, Observation, zeros
from ..core.errors import BundleError
from ..core.oip.metadata import OutputTensor
from ..core.output import CalibrationSpec, OutputSpec
from .distance import distance_of
from .label_answers import check_golden, difference
from .label_tensors import label_tensors
from .outside import OUTSIDE, names_outside, read_outside

if TYPE_CHECKING:
    from ..core.spec import ModelSpec, VariantSpec

LOGITS, FEATURES, DISTANCE = "logits", "features", "distance"
"""Arrays: (N, labels) and (N, D) of an engine; (N,), the out-of-distribution score."""
LOGITS_AND_DISTANCE = "logits_and_distance"
"""(N, labels + 1), only in bundles of earlier versions, whose programs computed the distance."""

MAX_CLASSES = 100
"""Classes that are counted one by one; the rest, by their index in the bundle, are counted as :data:`REST`."""
REST = "other"
"""The name under which the rest is counted; with underscores where a class has it."""

PREDICTIONS = Family(name="marquee_predictions_total", labels=("class",))
ABSTAINED = Family(name="marquee_abstained_total", labels=("reason",))
CONFIDENCE = Family(
    name="marquee_confidence",
    unit="Probability",
    bounds=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999),
)
DISTANCES = Family(name="marquee_distance", unit="Ratio", bounds=(0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 5, 10))
REASONS = ("unfamiliar", "low_confidence")


@dataclass(frozen=True, kw_only=True)
class ClassificationCalibration(CalibrationSpec):
    """What turns logits into probabilities that can be trusted."""

    kind: Literal["classification"] = "classification"
    temperature: float = 1.0
    """Logits are divided by it before the softmax; 1 leaves the model's own confidence."""
    min_probability: float = 0.0
    """An answer whose likeliest label has less is marked as abstained (``low_confidence``)."""
    max_distance: float | None = None
    """An answer whose features lie further from those of training is marked as abstained (``unfamiliar``). None: none
    is, whether the distance is measured or not."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"min_probability: expected 0 to 1, got {self.min_probability}")
        if self.max_distance is not None and self.max_distance <= 0:
            raise ValueError(f"max_distance: expected a positive number, got {self.max_distance}")
        if self.temperature <= 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class ClassificationSpec(OutputSpec):
    """How logits become an answer."""

    may_be_several: ClassVar[bool] = False
    """Whether an item may have several labels."""

    kind: Literal["classification", "multi-label-classification"] = "classification"
    labels: tuple[str, ...]
    """Class names; position = index of the logit."""
    top_k: int = 5
    """How many labels an answer ranks, the likeliest first (fewer when there are fewer labels)."""
    columns: tuple[str, ...] = ()
    """Names of the features, where the engine gives the array ``outside``, in its order."""
    calibration: ClassificationCalibration = field(default_factory=ClassificationCalibration)
    """The first variant's, and that of variants without one of their own."""

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise ValueError(f"labels: expected at least 2, got {len(self.labels)}")
        if len(set(self.labels)) != len(self.labels):
            repeated = next(label for label in self.labels if self.labels.count(label) > 1)
            raise ValueError(f"labels: {repeated!r} is there twice")
        if self.top_k < 1:
            raise ValueError(f"top_k: expected at least 1, got {self.top_k}")

    def create(self, variant: "VariantSpec", folder: Path | None) -> "Classification":
        """See :class:`marquee.handlers.core.output.OutputSpec`."""
        return Classification(self, variant, folder)

    def check_names(self, names: tuple[str, ...]) -> None:
        """Raises ValueError for anything but logits, with or without features, or with ``outside``."""
        if names == (LOGITS, OUTSIDE):
            return
        if len(set(names)) != len(names) or sum(name != FEATURES for name in names) != 1:
            raise ValueError(f"expected {LOGITS}, with or without {FEATURES}, got {', '.join(names)}")
        if unknown := set(names) - {LOGITS, FEATURES, LOGITS_AND_DISTANCE}:
            raise ValueError(f"expected {LOGITS}, with or without {FEATURES}, got {unknown.pop()!r}")

    def describe(self) -> dict[str, Any]:
        """The labels in the order of the logits."""
        return {"labels": list(self.labels)}

    def tensors(self, variant: "VariantSpec") -> Sequence[OutputTensor]:
        """See :class:`marquee.handlers.core.output.OutputSpec`."""
        return label_tensors(
            self.labels,
            may_be_several=self.may_be_several,
            has_distance=measures_distance(variant),
            has_outside=OUTSIDE in variant.outputs,
        )


@dataclass(frozen=True)
class Prediction:
    """The answer for one item."""

    ranking: tuple[tuple[int, str, float], ...]
    """(index, label, probability) of the ``top_k`` likeliest labels, the likeliest first."""
    probabilities: np.ndarray
    """float64, shape (labels,), sums to 1 unless each label is a decision of its own."""
    names: tuple[str, ...] = ()
    """The label of each probability."""
    labels: tuple[str, ...] | None = None
    """The item's labels, the likeliest first, where it may have several; otherwise None."""
    distance: float | None = None
    """How far its features lie from those of training, about 1 for an input like them (see
    :mod:`marquee.handlers.outputs.distance`); None when the model does not measure it."""
    outside: tuple[str, ...] | None = None
    """Features in which the item lies outside of what training saw; None when the model does not say it."""
    abstained: str | None = None
    """Why the answer should not be used: ``unfamiliar`` or ``low_confidence``; None when it may."""
    counted: frozenset[str] | None = None
    """Labels that metrics count by name; None: all."""
    rest: str = REST
    """The name under which metrics count the others."""

    @property
    def index(self) -> int:
        """Index of the likeliest label."""
        return self.ranking[0][0]

    @property
    def label(self) -> str:
        """The likeliest label."""
        return self.ranking[0][1]

    @property
    def probability(self) -> float:
        """Probability of the likeliest label."""
        return self.ranking[0][2]

    def as_json(self) -> dict[str, Any]:
        """As it goes over the wire."""
        return {
            "label": self.label,
            "probability": self.probability,
            **({} if self.labels is None else {"labels": list(self.labels)}),
            "ranking": [{"label": label, "index": i, "probability": p} for i, label, p in self.ranking],
            **({} if self.distance is None else {"distance": self.distance}),
            **({} if self.outside is None else {"unfamiliar": list(self.outside)}),
            "abstained": self.abstained is not None,
            **({"reason": self.abstained} if self.abstained else {}),
        }

    def golden(self) -> dict[str, Any]:
        """All probabilities by label, and the distance; the unfamiliar columns where the model says them."""
        answer: dict[str, Any] = {
            "probabilities": dict(zip(self.names, map(float, self.probabilities), strict=True)),
            "distance": self.distance,
        }
        return answer if self.outside is None else {**answer, "unfamiliar": list(self.outside)}

    def observations(self) -> Iterator[Observation]:
        """Its confidence and distance, and what it said."""
        yield Observation(CONFIDENCE, self.probability)
        if self.distance is not None:
            yield Observation(DISTANCES, self.distance)
        if self.abstained is not None:
            yield Observation(ABSTAINED, labels=(self.abstained,))
        known = self.counted
        for label in (self.label,) if self.labels is None else self.labels:
            yield Observation(PREDICTIONS, labels=(label if known is None or label in known else self.rest,))


class Classification:
    """See :class:`marquee.handlers.core.output.Output`: the softmax of the logits, ranked.

    Args:
        spec: labels, and the calibration of the first variant.
        variant: whose arrays it reads, with its own calibration where it has one.
        folder: of the bundle, with the tables of the distance; None: no arrays of an engine are read.
    """

    def __init__(self, spec: ClassificationSpec, variant: "VariantSpec", folder: Path | None) -> None:
        calibration = variant.calibration
        self.spec = spec
        self.calibration = calibration if isinstance(calibration, ClassificationCalibration) else spec.calibration
        self.distance = None if folder is None else distance_of(variant, folder)
        """The tables that distances are computed from; None where the engine gives no features."""
        self.measures_distance = measures_distance(variant)
        self._counted = frozenset(spec.labels[:MAX_CLASSES])
        self._rest = REST
        while self._rest in spec.labels:
            self._rest += "_"

    def read(self, arrays: Arrays) -> Arrays:
        """``logits``, float64 (N, labels).

        Where the engine gives what they need: ``distance``, float64 (N,), and ``outside``, bool (N, columns).
        """
        joined = arrays.get(LOGITS_AND_DISTANCE)
        logits = (arrays[LOGITS] if joined is None else joined[:, :-1]).astype(np.float64)
        labels = len(self.spec.labels)
        if logits.ndim != 2 or logits.shape[1] != labels:
            raise BundleError(f"the engine gave {logits.shape[-1]} logits for {labels} labels")
        if not np.isfinite(logits).all():
            raise BundleError("the engine gave logits that are not finite")
        if OUTSIDE in arrays:
            return {LOGITS: logits, OUTSIDE: read_outside(arrays[OUTSIDE], self.spec.columns)}
        if joined is None and self.distance is None:
            return {LOGITS: logits}
        try:
            distance = joined[:, -1] if self.distance is None else self.distance(arrays[FEATURES])  # type: ignore[index]
        except (TypeError, ValueError) as error:
            raise BundleError(f"the engine gave features that do not fit the table of distances: {error}") from error
        if not np.isfinite(distance).all():
            raise BundleError("the engine gave features that are not finite")
        return {LOGITS: logits, DISTANCE: distance.astype(np.float64)}

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float64 logits (N, labels) -> float64 probabilities (N, labels), with the temperature."""
        return self.activation(logits / self.calibration.temperature)

    @staticmethod
    def activation(logits: np.ndarray) -> np.ndarray:
        """float64 (N, labels) -> float64 probabilities (N, labels)."""
        return softmax(logits)

    def decisions(self, probabilities: np.ndarray) -> np.ndarray:
        """float64 (N, labels) -> what is answered: int64 (N,), the index of the likeliest label."""
        result: np.ndarray = probabilities.argmax(axis=1)
        return result

    def confidence(self, probabilities: np.ndarray) -> float:
        """float64 (labels,) -> probability that the answer is right: of the likeliest label."""
        return float(probabilities.max())

    def uncalibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """float64 (labels,) -> what they would be at temperature 1.

        softmax(z) from softmax(z / T): the logarithm gives z / T up to a constant, which softmax ignores.
        """
        temperature = self.calibration.temperature
        if temperature == 1:
            return probabilities
        powers = np.asarray((probabilities / probabilities.max()) ** temperature)
        return np.asarray(powers / powers.sum())

    def names(self, probabilities: np.ndarray, order: np.ndarray) -> tuple[str, ...] | None:
        """The labels of one item, where it may have several."""
        return None

    def predictions(self, arrays: Arrays) -> list[Prediction]:
        """One a row: temperature, ranking and thresholds applied; ties go to the lower index."""
        probabilities = self.probabilities(arrays[LOGITS])
        distances = arrays[DISTANCE].tolist() if DISTANCE in arrays else [None] * len(probabilities)
        outside: list[tuple[str, ...] | None] = [None] * len(probabilities)
        if OUTSIDE in arrays:
            outside = [*names_outside(arrays[OUTSIDE], self.spec.columns)]
        return [self._rank(*row) for row in zip(probabilities, distances, outside, strict=True)]

    def _rank(self, probabilities: np.ndarray, distance: float | None, outside: tuple[str, ...] | None) -> Prediction:
        names, fitted = self.spec.labels, self.calibration
        order = np.argsort(-probabilities, kind="stable")
        ranking = tuple((int(i), names[i], float(probabilities[i])) for i in order[: self.spec.top_k])
        abstained = None
        if fitted.max_distance is not None and distance is not None and distance > fitted.max_distance:
            abstained = "unfamiliar"
        elif ranking[0][2] < fitted.min_probability:
            abstained = "low_confidence"
        return Prediction(
            ranking=ranking,
            probabilities=probabilities,
            names=names,
            labels=self.names(probabilities, order),
            distance=distance,
            outside=outside,
            abstained=abstained,
            counted=self._counted,
            rest=self._rest,
        )

    def differences(self, arrays: Arrays, others: Arrays, by: "Classification | None" = None) -> np.ndarray:
        """float64 (N,): the largest difference of a probability."""
        apart = np.abs(self.probabilities(arrays[LOGITS]) - (by or self).probabilities(others[LOGITS]))
        result: np.ndarray = apart.max(axis=1)
        return result

    def agreement(self, arrays: Arrays, others: Arrays, by: "Classification | None" = None) -> np.ndarray:
        """Bool (N,): whether both answer the same label, or the same labels."""
        other = by or self
        return same(
            self.decisions(self.probabilities(arrays[LOGITS])), other.decisions(other.probabilities(others[LOGITS]))
        )

    def check_golden(self, expected: Mapping[str, Any]) -> None:
        """Raises ValueError where there is not a probability for each label."""
        check_golden(expected, self.spec.labels)

    def difference(self, expected: Mapping[str, Any], answer: Mapping[str, Any], tolerance: float) -> str | None:
        """See :meth:`marquee.handlers.core.output.Output.difference`; the distance has a tolerance of its own."""
        return difference(expected, answer, self.spec.labels, tolerance)

    def zeros(self) -> list[Increment]:
        """See :meth:`marquee.handlers.core.output.Output.zeros`."""
        series = zeros(CONFIDENCE)
        if self.measures_distance:
            series += zeros(DISTANCES)
        for reason in REASONS:
            series += zeros(ABSTAINED, reason)
        others = (self._rest,) if len(self.spec.labels) > MAX_CLASSES else ()
        for label in (*self.spec.labels[:MAX_CLASSES], *others):
            series += zeros(PREDICTIONS, label)
        return series


def classification_of(spec: "ModelSpec") -> ClassificationSpec:
    """The output of a model that gives labels.

    Raises:
        TypeError: it gives something else.
    """
    if not isinstance(spec.output, ClassificationSpec):
        raise TypeError(f"expected a model that gives labels, got one of kind {spec.output.kind!r}")
    return spec.output


def measures_distance(variant: "VariantSpec") -> bool:
    """Whether an answer of this variant has a feature distance."""
    return variant.outputs not in ((LOGITS,), (LOGITS, OUTSIDE))


def same(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Bool (N,): equal indices (N,), or equal rows (N, labels)."""
    equal: np.ndarray = np.asarray(first == second)
    return np.asarray(equal.all(axis=1)) if equal.ndim == 2 else equal


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


SPEC, CALIBRATION = ClassificationSpec, ClassificationCalibration
