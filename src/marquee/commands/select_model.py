"""Choose a model by cross-validation, from simple to complex, and train the winner on everything.

DATA is what marquee train takes: labelled images or, with a --task for tables, a CSV or Parquet file.
Items of one group (patient, scene, video) stay in one fold; images of a test split are kept for the winner.

Example: marquee select photos --out runs/choice --folds 5 --minutes 120

Example: marquee select houses.csv --task tabular-regression --target price --out runs/choice

The same command again continues where it stopped; finished folds are not repeated.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Optional

import tyro

from marquee import hints
from marquee.commands.cli import check_task, parse_arguments, starting_config
from marquee.commands.main import interruptible
from marquee.commands.run_help import show_help_if_asked
from marquee.training.core.config import RunConfig
from marquee.training.selection.config import Rule, SelectionConfig
from marquee.training.selection.kinds import registered


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    data: tyro.conf.Positional[Path]
    """Folder or table of labelled images; or a table of rows."""
    out: Path
    """Folder of the selection; a selection begun there with the same data and settings is continued."""
    candidates: Optional[Path] = None
    """YAML list of candidates, simple ones first: name, kind (probe or train), config; without it, Marquee's
    built-in list for the task."""
    config: Optional[Path] = None
    """YAML file with any of a run's fields, or a recipe; the candidates' own settings and options on the command
    line override it."""
    task: Optional[str] = None
    """Task: image-classification (the default), tabular-regression or tabular-classification."""
    selection: Annotated[SelectionConfig, tyro.conf.arg(name="")] = field(default_factory=SelectionConfig)
    rule: Annotated[tyro.conf.FlagCreatePairsOff[Rule], tyro.conf.arg(name="")] = field(default_factory=Rule)
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")]

    def __post_init__(self) -> None:
        check_task(self.task, self.run)


def main() -> int:
    """Entry point."""
    show_help_if_asked("select", Arguments, __doc__)
    default = Arguments(data=tyro.MISSING, out=tyro.MISSING, run=starting_config())
    arguments = parse_arguments("select", Arguments, __doc__, default)
    with interruptible():
        from marquee.training.core.progress import Progress
        from marquee.training.selection.candidates import read_ladder
        from marquee.training.selection.select import select
    ladder = read_ladder(arguments.candidates or registered(arguments.run.task).candidates)
    report = select(
        arguments.data, arguments.out, ladder, arguments.run, arguments.selection, arguments.rule, Progress()
    )
    report.write(arguments.out)
    if arguments.json:
        print(json.dumps(report.to_json()))
        return 0
    command = hints.command("package", arguments.out / "winner", "--name", "NAME")
    notes = "".join(f"{line}\n" for line in report.notes())
    print(f"{report.table()}\n{notes}\n{report.summary()}\nPicture: {arguments.out / 'selection.svg'}; next: {command}")
    return 0
