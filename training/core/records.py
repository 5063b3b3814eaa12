"""The records of a run: its configuration and its manifest, written before training starts."""

import logging
from pathlib import Path
from typing import Any

from marquee import hints
from marquee.handlers.core.schema import to_dict
from marquee.training.core.config import RunConfig, dump_config, load_run_config
from marquee.training.core.dataset import SPLITS, Manifest
from marquee.training.core.distributed import ProcessGroup
from marquee.training.core.errors import DataError, TrainingError
from marquee.training.core.exclusive import is_empty
from marquee.training.core.files import write_atomic
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import SHOWN, Rejected, log_rejected, write_rejected
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import task_of

logger = logging.getLogger(__name__)

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
"""Fields that may be changed when a run is resumed."""


def prepare_folder(
    config: RunConfig, data: Path | Manifest | None, out: Path, resume: bool, world: ProcessGroup, progress: Progress
) -> tuple[Any, Any]:
    """The main process reads the data and writes the run's records; the other processes read these records.

    Returns:
        The run's configuration, with values in place of those that follow from the data, and its manifest.
    """
    failure: TrainingError | None = None
    if world.is_main:
        try:
            _write_records(config, data, out, resume, progress)
        except TrainingError as error:
            failure = error
    if world.any(failure is not None):
        raise failure or TrainingError("the main process could not prepare the run; its message says why")
    return load_run_config(RunFolder(out).config), task_of(config).read_manifest(RunFolder(out).manifest)


def read_data(config: RunConfig, data: Path | Manifest, progress: Progress) -> tuple[Any, list[Rejected]]:
    """Every usable item of ``data`` with its split, and the files that are left out; both are logged.

    Raises:
        DataError: ``data`` cannot be used as it is.
    """
    task = task_of(config)
    unsplit, rejected = task.read(config, data, progress) if isinstance(data, Path) else (data, [])
    log_rejected(rejected)
    manifest, warnings = task.split(config, unsplit)
    for line in warnings:
        logger.info(line)
    counts = ", ".join(f"{len(manifest.split(split))} {split}" for split in SPLITS)
    logger.info(f"{task.describe(manifest)}: {counts}")
    return manifest, rejected


def check_resumable(config: RunConfig, out: Path) -> None:
    """Raises TrainingError when ``config`` differs from the run's in a field that a resumed run cannot change."""
    before = load_run_config(RunFolder(out).config)
    if before.task != config.task:
        raise TrainingError(f"{out}: cannot resume with --task {config.task}, the run has {before.task}")
    for name, old, new in _changed_fields(before, config):
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in _CHANGEABLE):
            raise TrainingError(
                f"{out}: cannot resume with --{name} {new}, the run has {old}; train into a new folder for that"
            )


def locate(config: RunConfig, out: Path, data: Path | None, progress: Progress) -> Any:
    """The manifest of a run whose data set may have been moved since; it is written again where paths have changed.

    Args:
        config: of the run.
        out: the run's folder.
        data: where its data set lies now; None: where it was.
        progress: where progress is reported.

    Returns:
        The manifest, with the items' present paths.

    Raises:
        DataError: items of the run are not there.
    """
    task, path = task_of(config), RunFolder(out).manifest
    manifest = task.read_manifest(path)
    if data is None:
        if missing := task.missing(manifest):
            total = len(manifest.records)
            raise DataError(
                f"{out}: {len(missing)} of the {total} {task.unit} of this run are no longer there, the first is "
                f"{missing[0]}; if the data set was moved, name its place with --data"
            )
        return manifest
    found = task.find_again(config, manifest, data, progress)
    if found is not manifest:
        task.write_manifest(path, found)
        logger.info(f"{path}: the {task.unit} were found again in {data}")
    return found


def _write_records(
    config: RunConfig, data: Path | Manifest | None, out: Path, resume: bool, progress: Progress
) -> None:
    folder = RunFolder(out)
    if resume:
        if not folder.is_begun:
            raise TrainingError(f"{out}: nothing to resume; run without --resume")
        config = task_of(config).resolve(config, task_of(config).read_manifest(folder.manifest))
        check_resumable(config, out)
        locate(config, out, data if isinstance(data, Path) else None, progress)
        write_atomic(folder.config, dump_config(config))
        return
    if data is None:
        raise TrainingError("no data given; name a folder or a table with --data")
    if not _is_free(out):
        if not folder.is_begun:
            raise TrainingError(f"{out}: exists already and is not a run; choose another --out")
        resuming = hints.command("train", "--out", out, "--resume")
        raise TrainingError(f"{out}: exists already; choose another --out, or resume it with: {resuming}")
    manifest, rejected = read_data(config, data, progress)
    if len(rejected) > SHOWN:
        logger.info(f"all {len(rejected)} left-out files are listed in {folder.rejected}")
    write_rejected(folder.rejected, rejected)
    write_atomic(folder.config, dump_config(task_of(config).resolve(config, manifest)))
    # Written last: its presence marks the folder as a run.
    task_of(config).write_manifest(folder.manifest, manifest)


def _is_free(out: Path) -> bool:
    """True for a folder without files, and for a run that failed before its first checkpoint."""
    if not out.exists() or (out.is_dir() and is_empty(out)):
        return True
    return RunFolder(out).is_begun and not RunFolder(out).has_checkpoints


def _changed_fields(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    before, after = to_dict(old), to_dict(new)
    return [
        (f"{part}.{field}", before[part][field], value)
        for part, fields in after.items()
        for field, value in fields.items()
        if before[part][field] != value
    ]
