"""The records of a run: its configuration and its manifest, written before anything is trained."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from marquee import hints
from marquee.handlers.schema import to_dict
from marquee.training.config import RunConfig, dump_config, load_run_config
from marquee.training.data.manifest import Manifest, Rejected, read_manifest, write_manifest, write_rejected
from marquee.training.data.scan import scan
from marquee.training.data.split import assign_splits
from marquee.training.distributed import World
from marquee.training.errors import DataError, TrainingError
from marquee.training.files import write_atomic
from marquee.training.progress import Progress
from marquee.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

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


def prepare_folder(
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
    return read_manifest(RunFolder(out).manifest, config.model.multi_label)


def read_data(config: RunConfig, data: Path | Manifest, progress: Progress) -> tuple[Manifest, list[Rejected]]:
    """Every readable image of ``data`` with its split, and the files that are left out; people are told of both.

    Raises:
        DataError: ``data`` cannot be used as it is.
    """
    found, rejected = (data, []) if isinstance(data, Manifest) else scan(data, config.image.max_pixels, progress)
    for item in rejected[:SHOWN_REJECTED]:
        logger.info(f"left out: {item.path}: {item.reason}")
    if len(rejected) > SHOWN_REJECTED:
        logger.info(f"left out: {len(rejected) - SHOWN_REJECTED} more")
    found = replace(found, multi_label=config.model.multi_label)
    if len(found.labels) < 2:
        raise DataError(f"{data}: its images have {len(found.labels)} labels, but at least 2 are needed")
    manifest, warnings = assign_splits(found, config.split, config.loop.seed)
    for line in warnings:
        logger.info(line)
    counts = ", ".join(f"{len(manifest.split(split))} {split}" for split in ("train", "val", "test"))
    logger.info(f"{len(manifest.records)} images of {len(manifest.labels)} classes: {counts}")
    return manifest, rejected


def check_resumable(config: RunConfig, out: Path) -> None:
    """Raises TrainingError when ``config`` differs from the run's in a field that would make it another run."""
    for name, old, new in _changed_fields(load_run_config(RunFolder(out).config), config):
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in _CHANGEABLE):
            raise TrainingError(
                f"{out}: cannot resume with --{name} {new}, the run has {old}; train into a new folder for that"
            )


def _write_records(
    config: RunConfig, data: Path | Manifest | None, out: Path, resume: bool, progress: Progress
) -> None:
    folder = RunFolder(out)
    if resume:
        if not folder.is_begun:
            raise TrainingError(f"{out}: nothing to resume; run without --resume")
        check_resumable(config, out)
        write_atomic(folder.config, dump_config(config))
        return
    if data is None:
        raise TrainingError("no data given; name a folder or a table with --data")
    if not _is_free(out):
        if not folder.is_begun:
            raise TrainingError(f"{out}: exists already and is no run; choose another --out")
        resuming = hints.command("train", "--out", out, "--resume")
        raise TrainingError(f"{out}: exists already; choose another --out, or go on with it: {resuming}")
    manifest, rejected = read_data(config, data, progress)
    if len(rejected) > SHOWN_REJECTED:
        logger.info(f"all {len(rejected)} that are left out: {folder.rejected}")
    write_rejected(folder.rejected, rejected)
    write_atomic(folder.config, dump_config(config))
    # Last: its presence says that the folder is a run.
    write_manifest(folder.manifest, manifest)


def _is_free(out: Path) -> bool:
    """True for a folder without files, and for a run that failed before its first checkpoint."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
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
