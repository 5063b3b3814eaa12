"""Write a run's report and model card again, from the run folder.

Example: marquee report runs/photos

RUN/report.html is one file for any browser; RUN/MODEL_CARD.md keeps what its owner has filled in.
"""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import tyro

from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible


def report(
    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Prints the paths of the files.

    Args:
        run_folder: A finished run of marquee train.
        json: Print one JSON object.
    """
    with interruptible():
        from marquee.training.core.run import write_report
    written = {name: str(path) for name, path in write_report(run_folder).items()}
    print(jsonlib.dumps(written) if json else "\n".join(written.values()))


def main() -> None:
    """Entry point."""
    parse_arguments("report", report, __doc__)
