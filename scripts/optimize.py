"""Give a run's bundle smaller and faster variants, measure each, and rank those that lose no accuracy.

Example: python scripts/optimize.py runs/photos --max-accuracy-drop 0.005 --p99-ms 20

On the machine that serves, without the data set: python scripts/optimize.py --on-host model_store/photos.mar
"""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from _cli import parse_arguments, run

from handlers.spec import SPEC_FILE
from serving.archive import open_archive, replace_spec
from training.device import resolve_device
from training.optimize.config import OptimizeConfig, PruningConfig
from training.optimize.on_host import measure_on_host
from training.optimize.optimize import Optimized, optimize
from training.optimize.table import table
from training.progress import Progress
from training.report import write_model_card, write_report

_EVALUATION = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    run_folder: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(name="RUN")] = None
    """A run of train.py, or what import_model.py wrote."""
    on_host: Path | None = None
    """Instead: an archive whose variants are measured and ranked for this machine."""
    device: str = "auto"
    """Where it will be served: cpu, cuda; auto takes a GPU when there is one."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""
    optimize: Annotated[OptimizeConfig, tyro.conf.arg(name="")] = field(default_factory=OptimizeConfig)
    prune: PruningConfig = field(default_factory=PruningConfig)

    def __post_init__(self) -> None:
        if (self.run_folder is None) == (self.on_host is None):
            raise ValueError("on-host: give either a RUN or --on-host ARCHIVE")


def main() -> None:
    """Entry point."""
    arguments = parse_arguments(Arguments, __doc__)
    device = resolve_device(arguments.device).type
    if arguments.on_host is not None:
        result = _on_host(arguments.on_host, arguments.optimize, device)
        following = f"restart the server to use it: python scripts/serve.py start {arguments.on_host.stem}"
    elif arguments.run_folder is not None:
        result = optimize(arguments.run_folder, arguments.optimize, arguments.prune, device, Progress())
        if (arguments.run_folder / _EVALUATION).is_file():
            write_report(arguments.run_folder)
            write_model_card(arguments.run_folder)
        following = f"next: python scripts/package.py {shlex.quote(str(arguments.run_folder))} --name NAME"
    if arguments.json:
        print(json.dumps(result.to_dict()))
    else:
        print(f"{table(result)}\nchosen here: {result.chosen}; {following}")


def _on_host(archive: Path, config: OptimizeConfig, device: str) -> Optimized:
    with open_archive(archive) as folder:
        result = measure_on_host(folder, config, device, Progress())
        replace_spec(archive, (folder / SPEC_FILE).read_bytes())
    return result


if __name__ == "__main__":
    run(main)
