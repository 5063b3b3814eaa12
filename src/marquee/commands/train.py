"""Train a model of images or of a table, and export it as a bundle.

For images, DATA is a folder of class folders, or of train/, val/, test/ with class folders, or a CSV or Parquet table
with the columns path,label[,split][,group]; images of one group stay in one split.

For --task tabular-regression and tabular-classification, DATA is a CSV or Parquet file, and --target names the column
to predict; what the columns mean is inferred, shown, and changed with --table.SETTING.

Example: marquee train --data photos --out runs/photos --model.arch resnet18 --loop.epochs 20

Example: marquee train --task tabular-regression --data houses.csv --target price --out runs/houses

On many GPUs: torchrun --nproc-per-node 4 -m marquee train --data photos --out runs/photos
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import tyro

from marquee import hints
from marquee.commands.cli import check_task, config_file, parse_arguments, starting_config
from marquee.commands.main import interruptible
from marquee.commands.run_help import show_help_if_asked
from marquee.training.core.config import RunConfig, load_run_config
from marquee.training.core.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    data: Optional[Path] = None
    """Folder or table of labelled images, or a table of rows; needed unless --resume, for which it names the place to
    which the run's data set was moved."""
    out: Path
    """Folder of the run; it must be new unless --resume."""
    config: Optional[Path] = None
    """YAML file with any of the fields below, or a recipe (quick, finetune, scratch-small, strong); options on the
    command line override it."""
    task: Optional[str] = None
    """Task: image-classification (the default); multi-label-classification, where an image may have several labels, or
    none; tabular-regression; tabular-classification."""
    resume: bool = False
    """Continue from the last checkpoint of --out, with the run's own configuration."""
    report: bool = True
    """Write report.html and MODEL_CARD.md at the end; without them training ends sooner, and ``marquee report`` writes
    them later."""
    json: bool = False
    """Print the final metrics as one JSON object."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")]

    def __post_init__(self) -> None:
        check_task(self.task, self.run)


def _defaults() -> Any:
    """The configuration that the command line starts from: --config, else the resumed run's own, else the task's."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true")
    namespace, _ = parser.parse_known_args()
    if config_file() is None and namespace.resume and namespace.out and RunFolder(namespace.out).config.is_file():
        return load_run_config(RunFolder(namespace.out).config)
    return starting_config()


def main() -> int:
    """Entry point."""
    show_help_if_asked("train", Arguments, __doc__)
    arguments = parse_arguments("train", Arguments, __doc__, Arguments(out=tyro.MISSING, run=_defaults()))
    if arguments.data is None and not arguments.resume:
        print("error: --data is required; name a folder or a table", file=sys.stderr)
        return 2
    with interruptible():
        from marquee.training.core.run import summary, train
    metrics = train(arguments.run, arguments.data, arguments.out, arguments.resume, report=arguments.report)
    if not metrics:
        return 0  # not the main process
    if arguments.json:
        print(json.dumps(metrics))
    else:
        command = hints.command("package", arguments.out, "--name", "NAME")
        print(f"{summary(arguments.run, metrics)}, bundle in {RunFolder(arguments.out).bundle}; next: {command}")
    return 0
