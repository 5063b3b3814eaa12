"""One run, from a data set to a bundle.

Its files: :class:`marquee.training.core.run_folder.RunFolder`.
"""

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from marquee import hints
from marquee.handlers.core.schema import to_dict
from marquee.training.core.assemble import build_trainer
from marquee.training.core.checkpoint import CheckpointStore, TrainingState, load_checkpoint, load_weights
from marquee.training.core.config import RunConfig, load_run_config
from marquee.training.core.context import RunContext
from marquee.training.core.dataset import SPLITS
from marquee.training.core.device import deterministic_algorithms, resolve_device, resolve_precision
from marquee.training.core.distributed import ProcessGroup, process_group
from marquee.training.core.environment import describe_environment, library_versions
from marquee.training.core.errors import CheckpointError, TrainingError
from marquee.training.core.exclusive import exclusive
from marquee.training.core.export import export_bundle
from marquee.training.core.files import write_atomic, write_json
from marquee.training.core.loop import (
    Interrupted,
    NonFiniteLossError,
    NonFiniteValidationError,
    Trainer,
    out_of_patience,
)
from marquee.training.core.metrics_log import MetricsLog
from marquee.training.core.optim import check_optimizer
from marquee.training.core.out_of_memory import explained_in_run
from marquee.training.core.places import check_apart
from marquee.training.core.progress import Progress
from marquee.training.core.records import prepare_folder
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import Network, task_of
from marquee.training.core.trial_pass import check_forward

logger = logging.getLogger(__name__)


def train(
    config: RunConfig,
    data: Path | None,
    out: Path,
    resume: bool = False,
    manifest: Any = None,
    report: bool = True,
) -> dict[str, Any]:
    """Trains on ``data`` into the run folder ``out`` and exports the bundle.

    Args:
        config: the run's configuration.
        data: the data set; None when resuming, which uses the run's manifest.
        out: the run's folder; it must be new unless ``resume``.
        resume: continue from the last checkpoint of ``out``.
        manifest: items that were read already, with or without splits; used instead of ``data``.
        report: also write the report pages.

    Returns:
        The bundle's metrics (see :func:`marquee.training.core.export.export_bundle`), ``train_seconds`` and
        ``best_epoch``.

    Raises:
        TrainingError: the message says what happened and what to do.
    """
    device = resolve_device(config.loop.device)
    task = task_of(config)
    task.check(config)
    check_optimizer(config.optimizer)
    resume = resume or _restarted(out)
    if data is not None and manifest is None and not resume:
        check_apart(data, out)
    with process_group(device) as world, _alone(out, world):
        progress = Progress(quiet=not world.is_main)
        if not world.is_main:
            logging.getLogger("marquee").setLevel(logging.WARNING)  # only the main process logs
        given = data if manifest is None else manifest
        config, recorded = prepare_folder(config, given, out, resume, world, progress)
        if not resume and manifest is None:  # a caller with a manifest, such as a selection, trains on it many times
            for line in task.advise(config, recorded):
                logger.info(line)
        context = RunContext(folder=RunFolder(out), device=device, world=world, progress=progress)
        with deterministic_algorithms(config.loop.deterministic), explained_in_run(config, context):
            result = _train(config, recorded, context)
        if report and world.is_main:
            logger.info("writing the report")
            task.write_report(out)
        return result


def write_report(out: Path) -> dict[str, Path]:
    """Writes the report pages of a finished run; returns the path of each.

    Raises:
        TrainingError: the folder is not a finished run; the message names the file.
    """
    config = RunFolder(out).config
    if not config.is_file():
        raise TrainingError(f"{config}: not found; a report needs a finished run")
    with exclusive(out, "marquee report"):
        return task_of(load_run_config(config)).write_report(out)


def summary(config: RunConfig, metrics: dict[str, Any]) -> str:
    """The result of a run in one line."""
    return task_of(config).summary(metrics)


@contextmanager
def _alone(out: Path, world: ProcessGroup) -> Iterator[None]:
    """The main process holds the lock of the run's folder; without it, no process goes on."""
    with ExitStack() as held:
        failure: TrainingError | None = None
        if world.is_main:
            try:
                held.enter_context(exclusive(out, "marquee train"))
            except TrainingError as error:
                failure = error
        if world.any(failure is not None):
            raise failure or TrainingError("the main process could not begin; its message says why")
        yield


def _remedy(precision: str) -> str:
    """What to do about a loss that is infinite or NaN; a resumed run cannot change these settings."""
    wider = ", or use --loop.precision fp32," if precision in ("bf16", "fp16") else ""
    return f"lower --optimizer.lr{wider} in a new --out"


def _restarted(out: Path) -> bool:
    """True when torchrun has restarted this command after a process died, and there is a checkpoint to resume from."""
    is_restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return is_restart and RunFolder(out).has_checkpoints


def _train(config: RunConfig, manifest: Any, context: RunContext) -> dict[str, Any]:
    device, world, out = context.device, context.world, context.folder.path
    network = task_of(config).build(config, manifest)
    if world.is_main:
        environment = describe_environment(device, resolve_precision(config.loop.precision, device), world.size)
        write_json(context.folder.environment, environment)
    trainer = build_trainer(config, manifest, network, context, cache=True)
    check_forward(trainer.model, network.input, trainer.smallest_part, device, trainer.precision)
    store = trainer.store
    state = _restore(trainer)
    if not world.is_main:
        state = replace(state, sums={})  # the saved sums are over all processes; only one continues with them
    trainer.log = MetricsLog(out if world.is_main else None, state.epoch)
    title = task_of(config).title(config)
    logger.info(f"training {title} on {device} in {trainer.precision}, {len(trainer.sampler)} steps an epoch")
    started = time.monotonic()
    try:
        state = trainer.fit(state)
    except Interrupted as error:
        raise TrainingError(
            f"{error}; the state is saved. Resume with: {hints.command('train', '--out', out, '--resume')}"
        ) from error
    except NonFiniteLossError as error:
        raise _explain_non_finite(error, manifest.split("train"), trainer, context) from error
    except NonFiniteValidationError as error:
        raise TrainingError(
            f"{error}; the checkpoints in {store.folder} are from before that; {_remedy(trainer.precision)}"
        ) from error
    finally:
        trainer.log.close()
    seconds = time.monotonic() - started
    if not world.is_main:
        return {}
    best = _best(store)
    load_weights(best, network.model)
    metrics = _export(config, manifest, network, best.name, context)
    exported = state.epoch if config.loop.select == "last" else state.best_epoch
    result = {**metrics, "best_epoch": exported, "train_seconds": round(seconds, 1)}
    write_json(context.folder.evaluation, result)
    shutil.rmtree(context.folder.cache, ignore_errors=True)
    return result


def _restore(trainer: Trainer) -> TrainingState:
    """The state of the last checkpoint, or a fresh one when there is none yet."""
    store, loop = trainer.store, trainer.config.loop
    last = store.find("last")
    if last is None:
        return TrainingState()
    average = trainer.average.module if trainer.average is not None else None
    state = load_checkpoint(last, trainer.model, trainer.optimizer, trainer.scaler, average)
    if state.best_score > -math.inf and not math.isfinite(state.best_loss):
        # Runs of earlier versions, which did not check this while training.
        raise TrainingError(
            f"{store.folder}: the validation loss of the best checkpoint, after epoch {state.best_epoch}, is "
            f"{state.best_loss}, so the run cannot be resumed; {_remedy(trainer.precision)}"
        )
    logger.info(f"resuming from {last}: {state.epoch} epochs and {state.batch} steps done")
    # With more epochs or more patience than when it stopped, the run is no longer finished.
    return replace(state, finished=state.epoch >= loop.epochs or state.converged or out_of_patience(loop, state))


def _explain_non_finite(
    error: NonFiniteLossError, records: list[Any], trainer: Trainer, context: RunContext
) -> TrainingError:
    """The error for the user; all items of the step are listed in a file."""
    paths = [records[index].path for index in error.items]
    listing = context.folder.path / f"non-finite-loss-rank-{context.world.rank}.txt"
    write_atomic(listing, "".join(f"{path}\n" for path in paths))
    origin = "" if not math.isfinite(error.loss) else " in another process"
    items = f"{len(paths)} {trainer.objective.unit}"
    return TrainingError(
        f"{error}{origin}, before its update; its {items} are listed in {listing}, the first is {paths[0]}; "
        f"{_remedy(trainer.precision)}"
    )


def _best(store: CheckpointStore) -> Path:
    best = store.find("best")
    if best is None:
        raise CheckpointError(f"{store.folder}: no best checkpoint, the run ended within its first epoch")
    return best


def _export(config: RunConfig, manifest: Any, network: Network, checkpoint: str, context: RunContext) -> dict[str, Any]:
    provenance = {
        "data": manifest.digest,
        task_of(config).unit: {split: len(manifest.split(split)) for split in SPLITS},
        "config": to_dict(config),
        "checkpoint": checkpoint,
        "versions": library_versions(),
    }
    return export_bundle(config, manifest, network, provenance, context)
