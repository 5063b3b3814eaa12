"""One run, from a data set to a bundle.

Its files: :class:`marquee.training.run_folder.RunFolder`.
"""

import logging
import math
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from marquee import hints
from marquee.handlers.schema import to_dict
from marquee.handlers.spec import ImageSpec
from marquee.training.advice import advise
from marquee.training.assemble import build_caches, build_model, build_trainer
from marquee.training.checkpoint import CheckpointStore, TrainingState, load_checkpoint, load_weights
from marquee.training.config import RunConfig
from marquee.training.context import RunContext
from marquee.training.data.loading import resolve_workers
from marquee.training.data.manifest import Manifest, Record
from marquee.training.device import resolve_device, resolve_precision
from marquee.training.distributed import World, joined
from marquee.training.ema import WeightAverage
from marquee.training.environment import describe_environment, library_versions
from marquee.training.errors import CheckpointError, TrainingError
from marquee.training.export import export_bundle
from marquee.training.files import write_atomic, write_json
from marquee.training.loop import Interrupted, NonFiniteLossError, NonFiniteValidationError, out_of_patience
from marquee.training.metrics_log import MetricsLog
from marquee.training.models import Classifier, check_model, check_resizing
from marquee.training.optim import check_optimizer
from marquee.training.progress import Progress
from marquee.training.records import prepare_folder
from marquee.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

_REMEDY = "lower --optimizer.lr, or use --loop.precision fp32, in a new --out"
"""For a loss that is infinite or no number; a resume takes neither."""


def train(
    config: RunConfig,
    data: Path | None,
    out: Path,
    resume: bool = False,
    manifest: Manifest | None = None,
    report: bool = True,
) -> dict[str, Any]:
    """Trains on ``data`` into the run folder ``out`` and exports the bundle.

    Args:
        config: the run's configuration.
        data: a data set (see :mod:`marquee.training.data.scan`); None on a resume, which has the run's manifest.
        out: the run's folder; it must be new unless ``resume``.
        resume: go on from the last checkpoint of ``out``.
        manifest: images that were scanned already, with or without splits; used instead of ``data``.
        report: write the report and the model card, too.

    Returns:
        The bundle's metrics (see :func:`marquee.training.export.export_bundle`), ``train_seconds`` and ``best_epoch``.

    Raises:
        TrainingError: with what happened and what to do.
    """
    device = resolve_device(config.loop.device)
    check_model(config.model)
    check_resizing(config.model, config.loop)
    check_optimizer(config.optimizer)
    resume = resume or _restarted(out)
    with joined(device) as world:
        progress = Progress(quiet=not world.is_main)
        if not world.is_main:
            logging.getLogger("marquee").setLevel(logging.WARNING)  # the main process speaks for all
        recorded = prepare_folder(config, manifest or data, out, resume, world, progress)
        if not resume and manifest is None:  # a selection trains many times on what its caller has seen
            for line in advise(config, recorded):
                logger.info(line)
        context = RunContext(folder=RunFolder(out), device=device, world=world, progress=progress)
        result = _train(config, recorded, context)
        if report and world.is_main:
            from marquee.training.report import write_model_card, write_report  # matplotlib: nothing is drawn before

            logger.info("writing the report")
            write_report(out)
            write_model_card(out)
        return result


def _restarted(out: Path) -> bool:
    """True when torchrun has started this command again after a process died, and there is something to go on with."""
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return again and RunFolder(out).has_checkpoints


def _train(config: RunConfig, manifest: Manifest, context: RunContext) -> dict[str, Any]:
    device, world, out = context.device, context.world, context.folder.path
    model, image = build_model(config, manifest)
    if world.is_main:
        environment = describe_environment(device, resolve_precision(config.loop.precision, device), world.size)
        write_json(context.folder.environment, environment)
    trainer = build_trainer(config, manifest, model, image, context, build_caches(config, manifest, image, context))
    store = trainer.store
    state = _restore(store, model, trainer.optimizer, trainer.scaler, trainer.average, config, context.progress)
    if not world.is_main:
        state = replace(state, sums={})  # the saved sums are everybody's; one process goes on with them
    trainer.log = MetricsLog(out if world.is_main else None, state.epoch)
    logger.info(f"training {config.model.arch} on {device} in {trainer.precision}, {len(trainer.plan)} steps an epoch")
    started = time.monotonic()
    try:
        state = trainer.fit(state)
    except Interrupted as error:
        raise TrainingError(
            f"{error}; saved. Go on with: {hints.command('train', '--out', out, '--resume')}"
        ) from error
    except NonFiniteLossError as error:
        raise _explain_non_finite(error, manifest.split("train"), out, world) from error
    except NonFiniteValidationError as error:
        raise TrainingError(f"{error}; the checkpoints in {store.folder} are from before it; {_REMEDY}") from error
    finally:
        trainer.log.close()
    seconds = time.monotonic() - started
    if not world.is_main:
        return {}
    best = _best(store)
    load_weights(best, model)
    metrics = _export(config, manifest, model, image, best.name, context)
    result = {**metrics, "best_epoch": state.best_epoch, "train_seconds": round(seconds, 1)}
    write_json(context.folder.evaluation, result)
    shutil.rmtree(context.folder.cache, ignore_errors=True)
    return result


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
    if state.best_accuracy >= 0 and not math.isfinite(state.best_loss):
        # Runs from before this was checked while they went.
        raise TrainingError(
            f"{store.folder}: the validation loss of the best checkpoint, after epoch {state.best_epoch}, is "
            f"{state.best_loss}, so nothing here is worth going on with; {_REMEDY}"
        )
    logger.info(f"resuming from {last}: {state.epoch} epochs and {state.batch} steps done")
    # More epochs, or more patience, than when it stopped: it is not finished any more.
    return replace(state, finished=state.epoch >= config.loop.epochs or out_of_patience(config.loop, state))


def _explain_non_finite(error: NonFiniteLossError, records: list[Record], out: Path, world: World) -> TrainingError:
    """Names the images of the step, and lists all of them in a file."""
    paths = [records[index].path for index in error.images]
    place = out / f"non-finite-loss-rank-{world.rank}.txt"
    write_atomic(place, "".join(f"{path}\n" for path in paths))
    mine = "" if not math.isfinite(error.loss) else " in another process"
    return TrainingError(
        f"{error}{mine}, before its update; its {len(paths)} images are listed in {place}, the first is {paths[0]}; "
        f"{_REMEDY}"
    )


def _best(store: CheckpointStore) -> Path:
    best = store.find("best")
    if best is None:
        raise CheckpointError(f"{store.folder}: no best checkpoint, the run ended before its first epoch")
    return best


def _export(
    config: RunConfig, manifest: Manifest, model: Classifier, image: ImageSpec, checkpoint: str, context: RunContext
) -> dict[str, Any]:
    provenance = {
        "data": manifest.digest,
        "images": {split: len(manifest.split(split)) for split in ("train", "val", "test")},
        "config": to_dict(config),
        "checkpoint": checkpoint,
        "versions": library_versions(),
    }
    workers = resolve_workers(config.loop.workers, len(manifest.split("train")))
    return export_bundle(
        model, manifest, image, config.export, provenance, context.folder.bundle, workers, context.progress
    )
