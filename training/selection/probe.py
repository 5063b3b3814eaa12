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

from marquee.handlers.schema import to_dict
from marquee.handlers.spec import ImageSpec
from marquee.training.assemble import build_model
from marquee.training.checkpoint import CheckpointStore, TrainingState
from marquee.training.config import RunConfig, dump_config
from marquee.training.data.loading import EvaluationImages, evaluation_loader, resolve_workers
from marquee.training.data.manifest import Manifest, Record, write_manifest, write_rejected
from marquee.training.data.split import assign_splits
from marquee.training.device import resolve_device
from marquee.training.environment import describe_environment, library_versions
from marquee.training.errors import TrainingError
from marquee.training.export import export_bundle
from marquee.training.files import write_atomic, write_json
from marquee.training.models import Classifier
from marquee.training.optim import create_optimizer
from marquee.training.progress import Progress
from marquee.training.run_folder import RunFolder

STRENGTHS = tuple(10.0**power for power in range(-4, 3))
"""Values of scikit-learn's ``C``, the strongest regularisation first."""
BATCH = 64


class Probe:
    """A frozen network, and the features of every image that it has seen.

    Args:
        config: the candidate's configuration.
        manifest: all images that the probe may be trained on, in ``train``; they decide classes and channels.
        progress: told about the extraction.

    Raises:
        TrainingError: the architecture does not end in a linear layer.
    """

    def __init__(self, config: RunConfig, manifest: Manifest, progress: Progress) -> None:
        self.config = config
        self._progress = progress
        self._device = resolve_device(config.loop.device)
        self.model, self.image = _frozen_model(config, manifest)
        self.head = _head(config, self.model)
        self._features: dict[str, np.ndarray] = {}
        # Once for all folds, in an order that no fold and no file place changes.
        self._extract(sorted(manifest.records, key=lambda record: record.sha256))

    def features(self, records: Sequence[Record]) -> np.ndarray:
        """What the last layer of the frozen network is given: float64 (N, features)."""
        return np.stack([self._features[record.sha256] for record in records]).astype(np.float64)

    def _extract(self, records: Sequence[Record]) -> None:
        images = EvaluationImages(records, sorted({record.label for record in records}), self.image)
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
                f"--model.arch {self.config.model.arch}: the frozen network gives features that are infinite or no "
                "number, so it cannot be probed; check its weights"
            )
        for record, row in zip(records, features.numpy(), strict=True):
            self._features[record.sha256] = row


def train_probe(probe: Probe, manifest: Manifest, out: Path, progress: Progress) -> dict[str, Any]:
    """Fits the probe's head on ``manifest`` and writes the run folder ``out`` with a bundle.

    Args:
        probe: has the features of all training and validation images.
        manifest: images with splits; validation images are taken from ``train`` where none are named.
        out: the run's folder; what an attempt before has left there is written over.
        progress: told about it.

    Returns:
        As :func:`marquee.training.run.train`, with ``C``, the chosen strength, in place of ``best_epoch``.

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
    workers = resolve_workers(config.loop.workers, len(manifest.split("test")))
    metrics = export_bundle(
        probe.model,
        manifest,
        probe.image,
        config.export,
        provenance,
        RunFolder(out).bundle,
        workers,
        progress,
    )
    result = {**metrics, "C": strength, "train_seconds": round(seconds, 1)}
    write_json(RunFolder(out).evaluation, result)
    return result


def fit_logistic(
    features: np.ndarray, targets: np.ndarray, val_features: np.ndarray, val_targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Multinomial logistic regression; validation chooses the strength by accuracy, then by loss.

    Features are standardised by their training mean and deviation, which are folded into the result.

    Args:
        features: float (N, features).
        targets: int (N,), each of 0..classes-1 at least once.
        val_features: float (M, features).
        val_targets: int (M,).

    Returns:
        Weights float64 (classes, features) and biases float64 (classes,) for plain features, and the chosen ``C``.
    """
    from sklearn.exceptions import ConvergenceWarning  # takes a second to import
    from sklearn.linear_model import LogisticRegression

    mean, std = features.mean(axis=0), features.std(axis=0)
    std[std < 1e-8] = 1.0  # a constant feature says nothing, and dividing by its deviation would say infinity
    # Each strength starts from the one before, which lies near.
    regression = LogisticRegression(max_iter=1000, warm_start=True)
    best: tuple[tuple[float, float], np.ndarray, np.ndarray, float] | None = None
    for strength in STRENGTHS:
        regression.set_params(C=strength)
        with warnings.catch_warnings():
            # A fit that has not quite converged is judged by validation like any other.
            warnings.simplefilter("ignore", ConvergenceWarning)
            regression.fit((features - mean) / std, targets)
        probabilities = regression.predict_proba((val_features - mean) / std)
        of_truth = probabilities[np.arange(len(val_targets)), val_targets]
        score = (
            float((probabilities.argmax(axis=1) == val_targets).mean()),
            float(np.log(np.maximum(of_truth, 1e-12)).mean()),
        )
        if best is None or score > best[0]:
            best = score, regression.coef_.copy(), regression.intercept_.copy(), strength
    assert best is not None  # noqa: S101 - STRENGTHS is not empty
    _, weight, bias, strength = best
    if len(weight) == 1:  # two classes: scikit-learn keeps the second one's margin only
        weight, bias = np.vstack([np.zeros_like(weight), weight]), np.array([0.0, bias[0]])
    return weight / std, bias - (weight / std) @ mean, strength


def _fit_head(probe: Probe, manifest: Manifest) -> tuple[np.ndarray, np.ndarray, float]:
    index = {label: i for i, label in enumerate(manifest.labels)}
    train, val = manifest.split("train"), manifest.split("val")
    targets = [np.array([index[record.label] for record in records]) for records in (train, val)]
    return fit_logistic(probe.features(train), targets[0], probe.features(val), targets[1])


def _frozen_model(config: RunConfig, manifest: Manifest) -> tuple[Classifier, ImageSpec]:
    model, image = build_model(config, manifest)
    if config.model.pretrained == "none":
        # Nothing was learnt with any normalisation; a fixed one keeps held-out images out of it, and the features of
        # one extraction good for all folds.
        image = replace(image, mean=(0.5,) * image.channels, std=(0.25,) * image.channels)
        model = Classifier(model.backbone, image.mean, image.std)
    return model, image


def _head(config: RunConfig, model: Classifier) -> nn.Linear:
    find = getattr(model.backbone, "get_classifier", None)
    head = find() if find else None
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise TrainingError(f"--model.arch {config.model.arch}: does not end in a linear layer, so it cannot be probed")
    return head


def _write_records(probe: Probe, manifest: Manifest, out: Path) -> None:
    """The files of a run that a probe can have: its weights are a checkpoint, too, to start other runs from."""
    config, device, folder = probe.config, torch.device("cpu"), RunFolder(out)
    write_atomic(folder.config, dump_config(config))
    write_rejected(folder.rejected, [])
    write_json(folder.environment, describe_environment(device, "fp32", 1))
    optimizer = create_optimizer(probe.model, config.optimizer, device)
    # All epochs done: a resume finds nothing left to train.
    state = TrainingState(epoch=config.loop.epochs, best_epoch=config.loop.epochs, finished=True)
    store = CheckpointStore(folder.checkpoints)
    store.save(probe.model, optimizer, torch.amp.GradScaler("cpu", enabled=False), state, best=True)
    write_manifest(folder.manifest, manifest)
