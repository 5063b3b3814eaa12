"""Classification of images with one label each: everything in a run that is specific to it."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.spec import ModelSpec
from marquee.handlers.inputs.image.spec import PIXELS, ImageSpec, image_of
from marquee.handlers.outputs.classification import (
    DISTANCE,
    FEATURES,
    LOGITS,
    Classification,
    ClassificationCalibration,
    ClassificationSpec,
    classification_of,
    same,
)
from marquee.handlers.outputs.distance import DISTANCE_FILE, Distance, write_distance
from marquee.training.core.context import RunContext
from marquee.training.core.errors import DataError
from marquee.training.core.files import write_csv
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.core.sampler import (
    BalancedBatchSampler,
    DistributedBatchSampler,
    evaluation_loader,
    resolve_workers,
    training_loader,
)
from marquee.training.core.seeding import derive_seed
from marquee.training.core.task import Feed, Fitted, Network, Program, Task
from marquee.training.tasks.classification.calibration import (
    abstain_threshold,
    calibration_facts,
    distance_threshold,
    fit_temperature,
    single_label_likelihood,
)
from marquee.training.tasks.classification.metrics import (
    abstention,
    classification_metrics,
    confidence_metrics,
    loses_most,
)
from marquee.training.tasks.classification.names import canonical, prediction_columns
from marquee.training.tasks.image_classification.advice import advise, smallest_class
from marquee.training.tasks.image_classification.config import (
    TOLD,
    ClassificationExportConfig,
    ImageLoopConfig,
    ImageRunConfig,
)
from marquee.training.tasks.image_classification.data.augment import Augmentation
from marquee.training.tasks.image_classification.data.caches import Caches, build_caches
from marquee.training.tasks.image_classification.data.copies import copy_lines, units_of
from marquee.training.tasks.image_classification.data.layout import check_known
from marquee.training.tasks.image_classification.data.loading import EvaluationImages, TargetEncoder, TrainingImages
from marquee.training.tasks.image_classification.data.manifest import (
    Manifest,
    Record,
    one_name,
    read_manifest,
    write_manifest,
)
from marquee.training.tasks.image_classification.data.mixing import Mixing
from marquee.training.tasks.image_classification.data.moved import find_again, missing_images
from marquee.training.tasks.image_classification.data.resizing import ProgressiveResizing
from marquee.training.tasks.image_classification.data.scan import scan
from marquee.training.tasks.image_classification.data.split import assign_splits
from marquee.training.tasks.image_classification.data.windowing import reading_of, resolve_window
from marquee.training.tasks.image_classification.evaluation_text import MEANINGS, details
from marquee.training.tasks.image_classification.losses import class_weights, create_loss, one_logit
from marquee.training.tasks.image_classification.low_precision import LowPrecision
from marquee.training.tasks.image_classification.models import (
    Classifier,
    check_model,
    check_resizing,
    create_backbone,
)
from marquee.training.tasks.image_classification.network import build_network
from marquee.training.tasks.image_classification.objective import ImageObjective
from marquee.training.tasks.image_classification.ood import LogitsAndFeatures, fit_distance, sample_of
from marquee.training.workarounds.unread_taps import UnreadTaps

EVALUATION_BATCH = 32
_VALIDATION_BATCH = 64
_SHIFTS = {"none": (0,), "flip": (0,), "flip-shift": (0, -1, 1)}
"""Test-time augmentation: shifts along each axis, in units of 1/32 of the side."""


class ImageClassification(Task[ImageRunConfig]):
    """One label per image. Subclasses override what differs for other kinds of labels."""

    name = "image-classification"
    unit = "images"
    tables = ("confusion_matrix", "per_class", "reliability")

    encoder: ClassVar[type[TargetEncoder]] = TargetEncoder
    objective_class: ClassVar[type[ImageObjective]] = ImageObjective

    labels_of_an_image = "one"
    """How many of the labels the model assigns to an image, as text for the model card."""
    right_means = "whose likeliest class is the true one"
    """Which images count as right in the accuracy, as text for the model card."""

    # --- what depends on how many labels an image has

    @staticmethod
    def names_of(record: Record) -> tuple[str, ...]:
        """The class names in a record's label."""
        return one_name(record)

    def likelihood(self, logits: np.ndarray, targets: np.ndarray, doubt: float) -> float:
        """See :func:`marquee.training.tasks.classification.calibration.fit_temperature`."""
        return single_label_likelihood(logits, targets, doubt)

    def logits(self, config: ImageRunConfig, labels: Sequence[str]) -> int:
        """Number of outputs of the network."""
        return 1 if one_logit(config.loss, len(labels)) else len(labels)

    def create_loss(self, config: ImageRunConfig, manifest: Manifest | None = None) -> nn.Module:
        """Logits and targets -> their mean loss; the manifest is needed for the weights of classes."""
        if manifest is None or config.loop.balance != "weights":
            return create_loss(config.loss)
        return create_loss(config.loss, class_weights(self.train_counts(manifest)))

    def train_counts(self, manifest: Manifest) -> list[int]:
        """The number of training images of each class."""
        counts = Counter(name for record in manifest.split("train") for name in self.names_of(record))
        return [counts[label] for label in manifest.labels]

    def output(self, config: ImageRunConfig, manifest: Manifest) -> ClassificationSpec:
        """The labels in the order of the logits."""
        return ClassificationSpec(labels=manifest.labels, top_k=config.export.top_k)

    def feature_set(self, record: Record) -> str:
        """The set of images that an image shares a mean of features with: here, those of its label."""
        return record.label

    def metrics(
        self, output: Classification, probabilities: np.ndarray, targets: np.ndarray, groups: Sequence[str]
    ) -> dict[str, Any]:
        """The metrics of the answers."""
        return classification_metrics(probabilities, targets, groups)

    def confidence_metrics(self, probabilities: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """``nll`` and ``ece``."""
        return confidence_metrics(probabilities, targets)

    def min_probability(self, probabilities: np.ndarray, targets: np.ndarray, max_error: float) -> float:
        """The threshold below which an answer is marked as abstained."""
        right = probabilities.argmax(1) == targets
        return abstain_threshold(probabilities.max(1), right, max_error)

    # --- before anything is read

    def check(self, config: ImageRunConfig) -> None:
        """Checks the architecture, the pretrained weights and the image sizes."""
        check_model(config.model)
        check_resizing(config.model, config.loop)

    def title(self, config: ImageRunConfig) -> str:
        """The architecture."""
        return config.model.arch

    # --- data

    def read(self, config: ImageRunConfig, data: Path, progress: Progress) -> tuple[Manifest, list[Rejected]]:
        """See :mod:`marquee.training.tasks.image_classification.data.scan`."""
        image = reading_of(config.image)
        return scan(data, image.max_pixels, progress, image, config.checks, self.names_of)

    def read_for(self, spec: ModelSpec, data: Path, progress: Progress) -> tuple[Manifest, list[Rejected]]:
        """As :meth:`read`; what a run would refuse is told. One class is enough, but it must be one of the model's."""
        image, data = image_of(spec), data.absolute()
        manifest, rejected = scan(data, image.max_pixels, progress, image, TOLD, self.names_of, 0)
        if data.is_dir():
            known = map(canonical, classification_of(spec).labels)
            check_known(data, map(canonical, manifest.labels), set(known))
        return manifest, rejected

    def split(self, config: ImageRunConfig, manifest: Manifest) -> tuple[Manifest, list[str]]:
        """Stratified by label, groups whole."""
        manifest = replace(manifest, names_of=self.names_of)
        if len(manifest.labels) < 2:
            raise DataError(f"the images have {len(manifest.labels)} labels, but at least 2 are needed")
        divided, warnings = assign_splits(manifest, config.split, config.loop.seed)
        return divided, [*self.findings(divided), *warnings]

    def findings(self, manifest: Manifest) -> list[str]:
        """The warnings of the scan, and how many images are copies of others."""
        return [*manifest.warnings, *copy_lines(manifest)]

    def read_manifest(self, path: Path) -> Manifest:
        """Reads what :meth:`write_manifest` wrote."""
        return read_manifest(path, self.names_of)

    def missing(self, manifest: Manifest) -> list[str]:
        """Paths of images that are no longer there."""
        return missing_images(manifest)

    def find_again(self, config: ImageRunConfig, manifest: Manifest, data: Path, progress: Progress) -> Manifest:
        """See :func:`marquee.training.tasks.image_classification.data.moved.find_again`."""
        return find_again(manifest, data, progress)

    def write_manifest(self, path: Path, manifest: Manifest) -> None:
        """Writes the manifest as CSV."""
        write_manifest(path, manifest)

    def describe(self, manifest: Manifest) -> str:
        """The data set in one line, with its smallest class."""
        label, count = smallest_class(manifest)
        return (
            f"{len(manifest.records)} images of {len(manifest.labels)} classes, the smallest {label!r} with {count:,}"
        )

    def resolve(self, config: ImageRunConfig, manifest: Manifest) -> ImageRunConfig:
        """See :func:`marquee.training.tasks.image_classification.data.windowing.resolve_window`."""
        return resolve_window(config, manifest)

    def advise(self, config: ImageRunConfig, manifest: Manifest) -> list[str]:
        """See :mod:`marquee.training.tasks.image_classification.advice`."""
        return advise(config, manifest)

    # --- training

    def build(self, config: ImageRunConfig, manifest: Manifest) -> Network:
        """The network with its initial weights, and the preprocessing that belongs to it."""
        model, image = build_network(config, manifest, self.logits(config, manifest.labels))
        return Network(model=model, input=image)

    def place(self, config: ImageRunConfig, model: nn.Module, device: torch.device) -> None:
        """Moves the model to the device, in the configured memory layout."""
        layout = torch.channels_last if config.loop.channels_last else torch.contiguous_format
        model.to(device=device, memory_format=layout)  # type: ignore[call-overload]

    def feed(
        self, config: ImageRunConfig, manifest: Manifest, network: Network, context: RunContext, cache: bool = True
    ) -> Feed:
        """Augmented training images, and validation images as they are served."""
        image, loop, world = _image(network), config.loop, context.world
        train, val = manifest.split("train"), manifest.split("val")
        caches = build_caches(config, manifest, image, context) if cache else Caches()
        workers, pin = resolve_workers(loop.workers, len(train)), context.device.type == "cuda"
        augment, encode = Augmentation(config.augment, image, image.mean), self.encoder(manifest.labels)
        parts = (loop.batch_size, loop.seed, world.rank, world.size, loop.passes)
        if loop.balance == "sampler":
            sampler: DistributedBatchSampler = BalancedBatchSampler([record.label for record in train], *parts)
        else:
            sampler = DistributedBatchSampler(len(train), *parts)
        train_images = TrainingImages(train, encode, image, augment, loop.seed, caches.train, augment.short_side)
        val_images = EvaluationImages(val[world.rank :: world.size], encode, image, caches.val)
        return Feed(
            sampler=sampler,
            train=training_loader(train_images, sampler, workers, pin),
            # Reading the cache is cheap, and after a fork here the first steps would have to copy all memory.
            val=evaluation_loader(val_images, _VALIDATION_BATCH, 0 if caches.val else workers, pin),
        )

    def objective(
        self,
        config: ImageRunConfig,
        manifest: Manifest,
        network: Network,
        steps: int,
        device: torch.device,
        precision: str,
    ) -> ImageObjective:
        """The configured loss, mixing and progressive resizing."""
        image = _image(network)
        half_on_cpu = device.type == "cpu" and precision != "fp32"
        return self.objective_class(
            loss=self.create_loss(config, manifest).to(device),
            mixing=Mixing(config.augment, len(manifest.labels)),
            resizing=ProgressiveResizing(config.loop.progressive_resizing, image.crop, steps),
            unread=UnreadTaps(network.model, image.channels) if half_on_cpu else None,
            balanced=len(manifest.labels) if config.loop.select == "balanced" else 0,
        )

    def for_trials(self, config: ImageRunConfig, manifest: Manifest) -> tuple[ImageRunConfig, Manifest]:
        """One image per class, with the channels that follow from all images."""
        channels: Literal["grey", "rgb"] = "grey" if _image(self.build(config, manifest)).channels == 1 else "rgb"
        records = {record.label: record for record in manifest.split("train")}.values()
        fixed = replace(config, image=replace(config.image, channels=channels))
        return fixed, replace(manifest, records=tuple(records))

    # --- export

    def rebuild(self, config: ImageRunConfig, spec: ModelSpec) -> Classifier:
        """The network of a bundle's run, into which its weights are then loaded."""
        image, labels = image_of(spec), classification_of(spec).labels
        # The run's own weights will be loaded: pretrained ones are not needed again.
        untrained = replace(config.model, pretrained="none")
        backbone = create_backbone(untrained, config.image, self.logits(config, labels), image.channels)
        return Classifier(backbone, image.mean, image.std)

    def program(
        self, config: ImageRunConfig, manifest: Manifest, network: Network, folder: Path, progress: Progress
    ) -> Program:
        """Logits and, if configured, the features from which the distance is computed."""
        distance = self.fit_distance(config, manifest, network, progress) if config.export.unfamiliar else None
        if distance is None:
            return Program(module=network.model, outputs=(LOGITS,))
        write_distance(folder / DISTANCE_FILE, distance)
        outputs = (LOGITS, FEATURES)
        return Program(module=self.served(network.model, outputs).eval(), outputs=outputs, files=(DISTANCE_FILE,))

    def fit_distance(
        self, config: ImageRunConfig, manifest: Manifest, network: Network, progress: Progress
    ) -> Distance | None:
        """The distance to the features of the training images; None if the architecture does not expose them."""
        records = manifest.split("train")
        chosen = sample_of(records)
        images = EvaluationImages(chosen, self.encoder(manifest.labels), _image(network))
        workers = resolve_workers(config.loop.workers, len(records))
        sets = [self.feature_set(record) for record in chosen]
        return fit_distance(_classifier(network), images, sets, workers, progress)

    def calibrate(self, config: ImageRunConfig, output: Classification, outputs: Arrays, targets: np.ndarray) -> Fitted:
        """Fits the temperature and the thresholds for abstaining."""
        export: ClassificationExportConfig = config.export
        logits = outputs[LOGITS]
        temperature = fit_temperature(logits, targets, self.likelihood) if export.calibrate else 1.0
        before, after = (
            self.confidence_metrics(output.activation(logits / divisor), targets) for divisor in (1.0, temperature)
        )
        min_probability = 0.0
        if export.max_error:
            calibrated = output.activation(logits / temperature)
            min_probability = self.min_probability(calibrated, targets, export.max_error)
        calibration = ClassificationCalibration(
            temperature=temperature,
            min_probability=min_probability,
            max_distance=distance_threshold(outputs[DISTANCE], export.unfamiliar) if DISTANCE in outputs else None,
        )
        return Fitted(calibration, calibration_facts(temperature, len(targets), before, after))

    def note_export(self, config: ImageRunConfig, metrics: dict[str, Any]) -> None:
        """The error rate that the threshold was fitted for."""
        if "abstain" in metrics:
            metrics["abstain"]["wanted_error"] = config.export.max_error

    def choose_golden(self, manifest: Manifest, measured: str, count: int) -> list[Record]:
        """One image of each class in turn, from the measured split first.

        At least ``count`` images if there are as many; one of each class if there are more classes.
        """
        # Other splits come after the measured one: a small test split cannot fill the count on its own.
        order = [measured, *(split for split in ("test", "val", "train") if split != measured)]
        queues: dict[str, list[Record]] = defaultdict(list)
        for split in order:
            for record in sorted(manifest.split(split), key=lambda r: derive_seed("golden", r.sha256, r.path)):
                queues[record.label].append(record)
        number = min(max(count, len(manifest.labels)), len(manifest.records))
        chosen: list[Record] = []
        for turn in range(max(len(queue) for queue in queues.values())):
            chosen += [queue[turn] for _, queue in sorted(queues.items()) if turn < len(queue)]
            if len(chosen) >= number:
                break
        return chosen[:number]

    def truth(self, record: Record) -> dict[str, Any]:
        """Its label; empty for an unlabelled image."""
        return {"label": record.label}

    def request(self, record: Record) -> tuple[str, bytes]:
        """The file itself."""
        return Path(record.path).suffix.lower(), Path(record.path).read_bytes()

    # --- evaluation

    def batches(self, spec: ModelSpec, records: Sequence[Record], workers: int) -> Iterator[Arrays]:
        """Pixels, as they are served."""
        images = EvaluationImages(records, self.encoder(classification_of(spec).labels), image_of(spec))
        for pixels, _ in evaluation_loader(images, EVALUATION_BATCH, workers):
            yield {PIXELS: pixels.numpy()}

    def targets(self, spec: ModelSpec, records: Sequence[Record]) -> np.ndarray:
        """Indices of the labels, int64 (N,)."""
        encode = self.encoder(classification_of(spec).labels)
        return np.array([np.asarray(encode(record)) for record in records])

    def views(self, inputs: Arrays, augmentation: str) -> Iterator[Arrays]:
        """The unchanged images; also mirrored (flip); also shifted each way with repeated edges (flip-shift)."""
        pixels = inputs[PIXELS]
        side = pixels.shape[1]
        distance = max(1, side // 32)
        for down, right in itertools.product(_SHIFTS[augmentation], repeat=2):
            rows, columns = (np.clip(np.arange(side) - step * distance, 0, side - 1) for step in (down, right))
            shifted = np.ascontiguousarray(pixels[:, rows][:, :, columns])
            yield {PIXELS: shifted}
            if augmentation != "none":
                yield {PIXELS: np.ascontiguousarray(shifted[:, :, ::-1])}

    def measure(self, output: Classification, records: Sequence[Record], outputs: Arrays) -> dict[str, Any]:
        """The metrics of a bundle's answers.

        Returns:
            :func:`marquee.training.tasks.classification.metrics.classification_metrics` of the answers, with
            each class's ``label``; and ``uncalibrated`` (``nll`` and ``ece`` at temperature 1). If the bundle has
            the threshold: ``abstain`` (``min_probability``, ``accepted``: share of answers above it, ``error``: share
            of wrong ones among those, None when there are none) and ``ood`` (``max_distance``, ``flagged``: share of
            images above it).
        """
        labels, fitted, logits = output.spec.labels, output.calibration, outputs[LOGITS]
        encode = self.encoder(labels)
        targets = np.array([np.asarray(encode(record)) for record in records])
        probabilities = output.probabilities(logits)
        # Copies of an image tell as little of each other as images of one group.
        metrics = self.metrics(output, probabilities, targets, units_of(records))
        rows = zip(labels, metrics["per_class"], strict=True)
        metrics["per_class"] = [{"label": label, **values} for label, values in rows]
        metrics["uncalibrated"] = self.confidence_metrics(output.activation(logits), targets)
        if fitted.min_probability > 0:
            right = self.right(output, outputs, targets)
            metrics["abstain"] = abstention(probabilities.max(axis=1), right, fitted.min_probability)
        if fitted.max_distance is not None and DISTANCE in outputs:
            flagged = float((outputs[DISTANCE] > fitted.max_distance).mean())
            metrics["ood"] = {"max_distance": fitted.max_distance, "flagged": flagged}
        return metrics

    def write_predictions(self, path: Path, output: Classification, records: Sequence[Record], outputs: Arrays) -> None:
        """Writes ``path,label,predicted`` and the probability of each class."""
        rows = (
            [
                record.path,
                self.shown(self.names_of(record)),
                self.shown((answer.label,) if answer.labels is None else answer.labels),
            ]
            + [repr(float(p)) for p in answer.probabilities]
            for record, answer in zip(records, output.predictions(outputs), strict=True)
        )
        write_csv(path, prediction_columns(output.spec.labels), rows)

    def shown(self, names: Sequence[str]) -> str:
        """Labels as text."""
        return names[0]

    # --- optimisation

    def stratum(self, record: Record) -> str:
        """Its label."""
        return record.label

    def right(self, output: Classification, outputs: Arrays, targets: np.ndarray) -> np.ndarray:
        """Bool (N,): which answers have the true label or, with several labels, exactly the true ones."""
        return same(output.decisions(output.probabilities(outputs[LOGITS])), targets)

    def loses_most(self, output: Classification, targets: np.ndarray, before: np.ndarray, after: np.ndarray) -> str:
        """See :func:`marquee.training.tasks.classification.metrics.loses_most`."""
        return loses_most(output.spec.labels, targets, before, after, self.unit)

    def calibration_error(self, output: Classification, outputs: Arrays, targets: np.ndarray) -> float:
        """Expected calibration error (Guo et al., 2017)."""
        return self.confidence_metrics(output.probabilities(outputs[LOGITS]), targets)["ece"]

    def served(self, model: nn.Module, outputs: tuple[str, ...]) -> nn.Module:
        """The model, wrapped to return the features too if ``outputs`` names them."""
        return LogitsAndFeatures(model) if FEATURES in outputs else model  # type: ignore[arg-type]

    def lower(self, model: nn.Module, dtype: torch.dtype) -> nn.Module:
        """A copy with its backbone in half precision."""
        if not isinstance(model, Classifier):
            raise TypeError(f"expected a Classifier, got {type(model).__name__}")
        return LowPrecision(model, dtype)

    def short_loop(self, loop: ImageLoopConfig) -> ImageLoopConfig:
        """Without progressive resizing: all images have their full size."""
        return replace(loop, progressive_resizing=1.0)

    def chance(self, config: ImageRunConfig, manifest: Manifest) -> float:
        """Validation accuracy of always giving the most common answer; of the balanced one, of any constant answer."""
        if config.loop.select == "balanced":
            return 1 / self.objective_class.constant_recalls(len(manifest.labels))
        answers = Counter(self.names_of(record) for record in manifest.split("val"))
        return max(answers.values()) / answers.total()

    # --- report

    meanings = MEANINGS

    def details(self, metrics: Mapping[str, Any]) -> list[str]:
        """See :mod:`marquee.training.tasks.image_classification.evaluation_text`."""
        return details(metrics)

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """The metrics of a bundle in one line."""
        return f"{metrics['split']} accuracy {metrics['accuracy']:.4f} on {metrics['images']} images"

    def write_report(self, run: Path) -> dict[str, Path]:
        """``report.html`` and ``MODEL_CARD.md``."""
        from marquee.training.tasks.image_classification import report  # imports matplotlib, which nothing else needs

        return {"report": report.write_report(run), "model_card": report.write_model_card(run)}


def _image(network: Network) -> ImageSpec:
    if not isinstance(network.input, ImageSpec):
        raise TypeError(f"expected a network of images, got one of kind {network.input.kind!r}")
    return network.input


def _classifier(network: Network) -> Classifier:
    if not isinstance(network.model, Classifier):
        raise TypeError(f"expected a Classifier, got {type(network.model).__name__}")
    return network.model
