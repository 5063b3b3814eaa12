"""Choose a model by cross-validation, from simple to complex, and train the winner on everything.

DATA has the layouts of train.py; a table may have a column `group` (patient, scene, video), whose images stay
together. Images with a named test split are kept for the winner.

Example: python scripts/select_model.py photos --out runs/choice --folds 5 --minutes 120

The same command again goes on where it was stopped; finished folds are not repeated.
"""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from _cli import RECIPES, config_file, parse_arguments, run

from training.config import RunConfig
from training.progress import Progress
from training.selection.candidates import read_ladder
from training.selection.decide import Rule
from training.selection.select import SelectionConfig, select

LADDER = RECIPES / "ladder.yaml"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    data: tyro.conf.Positional[Path]
    """Folder or table of labelled images."""
    out: Path
    """Folder of the selection; one that was begun with the same data and settings is gone on with."""
    candidates: Path = LADDER
    """YAML list of candidates, simple ones first: name, kind (probe or train), config."""
    config: Path | None = None
    """YAML file with any of a run's fields, or a recipe, underneath each candidate's own; the command line wins
    over it."""
    selection: Annotated[SelectionConfig, tyro.conf.arg(name="")] = field(default_factory=SelectionConfig)
    rule: Annotated[tyro.conf.FlagCreatePairsOff[Rule], tyro.conf.arg(name="")] = field(default_factory=Rule)
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)


def main() -> int:
    """Entry point."""
    default = Arguments(data=tyro.MISSING, out=tyro.MISSING, run=config_file() or RunConfig())
    arguments = parse_arguments(Arguments, __doc__, default)
    ladder = read_ladder(arguments.candidates)
    report = select(
        arguments.data, arguments.out, ladder, arguments.run, arguments.selection, arguments.rule, Progress()
    )
    report.write(arguments.out)
    if arguments.json:
        print(json.dumps(report.to_json()))
        return 0
    command = f"python scripts/package.py {shlex.quote(str(arguments.out / 'winner'))} --name NAME"
    notes = "".join(f"{line}\n" for line in report.notes())
    print(f"{report.table()}\n{notes}\n{report.summary()}\nPicture: {arguments.out / 'selection.svg'}; next: {command}")
    return 0


if __name__ == "__main__":
    run(main)
