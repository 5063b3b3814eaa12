"""Predictor: spec + engine + images, without any server. Usable from a notebook.

>>> from marquee.handlers.predictor import Predictor
>>> predictor = Predictor.load("runs/digits/bundle")
>>> predictor.predict(["three.png"])[0].label
'3'
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .batch import Batch, BatchLoader
from .choice import Choice, choices
from .distance import distance_of
from .engines import Engine, load_engine
from .errors import BundleError, InputError
from .host import this_host
from .images import open_image
from .spec import ModelSpec, OutputName, VariantSpec, bundle_digest, read_spec, verify_files

logger = logging.getLogger(__name__)

MAX_BATCH = 64
"""Images that go through the engine at once; more are split, so that memory stays bounded."""
WARM_UP_SECONDS = 10.0
"""After so long no other batch size is tried before a model counts as ready: a large network's sizes are not worth
minutes of starting."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    ranking: tuple[tuple[int, str, float], ...]
    """(index, label, probability) of the ``top_k`` likeliest labels, the likeliest first."""
    probabilities: np.ndarray
    """float64, shape (labels,), sums to 1 unless the task is multi-label."""
    labels: tuple[str, ...] | None = None
    """Multi-label: the image's labels, the likeliest first; None for other tasks."""
    distance: float | None = None
    """How far the image's features lie from those of training, about 1 for an image like them (see
    :mod:`marquee.training.familiarity`); None when the model does not measure it."""
    abstained: str | None = None
    """Why the answer should not be used: ``unfamiliar`` or ``low_confidence``; None when it may."""

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


@dataclass(frozen=True)
class Outputs:
    """What the engine gave for some images."""

    logits: np.ndarray
    """float64 (N, labels), before the temperature."""
    distances: np.ndarray | None
    """float64 (N,): see :attr:`Prediction.distance`."""


class Predictor:
    """Answers for encoded images or prepared arrays."""

    def __init__(
        self,
        spec: ModelSpec,
        variant: VariantSpec,
        engine: Engine,
        digest: str,
        folder: Path,
        reason: str = "",
        decode_threads: int = 1,
    ) -> None:
        self.spec = spec if variant.output is None else replace(spec, output=variant.output)
        """The bundle's, with the variant's own way from logits to an answer."""
        self.variant = variant
        self.digest = digest
        """``sha256:...`` of the bundle (see :func:`marquee.handlers.spec.bundle_digest`)."""
        self.folder = folder
        self.reason = reason
        """Why this variant and no other."""
        self.engine = engine
        self._distance = distance_of(variant, folder)
        self._loader = BatchLoader(spec.image, decode_threads)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str = "cpu",
        variant: str | None = None,
        prove: Callable[["Predictor"], None] | None = None,
        decode_threads: int = 1,
    ) -> "Predictor":
        """Loads the variant of a bundle that suits this machine best, after checking the files' digests.

        A variant that cannot be used (a damaged file, a library that is absent, kernels of another precision) is
        passed over with a warning; the next best is tried.

        Args:
            folder: a bundle, such as ``runs/NAME/bundle``.
            device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
            variant: the name of the only variant to try.
            prove: raises BundleError to refuse a loaded variant (see :func:`marquee.handlers.golden.prove`).
            decode_threads: images of one batch that are decoded at once.

        Raises:
            BundleError: the bundle is incomplete or altered, or no variant can be used.
        """
        folder = Path(folder)
        spec = read_spec(folder)
        verify_files(folder, spec.golden.files)
        refused: list[tuple[str, BundleError]] = []
        for choice in choices(spec, this_host(device), device, variant):
            try:
                predictor = cls._load(spec, choice, folder, device, [name for name, _ in refused], decode_threads)
                if prove is not None:
                    prove(predictor)
            except BundleError as error:
                refused.append((choice.variant.name, error))
                logger.warning("variant %s cannot be used: %s", choice.variant.name, error)
            else:
                return predictor
        if len(refused) == 1:
            raise refused[0][1]
        raise BundleError("; ".join(f"variant {name!r}: {error}" for name, error in refused))

    @classmethod
    def _load(
        cls, spec: ModelSpec, choice: Choice, folder: Path, device: str, refused: list[str], decode_threads: int
    ) -> "Predictor":
        verify_files(folder, choice.variant.files)
        engine = load_engine(spec, choice.variant, folder, device)
        reason = f"{choice.reason}; {', '.join(refused)} could not be used" if refused else choice.reason
        return cls(spec, choice.variant, engine, bundle_digest(folder), folder, reason, decode_threads)

    def predict(self, images: Sequence[bytes | str | Path]) -> list[Prediction | InputError]:
        """Answers for image files, in their order; a bad one yields its error and leaves the others alone.

        Args:
            images: the files' contents, or their paths.

        Raises:
            OSError: a file cannot be read.
        """
        return self.predict_batch(self.prepare([self._open(data) for data in images]))

    def _open(self, data: bytes | str | Path) -> Image.Image | InputError:
        data = Path(data).read_bytes() if isinstance(data, (str, Path)) else data
        try:
            return open_image(data, self.spec.image)
        except InputError as error:
            return error

    def prepare(self, images: Sequence[Image.Image | InputError]) -> Batch:
        """Opened images -> the engine's input (see :class:`marquee.handlers.batch.BatchLoader`)."""
        return self._loader.load(images)

    def predict_batch(self, batch: Batch) -> list[Prediction | InputError]:
        """Answers for what :meth:`prepare` gave, in the order of its images, with the errors in their places."""
        return batch.with_errors(self.answer(self.outputs(batch.pixels)) if len(batch.pixels) else [])

    def warm_up(self, largest: int) -> list[int]:
        """Runs the engine with every batch size up to ``largest``, so that no client waits for what a first one costs.

        Engines choose kernels and memory for a size when they first meet it, which makes that call longer
        (benchmarks/serving); later ones cost what a graph for this one size would, so batches are not padded to a few
        sizes. After :data:`WARM_UP_SECONDS` the sizes that are left are not tried.

        Args:
            largest: the largest batch; more than :data:`MAX_BATCH` never go through the engine at once.

        Returns:
            The sizes that were run.

        Raises:
            BundleError: the engine fails with a size.
        """
        side, channels = self.spec.image.crop, self.spec.image.channels
        largest = max(1, min(largest, MAX_BATCH))
        sizes: list[int] = []
        until = time.monotonic() + WARM_UP_SECONDS
        # What most requests will meet, one image and full batches, comes first.
        for size in dict.fromkeys([1, largest, *range(2, largest)]):
            if sizes and time.monotonic() > until:
                break
            try:
                self.outputs(np.zeros((size, side, side, channels), np.uint8))
            except Exception as error:  # an engine's library raises what it likes
                line = " ".join(str(error).split())[:300]
                raise BundleError(f"the engine cannot run a batch of {size}: {line}") from error
            sizes.append(size)
        return sizes

    def predict_arrays(self, arrays: Sequence[np.ndarray]) -> list[Prediction]:
        """Answers for prepared uint8 arrays of shape (crop, crop, channels), in their order."""
        return self.answer(self.outputs(np.stack(arrays))) if arrays else []

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (N, crop, crop, channels) -> float64 probabilities (N, labels)."""
        return self.to_probabilities(self.outputs(batch).logits)

    def to_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float64 logits (N, labels) -> float64 probabilities (N, labels), with the spec's temperature."""
        calibrated = logits / self.spec.output.temperature
        return sigmoid(calibrated) if self.spec.multi_label else softmax(calibrated)

    def outputs(self, batch: np.ndarray) -> Outputs:
        """uint8 (N, crop, crop, channels) -> logits and distances.

        Raises:
            BundleError: the engine returned arrays of another shape, or a NaN.
        """
        side, channels = self.spec.image.crop, self.spec.image.channels
        if batch.dtype != np.uint8 or batch.shape[1:] != (side, side, channels):
            raise ValueError(f"expected uint8 (N, {side}, {side}, {channels}), got {batch.dtype} {batch.shape}")
        if not len(batch):
            return Outputs(np.zeros((0, len(self.spec.labels))), None)
        arrays = self._run(batch)
        try:
            distances = self._distances_of(arrays)
        except (TypeError, ValueError) as error:
            raise BundleError(f"the engine gave features that do not fit the table of distances: {error}") from error
        if distances is not None and not np.isfinite(distances).all():
            raise BundleError("the engine gave features that are not finite")
        return Outputs(self._logits_of(arrays), distances)

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (N, crop, crop, channels) with at least one image -> float64 logits (N, labels), and nothing else.

        Raises:
            BundleError: see :meth:`outputs`.
        """
        return self._logits_of(self._run(batch))

    def _run(self, batch: np.ndarray) -> Mapping[OutputName, np.ndarray]:
        """What the engine gives, each array with a row for each image."""
        parts = [self.engine(batch[start : start + MAX_BATCH]) for start in range(0, len(batch), MAX_BATCH)]
        try:
            arrays = {name: np.concatenate([part[name] for part in parts]) for name in self.variant.outputs}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            wanted = ", ".join(self.variant.outputs)
            raise BundleError(f"the engine did not give arrays named {wanted}: {error!r}") from error
        for values in arrays.values():
            if values.ndim != 2 or len(values) != len(batch):
                raise BundleError(f"the engine gave {values.shape} for {len(batch)} images")
        return arrays

    def _logits_of(self, arrays: Mapping[OutputName, np.ndarray]) -> np.ndarray:
        joined = arrays.get("logits_and_distance")  # of a bundle of an earlier version
        logits = (arrays["logits"] if joined is None else joined[:, :-1]).astype(np.float64)
        if logits.shape[1] != len(self.spec.labels):
            raise BundleError(f"the engine gave {logits.shape[1]} logits for {len(self.spec.labels)} labels")
        if not np.isfinite(logits).all():
            raise BundleError("the engine gave logits that are not finite")
        return logits

    def _distances_of(self, arrays: Mapping[OutputName, np.ndarray]) -> np.ndarray | None:
        if "logits_and_distance" in arrays:
            return arrays["logits_and_distance"][:, -1].astype(np.float64)
        return None if self._distance is None else self._distance(arrays["features"]).astype(np.float64)

    def answer(self, outputs: Outputs) -> list[Prediction]:
        """One prediction a row: temperature, ranking and thresholds applied."""
        probabilities = self.to_probabilities(outputs.logits)
        distances = [None] * len(probabilities) if outputs.distances is None else outputs.distances.tolist()
        return [self._rank(row, distance) for row, distance in zip(probabilities, distances, strict=True)]

    def _rank(self, probabilities: np.ndarray, distance: float | None) -> Prediction:
        """float64 (labels,) -> Prediction; ties go to the lower index."""
        output, names = self.spec.output, self.spec.labels
        order = np.argsort(-probabilities, kind="stable")
        ranking = tuple((int(i), names[i], float(probabilities[i])) for i in order[: output.top_k])
        labels = None
        if self.spec.multi_label:
            labels = tuple(names[i] for i in order if probabilities[i] >= output.threshold)
        abstained = None
        if output.max_distance is not None and distance is not None and distance > output.max_distance:
            abstained = "unfamiliar"
        elif ranking[0][2] < output.min_probability:
            abstained = "low_confidence"
        return Prediction(
            ranking=ranking,
            probabilities=probabilities,
            labels=labels,
            distance=distance,
            abstained=abstained,
        )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), in float64."""
    result: np.ndarray = 0.5 * (1 + np.tanh(0.5 * logits))  # the textbook form overflows
    return result


def as_json(prediction: Prediction) -> dict[str, Any]:
    """The answer for one image as it goes over the wire."""
    return {
        "label": prediction.label,
        "probability": prediction.probability,
        **({} if prediction.labels is None else {"labels": list(prediction.labels)}),
        "ranking": [{"label": label, "index": i, "probability": p} for i, label, p in prediction.ranking],
        **({} if prediction.distance is None else {"distance": prediction.distance}),
        "abstained": prediction.abstained is not None,
        **({"reason": prediction.abstained} if prediction.abstained else {}),
    }
