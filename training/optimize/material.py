"""What variants are built from and judged on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from marquee.handlers.distance import Distance, distance_of
from marquee.handlers.errors import InputError
from marquee.handlers.images import load
from marquee.handlers.spec import ModelSpec
from marquee.training.checkpoint import CheckpointStore, load_weights
from marquee.training.config import RunConfig, load_run_config
from marquee.training.data.loading import Encoder, EvaluationImages, evaluation_loader, resolve_workers
from marquee.training.data.manifest import Manifest, Record, read_manifest
from marquee.training.errors import OptimizeError
from marquee.training.losses import one_logit
from marquee.training.models import Classifier, create_backbone
from marquee.training.optimize.config import OptimizeConfig
from marquee.training.progress import Progress
from marquee.training.run_folder import RunFolder

LEAST_CALIBRATION = 10
"""With fewer images the quantizer would fit its ranges to accidents."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images as the engine takes them."""

    pixels: np.ndarray
    """uint8 (N, crop, crop, channels)."""
    targets: np.ndarray | None
    """int64 (N,), or zeros and ones (N, labels); None where the truth is not known."""
    groups: tuple[str, ...] | None = None
    """Of each image; None where each is on its own."""

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of marquee train, as far as its folder still tells."""

    config: RunConfig
    manifest: Manifest
    classifier: Classifier
    """The exported weights, on the CPU in eval mode."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What variants are built from."""

    folder: Path
    """The bundle that gains them."""
    spec: ModelSpec
    """As it was before: with one variant."""
    run: Run | None
    """None for a model from elsewhere, of which there is only the bundle."""
    distance: Distance | None
    """Of the features, where the model measures it."""
    calibration: Images
    """What the quantizer sees."""
    calibration_records: tuple[Record, ...]
    """Of those; none without a run."""
    validation: Images | None
    """What each variant's temperature and thresholds are fitted on."""
    judged: Images
    """What answers are judged on."""


def read_run(folder: Path, spec: ModelSpec) -> Run | None:
    """The run that the bundle came from; None where ``folder`` is no run of marquee train.

    Raises:
        OptimizeError: it is one, but its weights are gone.
    """
    files = RunFolder(folder)
    if not files.is_begun:
        return None
    config = load_run_config(files.config)
    manifest = read_manifest(files.manifest, config.model.multi_label)
    best = CheckpointStore(files.checkpoints).find("best")
    if best is None:
        raise OptimizeError(f"{files.checkpoints}: the weights of the run are gone; variants are made from them")
    outputs = 1 if one_logit(config.loss, len(spec.labels)) and not config.model.multi_label else len(spec.labels)
    # The weights are the run's own: what it started from need not be had again.
    untrained = replace(config.model, pretrained="none")
    backbone = create_backbone(untrained, config.image, outputs, spec.image.channels)
    classifier = Classifier(backbone, spec.image.mean, spec.image.std)
    load_weights(best, classifier)
    return Run(config=config, manifest=manifest, classifier=classifier.float().eval())


def read_records(records: Sequence[Record], spec: ModelSpec, progress: Progress) -> Images:
    """Decodes and resizes images of a manifest as they are served."""
    dataset = EvaluationImages(records, spec.labels, spec.image, multi_label=spec.multi_label)
    parts = []
    with progress.task("reading images", len(records)) as task:
        for pixels, _ in evaluation_loader(dataset, 64, resolve_workers(-1, len(records))):
            parts.append(pixels.numpy())
            task.advance(count=len(pixels))
    encode = Encoder(spec.labels, spec.multi_label)
    targets = np.array([np.asarray(encode(record)) for record in records])
    # Without a group an image is on its own; a group's name contains no NUL.
    groups = tuple(record.group or f"\0{number}" for number, record in enumerate(records))
    together = len(set(groups)) < len(groups)
    return Images(pixels=np.concatenate(parts), targets=targets, groups=groups if together else None)


def read_files(files: Sequence[Path], spec: ModelSpec) -> Images:
    """Decodes and resizes image files whose truth is not known; what cannot be read is left out."""
    arrays = []
    for file in files:
        try:
            arrays.append(load(file.read_bytes(), spec.image))
        except InputError:
            continue
    side, channels = spec.image.crop, spec.image.channels
    empty = np.zeros((0, side, side, channels), np.uint8)
    return Images(pixels=np.stack(arrays) if arrays else empty, targets=None)


def even_sample(records: Sequence[Record], count: int) -> list[Record]:
    """At most ``count`` records, each class in proportion, the same ones every time."""
    ordered = sorted(records, key=lambda record: (record.label, record.sha256, record.path))
    if len(ordered) <= count:
        return ordered
    places = np.linspace(0, len(ordered) - 1, count).round().astype(int)
    return [ordered[place] for place in places]


def read_material(
    folder: Path, run: Run | None, bundle: Path, spec: ModelSpec, config: OptimizeConfig, progress: Progress
) -> Material:
    """Reads all images that optimising takes.

    Args:
        folder: the bundle that will gain variants, a copy.
        run: where the images come from; without one, the bundle's own samples serve for everything.
        bundle: for the distance's tables.
        spec: of the bundle, with one variant.
        config: how many images.
        progress: told about it.
    """
    if run is None:
        answers = {variant.expected for variant in spec.variants}
        files = tuple(folder / name for name in (*spec.samples, *spec.golden.files) if name not in answers)
        samples = read_files(files, spec)
        return Material(
            folder=folder,
            spec=spec,
            run=None,
            distance=read_tables(bundle, spec),
            calibration=samples,
            calibration_records=(),
            validation=None,
            judged=samples,
        )
    manifest = run.manifest
    measured = manifest.split("test") or manifest.split("val")
    chosen = even_sample(manifest.split("train"), config.calibration_images)
    validation = read_records(manifest.split("val"), spec, progress)
    return Material(
        folder=folder,
        spec=spec,
        run=run,
        distance=read_tables(bundle, spec),
        calibration=read_records(chosen, spec, progress),
        calibration_records=tuple(chosen),
        validation=validation,
        judged=read_records(even_sample(measured, config.max_images), spec, progress),
    )


def read_tables(bundle: Path, spec: ModelSpec) -> Distance | None:
    """The tables of the bundle's first variant; None where it measures no distance."""
    first = spec.variants[0]
    if "logits_and_distance" not in first.outputs:
        return distance_of(first, bundle)
    # A bundle of an earlier version: they are part of its program.
    program = torch.export.load(bundle / next(iter(first.files)))
    tables = {
        name.rpartition(".")[2]: value for name, value in program.state_dict.items() if ".distance." in f".{name}"
    }
    if set(tables) != {"whitening", "means"}:
        raise OptimizeError(f"{bundle}: its program holds no table of distances; train the run again")
    return Distance(tables["whitening"].numpy(), tables["means"].numpy())
