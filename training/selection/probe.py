"""A linear probe: logistic regression on the features of a frozen backbone, exported like any trained model."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from marquee.handlers.core.schema import to_dict
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.checkpoint import CheckpointStore, TrainingState
from marquee.training.core.config import dump_config
from marquee.training.core.context import RunContext
from marquee.training.core.device import resolve_device
from marquee.training.core.environment import describe_environment, library_versions
from marquee.training.core.errors import TrainingError
from marquee.training.core.export import export_bundle
from marquee.training.core.files import write_atomic, write_json
from marquee.training.core.optim import create_optimizer
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import write_rejected
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.sampler import evaluation_loader, resolve_workers
from marquee.training.core.task import Network
from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tasks.image_classification.data.loading import EvaluationImages, TargetEncoder
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record, write_manifest
from marquee.training.tasks.image_classification.data.split import assign_splits
from marquee.training.tasks.image_classification.models import Classifier
from marquee.training.tasks.image_classification.network import build_network

STRENGTHS = tuple(10.0**power for power in range(-4, 3))
"""Values of scikit-learn's ``C`` (inverse regularisation strength), the strongest regularisation first."""
BATCH = 64


class Probe:
    """A frozen network and the features that it extracts from each image.

    Args:
        config: the candidate's configuration.
        manifest: all images that the probe may be trained on, in ``train``; they determine the classes and channels.
        progress: where the progress of the extraction is reported.

    Raises:
        TrainingError: the architecture does not end in a linear layer.
    """

    def __init__(self, config: ImageRunConfig, manifest: Manifest, progress: Progress) -> None:
        self.config = config
        self._progress = progress
        self._device = resolve_device(config.loop.device)
        self.model, self.image = _frozen_model(config, manifest)
        self.head = _head(config, self.model)
        self._features: dict[str, np.ndarray] = {}
        # Once for all folds, in an order that depends neither on the fold nor on file paths.
        self._extract(sorted(manifest.records, key=lambda record: record.sha256))

    def features(self, records: Sequence[Record]) -> np.ndarray:
        """The inputs of the frozen network's last layer, float64 (N, features)."""
        return np.stack([self._features[record.sha256] for record in records]).astype(np.float64)

    def _extract(self, records: Sequence[Record]) -> None:
        encode = TargetEncoder(sorted({record.label for record in records}))
        images = EvaluationImages(records, encode, self.image)
        captured: list[torch.Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0].float().cpu()))
        self.model.to(self._device).eval()
        try:
            with torch.inference_mode(), self._progress.task("features", len(records)) as task:
                workers = resolve_workers(self.config.loop.workers, len(records))
                for pixels, _ in evaluation_loader(images, BATCH, workers):
                    self.model(pixels.to(self._device))
                    task.advance(count=len(pixels))
        finally:
            hook.remove()
            self.model.cpu()
        features = torch.cat(captured)
        if not features.isfinite().all():
            raise TrainingError(
                f"--model.arch {self.config.model.arch}: the frozen network gives features that are infinite or NaN, "
                "so it cannot be probed; check its weights"
            )
        for record, row in zip(records, features.numpy(), strict=True):
            self._features[record.sha256] = row


def train_probe(probe: Probe, manifest: Manifest, out: Path, progress: Progress) -> dict[str, Any]:
    """Fits the probe's head on ``manifest`` and writes the run folder ``out`` with a bundle.

    Args:
        probe: a probe with the features of all training and validation images.
        manifest: images with splits; validation images are taken from ``train`` if there are none.
        out: the run's folder; files of an earlier attempt are overwritten.
        progress: where progress is reported.

    Returns:
        The metrics of :func:`marquee.training.core.run.train`, with the chosen ``C`` in place of ``best_epoch``.

    Raises:
        TrainingError: with what happened and what to do.
    """
    started = time.monotonic()
    config = probe.config
    manifest, _ = assign_splits(manifest, config.split, config.loop.seed)
    weight, bias, strength = _fit_head(probe, manifest)
    with torch.no_grad():
        probe.head.weight.copy_(torch.from_numpy(weight))
        probe.head.bias.copy_(torch.from_numpy(bias))
    seconds = time.monotonic() - started
    _write_records(probe, manifest, out)
    origin = "randomly initialised" if config.model.pretrained == "none" else config.model.pretrained
    provenance = {
        "data": manifest.digest,
        "images": {split: len(manifest.split(split)) for split in ("train", "val", "test")},
        "config": to_dict(config),
        "probe": {"C": strength, "backbone": f"frozen, {origin}"},
        "versions": library_versions(),
    }
    network = Network(model=probe.model, input=probe.image)
    context = RunContext(folder=RunFolder(out), device=torch.device("cpu"), progress=progress)
    metrics = export_bundle(config, manifest, network, provenance, context)
    result = {**metrics, "C": strength, "train_seconds": round(seconds, 1)}
    write_json(RunFolder(out).evaluation, result)
    return result


def fit_logistic(
    features: np.ndarray, targets: np.ndarray, val_features: np.ndarray, val_targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fits a multinomial logistic regression; ``C`` is chosen by validation accuracy, then by validation loss.

    Features are standardised with their training mean and deviation, which are folded into the result.

    Args:
        features: float (N, features).
        targets: int (N,), each of 0..classes-1 at least once.
        val_features: float (M, features).
        val_targets: int (M,).

    Returns:
        Weights float64 (classes, features) and biases float64 (classes,) for unstandardised features, and the chosen
        ``C``.
    """
    from sklearn.exceptions import ConvergenceWarning  # takes a second to import
    from sklearn.linear_model import LogisticRegression

    mean, std = features.mean(axis=0), features.std(axis=0)
    std[std < 1e-8] = 1.0  # avoids dividing by zero for constant features
    # Each fit starts from the previous one, whose solution is close.
    regression = LogisticRegression(max_iter=1000, warm_start=True)
    best: tuple[tuple[float, float], np.ndarray, np.ndarray, float] | None = None
    for strength in STRENGTHS:
        regression.set_params(C=strength)
        with warnings.catch_warnings():
            # Validation scores a fit that has not quite converged like any other.
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit((features - mean) / std, targets)
        probabilities = regression.predict_proba((val_features - mean) / std)
        true_probabilities = probabilities[np.arange(len(val_targets)), val_targets]
        score = (
            float((probabilities.argmax(axis=1) == val_targets).mean()),
            float(np.log(np.maximum(true_probabilities, 1e-12)).mean()),
        )
        if best is None or score > best[0]:
            best = score, regression.coef_.copy(), regression.intercept_.copy(), strength
    assert best is not None  # noqa: S101 - STRENGTHS is not empty
    _, weight, bias, strength = best
    if len(weight) == 1:  # with two classes, scikit-learn returns only the second's coefficients
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.array([0.0, bias[0]])
    return weight / std, bias - (weight / std) @ mean, strength


def _fit_head(probe: Probe, manifest: Manifest) -> tuple[np.ndarray, np.ndarray, float]:
    index = {label: i for i, label in enumerate(manifest.labels)}
    train, val = manifest.split("train"), manifest.split("val")
    targets = [np.array([index[record.label] for record in records]) for records in (train, val)]
    return fit_logistic(probe.features(train), targets[0], probe.features(val), targets[1])


def _frozen_model(config: ImageRunConfig, manifest: Manifest) -> tuple[Classifier, ImageSpec]:
    model, image = build_network(config, manifest, len(manifest.labels))
    if config.model.pretrained == "none":
        # Random weights require no particular normalisation. A fixed one does not depend on held-out images, so the
        # features are extracted once for all folds.
        image = replace(image, mean=(0.5,) * image.channels, std=(0.25,) * image.channels)
        model = Classifier(model.backbone, image.mean, image.std)
    return model, image


def _head(config: ImageRunConfig, model: Classifier) -> nn.Linear:
    get_classifier = getattr(model.backbone, "get_classifier", None)
    head = get_classifier() if get_classifier else None
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise TrainingError(f"--model.arch {config.model.arch}: does not end in a linear layer, so it cannot be probed")
    return head


def _write_records(probe: Probe, manifest: Manifest, out: Path) -> None:
    """Writes the files of a run folder, including a checkpoint of the weights that other runs can start from."""
    config, device, folder = probe.config, torch.device("cpu"), RunFolder(out)
    write_atomic(folder.config, dump_config(config))
    write_rejected(folder.rejected, [])
    write_json(folder.environment, describe_environment(device, "fp32", 1))
    optimizer = create_optimizer(probe.model, config.optimizer, device)
    # Marked as finished, so that a resumed run has nothing left to train.
    state = TrainingState(epoch=config.loop.epochs, best_epoch=config.loop.epochs, finished=True)
    store = CheckpointStore(folder.checkpoints)
    store.save(probe.model, optimizer, torch.amp.GradScaler("cpu", enabled=False), state, best=True)
    write_manifest(folder.manifest, manifest)
