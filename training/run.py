"""One run, from a data set to a bundle.

::

    RUN/
      config.yaml         the resolved configuration; --config reads it back
      manifest.csv        every image with label, split and sha256
      rejected.csv        files that were left out, and why
      environment.json    machine, devices, library versions
      metrics.jsonl       one line an epoch; tensorboard/ has the same curves
      checkpoints/        see training.checkpoint
      bundle/             what is packaged and served
      evaluation.json     metrics of the bundle on the test images
      predictions.csv     the bundle's answer for each of them
      report.html         all of it as one page for people
      MODEL_CARD.md       what the model is, for those who use it
"""

import math
import os
import shlex
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handlers.schema import to_dict
from handlers.spec import BUNDLE_FOLDER, ImageSpec
from training.checkpoint import CheckpointStore, TrainingState, load_checkpoint, load_weights
from training.config import RunConfig, dump_config, load_config
from training.data.augment import Augmentation
from training.data.cache import AUTO_BYTES, UNLIMITED, ImageCache, build_cache, decoded_bytes
from training.data.loading import (
    BatchPlan,
    EvaluationImages,
    TrainingImages,
    evaluation_loader,
    resolve_workers,
    training_loader,
)
from training.data.manifest import Manifest, Record, Rejected, read_manifest, write_manifest, write_rejected
from training.data.mixing import Mixing
from training.data.scan import scan
from training.data.split import assign_splits
from training.data.statistics import channel_statistics
from training.device import resolve_device, resolve_precision
from training.distributed import World, joined
from training.ema import WeightAverage
from training.environment import describe_environment, library_versions
from training.errors import CheckpointError, TrainingError
from training.export import export_bundle
from training.files import write_atomic, write_json
from training.loop import Interrupted, MetricsLog, NonFiniteLossError, Trainer
from training.losses import create_loss, one_logit
from training.models import (
    Classifier,
    PretrainedInput,
    check_model,
    create_backbone,
    pretrained_channels,
    pretrained_input,
)
from training.optim import check_optimizer, create_optimizer
from training.progress import Progress
from training.report import write_model_card, write_report
from training.seeding import derive_seed

CONFIG_FILE = "config.yaml"
MANIFEST_FILE = "manifest.csv"
EVALUATION_FILE = "evaluation.json"
CACHE_FOLDER = "cache"
SHOWN_REJECTED = 20
"""Files left out that are shown one by one."""
_CHANGEABLE = (
    "loop.epochs",
    "loop.patience",
    "loop.device",
    "loop.workers",
    "loop.cache",
    "loop.compile",
    "checkpoint",
    "export",
)
"""Fields that a resumed run may change without becoming another run."""


def train(
    config: RunConfig, data: Path | None, out: Path, resume: bool = False, manifest: Manifest | None = None
) -> dict[str, Any]:
    """Trains on ``data`` into the run folder ``out`` and exports the bundle.

    Args:
        config: the run's configuration.
        data: a data set (see :mod:`training.data.scan`); None on a resume, which has the run's manifest.
        out: the run's folder; it must be new unless ``resume``.
        resume: go on from the last checkpoint of ``out``.
        manifest: images that were scanned already, with or without splits; used instead of ``data``.

    Returns:
        The bundle's metrics (see :func:`training.export.export_bundle`), ``train_seconds`` and ``best_epoch``.

    Raises:
        TrainingError: with what happened and what to do.
    """
    device = resolve_device(config.loop.device)
    check_model(config.model)
    check_optimizer(config.optimizer)
    resume = resume or _restarted(out)
    with joined(device) as world:
        progress = Progress(quiet=not world.is_main)
        recorded = _prepare_folder(config, manifest or data, out, resume, world, progress)
        return _train(config, recorded, out, device, world, progress)


def _restarted(out: Path) -> bool:
    """True when torchrun has started this command again after a process died, and there is something to go on with."""
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return again and CheckpointStore(out / "checkpoints").find("last") is not None


def check_resumable(config: RunConfig, out: Path) -> None:
    """Raises TrainingError when ``config`` differs from the run's in a field that would make it another run."""
    for name, old, new in _changed_fields(load_config(out / CONFIG_FILE), config):
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in _CHANGEABLE):
            raise TrainingError(
                f"{out}: cannot resume with --{name} {new}, the run has {old}; train into a new folder for that"
            )


def _changed_fields(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    before, after = to_dict(old), to_dict(new)
    return [
        (f"{part}.{field}", before[part][field], value)
        for part, fields in after.items()
        for field, value in fields.items()
        if before[part][field] != value
    ]


def _prepare_folder(
    config: RunConfig, data: Path | Manifest | None, out: Path, resume: bool, world: World, progress: Progress
) -> Manifest:
    """The main process reads the data and writes the run's records; the others read those."""
    failure: TrainingError | None = None
    if world.is_main:
        try:
            _write_records(config, data, out, resume, progress)
        except TrainingError as error:
            failure = error
    if world.any(failure is not None):
        raise failure or TrainingError("the main process could not prepare the run; its message says why")
    return read_manifest(out / MANIFEST_FILE)


def _is_free(out: Path) -> bool:
    """True for a folder without files, and for a run that failed before its first checkpoint."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return True
    return (out / MANIFEST_FILE).is_file() and CheckpointStore(out / "checkpoints").find("last") is None


def _write_records(
    config: RunConfig, data: Path | Manifest | None, out: Path, resume: bool, progress: Progress
) -> None:
    if resume:
        if not (out / MANIFEST_FILE).is_file():
            raise TrainingError(f"{out}: nothing to resume; run without --resume")
        check_resumable(config, out)
        write_atomic(out / CONFIG_FILE, dump_config(config))
        return
    if data is None:
        raise TrainingError("no data given; name a folder or a table with --data")
    if not _is_free(out):
        raise TrainingError(f"{out}: exists already; choose another --out, or add --resume to go on with it")
    manifest, rejected = read_data(config, data, progress)
    if len(rejected) > SHOWN_REJECTED:
        progress.say(f"all {len(rejected)} that are left out: {out / 'rejected.csv'}")
    write_rejected(out / "rejected.csv", rejected)
    write_atomic(out / CONFIG_FILE, dump_config(config))
    # Last: its presence says that the folder is a run.
    write_manifest(out / MANIFEST_FILE, manifest)


def read_data(config: RunConfig, data: Path | Manifest, progress: Progress) -> tuple[Manifest, list[Rejected]]:
    """Every readable image of ``data`` with its split, and the files that are left out; people are told of both.

    Raises:
        DataError: ``data`` cannot be used as it is.
    """
    found, rejected = (data, []) if isinstance(data, Manifest) else scan(data, config.image.max_pixels, progress)
    for item in rejected[:SHOWN_REJECTED]:
        progress.say(f"left out: {item.path}: {item.reason}")
    if len(rejected) > SHOWN_REJECTED:
        progress.say(f"left out: {len(rejected) - SHOWN_REJECTED} more")
    manifest, warnings = assign_splits(found, config.split, config.loop.seed)
    for line in warnings:
        progress.say(line)
    counts = ", ".join(f"{len(manifest.split(split))} {split}" for split in ("train", "val", "test"))
    progress.say(f"{len(manifest.records)} images of {len(manifest.labels)} classes: {counts}")
    return manifest, rejected


def _train(
    config: RunConfig, manifest: Manifest, out: Path, device: torch.device, world: World, progress: Progress
) -> dict[str, Any]:
    model, image = build_model(config, manifest)
    store = CheckpointStore(out / "checkpoints", config.checkpoint.keep)
    workers = resolve_workers(config.loop.workers, len(manifest.split("train")))
    if world.is_main:
        environment = describe_environment(device, resolve_precision(config.loop.precision, device), world.size)
        write_json(out / "environment.json", environment)
    caches = _build_caches(config, manifest, image, out, workers, world, progress)
    trainer = build_trainer(config, manifest, model, image, store, device, world, progress, caches)
    state = _restore(store, model, trainer.optimizer, trainer.scaler, trainer.average, config, progress)
    if not world.is_main:
        state = replace(state, sums={})  # the saved sums are everybody's; one process goes on with them
    trainer.log = MetricsLog(out if world.is_main else None, state.epoch)
    progress.say(f"training {config.model.arch} on {device} in {trainer.precision}, {len(trainer.plan)} steps an epoch")
    started = time.monotonic()
    try:
        state = trainer.fit(state)
    except Interrupted as error:
        raise TrainingError(
            f"{error}; saved. Go on with: python scripts/train.py --out {shlex.quote(str(out))} --resume"
        ) from error
    except NonFiniteLossError as error:
        raise _explain_non_finite(error, manifest.split("train"), out, world) from error
    finally:
        trainer.log.close()
    seconds = time.monotonic() - started
    if not world.is_main:
        return {}
    return _finish(config, manifest, model, image, store, state, out, seconds, workers, progress)


def _explain_non_finite(error: NonFiniteLossError, records: list[Record], out: Path, world: World) -> TrainingError:
    """Names the images of the step, and lists all of them in a file."""
    paths = [records[index].path for index in error.images]
    place = out / f"non-finite-loss-rank-{world.rank}.txt"
    write_atomic(place, "".join(f"{path}\n" for path in paths))
    mine = "" if not math.isfinite(error.loss) else " in another process"
    return TrainingError(
        f"{error}{mine}, before its update; its {len(paths)} images are listed in {place}, the first is {paths[0]}; "
        "lower --optimizer.lr, or use --loop.precision fp32"
    )


@dataclass(frozen=True)
class Caches:
    """Images that were decoded before, where that is wanted."""

    train: ImageCache | None = None
    val: ImageCache | None = None


def build_trainer(
    config: RunConfig,
    manifest: Manifest,
    model: Classifier,
    image: ImageSpec,
    store: CheckpointStore,
    device: torch.device,
    world: World,
    progress: Progress,
    caches: Caches = Caches(),
) -> Trainer:
    """Everything around ``model`` that the configuration asks for; it writes nothing, and its log is nowhere."""
    loop, labels = config.loop, manifest.labels
    precision = resolve_precision(loop.precision, device)
    layout = torch.channels_last if loop.channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    train_records, val_records = manifest.split("train"), manifest.split("val")
    workers = resolve_workers(loop.workers, len(train_records))
    augment = Augmentation(config.augment, image, image.mean)
    plan = BatchPlan(len(train_records), loop.batch_size, loop.seed, world.rank, world.size)
    pin = device.type == "cuda"
    return Trainer(
        config=config,
        model=model,
        average=WeightAverage(model, loop.ema) if loop.ema else None,
        optimizer=create_optimizer(model, config.optimizer, device),
        loss=create_loss(config.loss).to(device),
        mixing=Mixing(config.augment, len(labels)),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        plan=plan,
        train_loader=training_loader(
            TrainingImages(train_records, labels, image, augment, loop.seed, caches.train), plan, workers, pin
        ),
        val_loader=evaluation_loader(
            EvaluationImages(val_records[world.rank :: world.size], labels, image, caches.val), 64, workers, pin
        ),
        device=device,
        precision=precision,
        world=world,
        store=store,
        log=MetricsLog(None, 0),
        progress=progress,
    )


def _build_caches(
    config: RunConfig,
    manifest: Manifest,
    image: ImageSpec,
    out: Path,
    workers: int,
    world: World,
    progress: Progress,
) -> Caches:
    """Decodes all images once, where that is wanted; the main process does it for all."""
    train, val = manifest.split("train"), manifest.split("val")
    # The smallest crop of an image that is shrunk to this is as large as the input: nothing is enlarged. Without random
    # crops an image is prepared as served, and shrinking it first would change its pixels.
    scale = config.augment.crop_scale
    short_side = max(image.resize, math.ceil(image.crop / math.sqrt(scale))) if scale < 1 else UNLIMITED
    size = decoded_bytes(train, image, short_side) + decoded_bytes(val, image, None)
    if config.loop.cache == "none" or (config.loop.cache == "auto" and size > AUTO_BYTES):
        return Caches()
    folder = out / CACHE_FOLDER
    failure: TrainingError | None = None
    no_room = False
    if world.is_main:
        try:
            build_cache(folder / "train", train, image, short_side, workers, progress)
            build_cache(folder / "val", val, image, None, workers, progress)
        except TrainingError as error:
            failure = error
        except OSError as error:
            if config.loop.cache == "decoded":
                failure = TrainingError(f"{folder}: {error.strerror or error}; make room, or use --loop.cache none")
            else:
                no_room = True
                progress.say(f"{folder}: {error.strerror or error}; images are decoded again every epoch")
    if world.any(failure is not None):
        raise failure or TrainingError("the main process could not decode the images; its message says why")
    if world.any(no_room):
        return Caches()
    return Caches(ImageCache(folder / "train"), ImageCache(folder / "val"))


def _finish(
    config: RunConfig,
    manifest: Manifest,
    model: Classifier,
    image: ImageSpec,
    store: CheckpointStore,
    state: TrainingState,
    out: Path,
    seconds: float,
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    best = store.find("best")
    if best is None:
        raise CheckpointError(f"{store.folder}: no best checkpoint, the run ended before its first epoch")
    load_weights(best, model)
    provenance = {
        "data": manifest.digest,
        "images": {split: len(manifest.split(split)) for split in ("train", "val", "test")},
        "config": to_dict(config),
        "checkpoint": best.name,
        "versions": library_versions(),
    }
    metrics = export_bundle(
        model, manifest, manifest.labels, image, config.export, provenance, out / BUNDLE_FOLDER, workers, progress
    )
    result = {**metrics, "best_epoch": state.best_epoch, "train_seconds": round(seconds, 1)}
    write_json(out / EVALUATION_FILE, result)
    shutil.rmtree(out / CACHE_FOLDER, ignore_errors=True)
    progress.say("writing the report")
    write_report(out)
    write_model_card(out)
    return result


def build_model(config: RunConfig, manifest: Manifest) -> tuple[Classifier, ImageSpec]:
    """The network with its starting weights, and the preprocessing that belongs to it."""
    channels = _channels(config, manifest)
    torch.manual_seed(derive_seed(config.loop.seed, "weights"))
    outputs = 1 if one_logit(config.loss, len(manifest.labels)) else len(manifest.labels)
    backbone = create_backbone(config.model, config.image, outputs, channels)
    wanted = pretrained_input(config.model, backbone, channels) if config.model.pretrained != "none" else None
    image = _image_spec(config, wanted, channels)
    if wanted is None:
        mean, std = channel_statistics(manifest.split("train"), image)
        image = replace(image, mean=mean, std=std)
    return Classifier(backbone, image.mean, image.std), image


def _channels(config: RunConfig, manifest: Manifest) -> int:
    if config.image.channels != "auto":
        return 1 if config.image.channels == "grey" else 3
    if (channels := pretrained_channels(config.model)) is not None:
        return channels
    grey = all(record.mode in ("1", "L") or record.mode.startswith("I;16") for record in manifest.records)
    return 1 if grey else 3


def _image_spec(config: RunConfig, wanted: PretrainedInput | None, channels: int) -> ImageSpec:
    image = config.image
    interpolation: str = image.interpolation
    if interpolation == "auto":
        interpolation = wanted.interpolation if wanted else "bilinear"
    resize = image.resize or (round(image.size / wanted.crop_pct) if wanted else image.size)
    return ImageSpec(
        channels=channels,
        resize=max(resize, image.size),
        crop=image.size,
        interpolation=interpolation,  # type: ignore[arg-type]
        mean=wanted.mean if wanted else (0.0,) * channels,
        std=wanted.std if wanted else (1.0,) * channels,
        max_pixels=image.max_pixels,
    )


def _restore(
    store: CheckpointStore,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: WeightAverage | None,
    config: RunConfig,
    progress: Progress,
) -> TrainingState:
    """The state of the last checkpoint, or a fresh one when there is none yet."""
    last = store.find("last")
    if last is None:
        return TrainingState()
    state = load_checkpoint(last, model, optimizer, scaler, average.module if average is not None else None)
    progress.say(f"resuming from {last}: {state.epoch} epochs and {state.batch} steps done")
    # More epochs, or more patience, than when it stopped: it is not finished any more.
    out_of_patience = 0 < config.loop.patience <= state.epoch - state.best_epoch
    return replace(state, finished=state.epoch >= config.loop.epochs or out_of_patience)
