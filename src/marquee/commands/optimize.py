"""Add smaller and faster variants to a run's bundle, measure each, and rank those that lose no accuracy.

Example: marquee optimize runs/photos --max-accuracy-drop 0.005 --p99-ms 20

On the machine that serves, without the data set: marquee optimize --on-host model_store/photos.mar
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import tyro

from marquee import hints
from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible
from marquee.handlers.core.spec import SPEC_FILE
from marquee.training.core.run_folder import RunFolder
from marquee.training.optimize.config import OptimizeConfig, PruningConfig

if TYPE_CHECKING:
    from marquee.training.optimize.optimize import Optimized


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    run_folder: Annotated[tyro.conf.Positional[Optional[Path]], tyro.conf.arg(metavar="RUN")] = None
    """Run folder of marquee train or marquee import."""
    on_host: Optional[Path] = None
    """Instead of RUN: an archive whose variants are measured and ranked for this machine."""
    data: Optional[Path] = None
    """Where the data set of RUN lies, if it was moved since the training; items are found again by their digests."""
    device: str = "auto"
    """Where it will be served: cpu, cuda; auto takes a GPU when there is one."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""
    optimize: Annotated[OptimizeConfig, tyro.conf.arg(name="")] = field(default_factory=OptimizeConfig)
    prune: PruningConfig = field(default_factory=PruningConfig)

    def __post_init__(self) -> None:
        if (self.run_folder is None) == (self.on_host is None):
            raise ValueError("on-host: give either a RUN or --on-host ARCHIVE")
        if self.data is not None and self.run_folder is None:
            raise ValueError("data: is the data set of a RUN; an archive has samples of its own")


def main() -> None:
    """Entry point."""
    arguments = parse_arguments("optimize", Arguments, __doc__)
    with interruptible():
        from marquee.training.core.device import resolve_device
        from marquee.training.core.progress import Progress
        from marquee.training.optimize.optimize import optimize
        from marquee.training.optimize.table import table
    device = resolve_device(arguments.device).type
    if arguments.on_host is not None:
        result = _on_host(arguments.on_host, arguments.optimize, device)
        start = hints.command("serve", "start", arguments.on_host.stem, "--store", arguments.on_host.parent)
        next_step = f"restart the server to use it: {start}"
    elif arguments.run_folder is not None:
        result = optimize(arguments.run_folder, arguments.optimize, arguments.prune, device, Progress(), arguments.data)
        if RunFolder(arguments.run_folder).evaluation.is_file():
            from marquee.training.core.run import write_report

            write_report(arguments.run_folder)
        next_step = f"next: {hints.command('package', arguments.run_folder, '--name', 'NAME')}"
    if arguments.json:
        print(json.dumps(result.to_dict()))
    else:
        print(f"{table(result)}\nchosen here: {result.order.reason}; {next_step}")


def _on_host(archive: Path, config: OptimizeConfig, device: str) -> "Optimized":
    from marquee.serving.archive import open_archive, replace_spec
    from marquee.training.core.progress import Progress
    from marquee.training.optimize.on_host import measure_on_host

    with open_archive(archive) as folder:
        result = measure_on_host(folder, config, device, Progress())
        replace_spec(archive, (folder / SPEC_FILE).read_bytes())
    return result
