"""Golden samples: raw input files with the answers that training's evaluation gave for them.

They travel in the bundle and are replayed wherever it is loaded: an endpoint counts as ready only when it gives the
same answers. Every variant has its own, for a quantized one does not answer as the original does: the file
``VariantSpec.expected`` holds a list of ``{"file", "label", "probabilities", "distance"}``.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import BundleError, InputError
from .predictor import Predictor
from .spec import ModelSpec, VariantSpec

DISTANCE_SLACK = 10
"""Tolerances by which a feature distance may differ, relative to its size."""


@dataclass(frozen=True)
class GoldenSample:
    """One raw input and the answer that it must get."""

    file: str
    """Path inside the bundle."""
    data: bytes
    """The file's content, as a client would send it."""
    label: str
    """True label, from the data set."""
    probabilities: np.ndarray
    """float64 (labels,): evaluation's answer."""
    distance: float | None = None
    """Evaluation's feature distance; None when the model does not measure it."""


def read_golden(folder: Path, spec: ModelSpec, variant: VariantSpec) -> list[GoldenSample]:
    """The golden samples of the bundle ``folder`` with the answers of ``variant``, at least one.

    Raises:
        BundleError: there are none, the file of answers is damaged, or it and the spec name different files.
    """
    path = Path(folder) / variant.expected
    try:
        samples = [
            GoldenSample(
                file=entry["file"],
                data=(Path(folder) / entry["file"]).read_bytes(),
                label=entry["label"],
                probabilities=np.asarray(entry["probabilities"], dtype=np.float64),
                distance=entry.get("distance"),
            )
            for entry in json.loads(path.read_text("utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: golden samples are not readable: {error!r}") from error
    if not samples:
        raise BundleError(f"{path}: no golden samples; a model that cannot be checked is not served")
    answers = {other.expected for other in spec.variants}
    if {*answers, *(sample.file for sample in samples)} != set(spec.golden.files):
        raise BundleError(f"{path}: does not name the golden files that spec.json names")
    for sample in samples:
        if sample.probabilities.shape != (len(spec.labels),):
            raise BundleError(f"{path}: {sample.file} has no probability for each of {len(spec.labels)} labels")
    return samples


def difference(
    sample: GoldenSample,
    spec: ModelSpec,
    answer: dict[str, float] | InputError,
    tolerance: float,
    distance: float | None = None,
) -> str | None:
    """Compares one answer with a golden one.

    Args:
        sample: what must come out.
        spec: for the labels.
        answer: label -> probability, the likeliest first (all labels, or the served top k); or the item's error.
        tolerance: largest absolute difference of a probability that counts as equal.
        distance: the answer's feature distance. It may differ by ``DISTANCE_SLACK`` times the tolerance, relative to
            its size: it sums up hundreds of features.

    Returns:
        None when equal, else a line that says what was expected and what came.
    """
    expected = dict(zip(spec.labels, sample.probabilities, strict=True))
    best = max(expected, key=expected.__getitem__)
    if isinstance(answer, InputError):
        return f"{sample.file}: expected {best!r}, got the error {answer.code}: {answer.message}"
    got = next(iter(answer))
    apart = max(abs(probability - expected.get(label, np.inf)) for label, probability in answer.items())
    # Two labels within the tolerance of each other may change places without any answer being wrong.
    same_label = expected.get(got, -1.0) >= expected[best] - tolerance
    if same_label and apart <= tolerance:
        return _distance_difference(sample, distance, tolerance)
    return (
        f"{sample.file}: expected {best!r} with probability {expected[best]:.6f}, got {got!r} with {answer[got]:.6f} "
        f"(largest difference {apart:.2g}, tolerance {tolerance:.2g})"
    )


def _distance_difference(sample: GoldenSample, distance: float | None, tolerance: float) -> str | None:
    if sample.distance is None:
        return None
    allowed = DISTANCE_SLACK * tolerance * max(1.0, abs(sample.distance))
    if distance is not None and abs(distance - sample.distance) <= allowed:
        return None
    return f"{sample.file}: expected the distance {sample.distance:.6f}, got {distance} (tolerance {allowed:.2g})"


def replay(predictor: Predictor) -> list[str]:
    """Asks ``predictor`` for every golden sample of its own bundle; returns the differences, none when all is well."""
    spec, tolerance = predictor.spec, predictor.variant.tolerance
    samples = read_golden(predictor.folder, spec, predictor.variant)
    answers = predictor.predict([sample.data for sample in samples])
    found = []
    for sample, answer in zip(samples, answers, strict=True):
        if isinstance(answer, InputError):
            found.append(difference(sample, spec, answer, tolerance))
        else:
            by_label = _by_label(spec, answer.probabilities)
            found.append(difference(sample, spec, by_label, tolerance, answer.distance))
    return [line for line in found if line is not None]


def prove(predictor: Predictor) -> None:
    """Replays the golden samples.

    Raises:
        BundleError: an answer differs; the message shows the first.
    """
    if differences := replay(predictor):
        raise BundleError(f"{len(differences)} golden answers differ from evaluation's; first: {differences[0]}")


def _by_label(spec: ModelSpec, probabilities: np.ndarray) -> dict[str, float]:
    order = np.argsort(-probabilities, kind="stable")
    return {spec.labels[i]: float(probabilities[i]) for i in order}
