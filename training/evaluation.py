"""Evaluation of a bundle through the predictor that serves it."""

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from marquee.handlers.predictor import Outputs, Predictor, sigmoid, softmax
from marquee.training.data.loading import Encoder, EvaluationImages, evaluation_loader, resolve_workers
from marquee.training.data.manifest import SEPARATOR, SPLITS, Record, names_of, read_manifest
from marquee.training.data.scan import scan
from marquee.training.errors import DataError
from marquee.training.files import write_atomic
from marquee.training.metrics import classification_metrics, confidence_metrics
from marquee.training.multi_label import multi_label_confidence_metrics, multi_label_metrics
from marquee.training.progress import Progress
from marquee.training.run_folder import RunFolder

BATCH = 32


@dataclass(frozen=True)
class Familiar:
    """What a run knows of a data set."""

    train: int
    """Images that it was trained on."""
    val: int
    """Images by which its best epoch and its thresholds were chosen."""
    unseen: tuple[Record, ...]
    """The others, its own test images included."""


@dataclass(frozen=True)
class Evaluation:
    """A bundle on a data set."""

    metrics: dict[str, Any]
    """Those of :func:`measure`; ``tta``, ``variant``, ``left_out``; ``seen``: how many images the run knew."""
    records: Sequence[Record]
    """The images that were measured."""
    outputs: Outputs
    """What the engine gave for them."""


TestTimeAugmentation = Literal["none", "flip", "flip-shift"]
_SHIFTS = {"none": (0,), "flip": (0,), "flip-shift": (0, -1, 1)}
"""In thirty-seconds of the side, each way."""


def predict_outputs(
    predictor: Predictor,
    records: Sequence[Record],
    workers: int,
    progress: Progress,
    tta: TestTimeAugmentation = "none",
) -> Outputs:
    """Logits and distances of every image, in the order of ``records``.

    Args:
        predictor: the bundle.
        records: images.
        workers: loader processes.
        progress: told about it.
        tta: views of each image whose outputs are averaged: the image; with its mirror image; and both moved by a
            thirty-second of the side in each direction. What is served is always the image alone.

    Raises:
        DataError: a label is not one of the model's, or a file has changed.
    """
    spec = predictor.spec
    images = EvaluationImages(records, spec.labels, spec.image, multi_label=spec.multi_label)
    logits, distances = [], []
    with progress.task("evaluating", len(records)) as task:
        for pixels, _ in evaluation_loader(images, BATCH, workers):
            views = [predictor.outputs(view) for view in _views(pixels.numpy(), tta)]
            logits.append(np.mean([view.logits for view in views], axis=0))
            measured = [view.distances for view in views if view.distances is not None]
            if measured:
                distances.append(np.mean(measured, axis=0))
            task.advance(count=len(pixels))
    return Outputs(np.concatenate(logits), np.concatenate(distances) if distances else None)


def _views(pixels: np.ndarray, tta: TestTimeAugmentation) -> Iterator[np.ndarray]:
    """uint8 (N, H, W, C) -> the same image as it is, mirrored and moved, edges repeated."""
    side = pixels.shape[1]
    distance = max(1, side // 32)
    for down, right in itertools.product(_SHIFTS[tta], repeat=2):
        rows, columns = (np.clip(np.arange(side) - step * distance, 0, side - 1) for step in (down, right))
        moved = np.ascontiguousarray(pixels[:, rows][:, :, columns])
        yield moved
        if tta != "none":
            yield np.ascontiguousarray(moved[:, :, ::-1])


def find_familiar(bundle: Path, records: Sequence[Record]) -> Familiar | None:
    """Compares images with those of the run that made a bundle, by their content; names and places do not count.

    Args:
        bundle: the bundle's folder.
        records: images, with sha256.

    Returns:
        None where no run lies around the bundle, as around an imported one.

    Raises:
        DataError: the run's manifest is damaged.
    """
    manifest = RunFolder(bundle.absolute().parent).manifest
    if not manifest.is_file():
        return None
    splits: dict[str, set[str]] = {split: set() for split in SPLITS}
    for record in read_manifest(manifest).records:
        splits[record.split].add(record.sha256)
    train, val = splits["train"], splits["val"] - splits["train"]
    return Familiar(
        train=sum(record.sha256 in train for record in records),
        val=sum(record.sha256 in val for record in records),
        unseen=tuple(record for record in records if record.sha256 not in train and record.sha256 not in val),
    )


def evaluate(
    predictor: Predictor,
    bundle: Path,
    data: Path,
    *,
    seen: bool = False,
    tta: "TestTimeAugmentation" = "none",
    progress: Progress | None = None,
) -> Evaluation:
    """Measures a bundle on a data set.

    Args:
        predictor: the loaded bundle.
        bundle: its folder; the run around it tells which images it has seen.
        data: a data set (see :mod:`marquee.training.data.scan`); where it names a test split, that one is measured.
        seen: measure the images, too, that the run was trained on or that chose its best epoch.
        tta: test-time augmentation.
        progress: where progress is shown.

    Raises:
        DataError: the data set cannot be used, or nothing of it is new to the run.
    """
    progress = progress or Progress()
    manifest, rejected = scan(data, predictor.spec.image.max_pixels, progress)
    candidates = manifest.split("test") or list(manifest.records)
    familiar = find_familiar(bundle, candidates)
    records = candidates if seen or familiar is None else list(familiar.unseen)
    if not records:
        raise DataError(
            f"{data}: the run has seen all {len(candidates)} images of it, in training or in choosing its best epoch; "
            "name images that are new to it, or measure these with --seen"
        )
    outputs = predict_outputs(predictor, records, resolve_workers(-1, len(records)), progress, tta)
    metrics = {
        **measure(predictor, records, outputs),
        "tta": tta,
        "variant": predictor.variant.name,
        "seen": None if familiar is None else {"train": familiar.train, "val": familiar.val, "measured": seen},
        "left_out": [asdict(item) for item in rejected],
    }
    return Evaluation(metrics, records, outputs)


def encode_targets(predictor: Predictor, records: Sequence[Record]) -> np.ndarray:
    """Positions of the records' labels among the model's, int64 (N,); for several labels zeros and ones (N, labels)."""
    encode = Encoder(predictor.spec.labels, predictor.spec.multi_label)
    return np.array([np.asarray(encode(record)) for record in records])


def measure(predictor: Predictor, records: Sequence[Record], outputs: Outputs) -> dict[str, Any]:
    """What the bundle's answers are worth.

    Args:
        predictor: the bundle.
        records: images.
        outputs: from :func:`predict_outputs`.

    Returns:
        :func:`marquee.training.metrics.classification_metrics` (or
        :func:`marquee.training.metrics.multi_label_metrics`) of the answers, with each class's ``label``; and
        ``uncalibrated`` (``nll`` and ``ece`` at temperature 1). Where the bundle has the threshold: ``abstain``
        (``min_probability``, ``accepted``: share of answers above it, ``error``: share of wrong ones among those, None
        when there are none) and ``ood`` (``max_distance``, ``flagged``: share of images above it).
    """
    output, targets = predictor.spec.output, encode_targets(predictor, records)
    probabilities = predictor.to_probabilities(outputs.logits)
    # Without a group an image is on its own; a group's name contains no NUL.
    groups = [record.group or f"\0{number}" for number, record in enumerate(records)]
    if predictor.spec.multi_label:
        metrics = multi_label_metrics(probabilities, targets, output.threshold, groups)
        plain = multi_label_confidence_metrics(sigmoid(outputs.logits), targets)
    else:
        metrics = classification_metrics(probabilities, targets, groups)
        plain = confidence_metrics(softmax(outputs.logits), targets)
    labelled = zip(predictor.spec.labels, metrics["per_class"], strict=True)
    metrics["per_class"] = [{"label": label, **values} for label, values in labelled]
    metrics["uncalibrated"] = plain
    if output.min_probability > 0:
        accepted = probabilities.max(axis=1) >= output.min_probability
        wrong = probabilities.argmax(axis=1) != targets
        metrics["abstain"] = {
            "min_probability": output.min_probability,
            "accepted": float(accepted.mean()),
            "error": float(wrong[accepted].mean()) if accepted.any() else None,
        }
    if output.max_distance is not None and outputs.distances is not None:
        flagged = float((outputs.distances > output.max_distance).mean())
        metrics["ood"] = {"max_distance": output.max_distance, "flagged": flagged}
    return metrics


def write_predictions(path: Path, predictor: Predictor, records: Sequence[Record], outputs: Outputs) -> None:
    """Writes one CSV line an image: ``path,label,predicted`` and the probability of each class."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["path", "label", "predicted", *predictor.spec.labels])
    for record, answer in zip(records, predictor.answer(outputs), strict=True):
        predicted = answer.label if answer.labels is None else SEPARATOR.join(sorted(answer.labels))
        label = SEPARATOR.join(names_of(record, predictor.spec.multi_label))
        writer.writerow([record.path, label, predicted, *(repr(float(p)) for p in answer.probabilities)])
    write_atomic(path, buffer.getvalue())
