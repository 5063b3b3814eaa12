"""Find the workers, threads, batch size and variant of an archive that answer the most requests on this machine.

Measures with real requests on a private server, and writes the best settings into the archive.

Example: marquee tune photos --p99-ms 200
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Optional

import tyro

from marquee import hints
from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible
from marquee.serving.defaults import DEFAULT_CONFIG, find_config, find_store
from marquee.serving.errors import OperationError
from marquee.serving.settings import read_properties
from marquee.serving.tuning.config import TuneConfig


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """An archive of the store: "photos" for photos.mar, "photos=1.0" for photos-1.0.mar."""
    tune: Annotated[TuneConfig, tyro.conf.arg(name="")] = field(default_factory=TuneConfig)
    images: Optional[Path] = None
    """Folder of image files to send, like those that clients will send; without it, the images in the archive."""
    store: Optional[Path] = None
    """Folder of archives (default: model_store of --config)."""
    config: Path = DEFAULT_CONFIG
    """TorchServe settings."""
    device: str = "auto"
    """Where it will be served: cpu, cuda; auto takes a GPU when there is one."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure, but write nothing into the archive."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def main() -> int:
    """Entry point."""
    arguments = parse_arguments("tune", Arguments, __doc__)
    with interruptible():
        from marquee.serving.model_config import places
        from marquee.serving.store import Reference
        from marquee.serving.tuning.table import refusal, summary, table, to_document
        from marquee.serving.tuning.tune import tune
        from marquee.training.core.device import resolve_device
    reference = Reference.parse(arguments.name)
    config = find_config(arguments.config)
    store = arguments.store or find_store(config, read_properties(config))
    device = "cuda:0" if resolve_device(arguments.device).type == "cuda" else "cpu"
    tuned = tune(
        reference.find(store),
        arguments.tune,
        server_config=config,
        images=arguments.images,
        device=device,
        write=not arguments.dry_run,
    )
    print(json.dumps(to_document(tuned)) if arguments.json else table(tuned))
    if not tuned.met:
        raise OperationError(refusal(tuned))
    if not arguments.json:
        print("\n".join(summary(tuned)))
        changes = ", ".join(f"{key}: {value}" for key, value in places(tuned.archive, tuned.changes).items())
        where = f"{tuned.archive}: model-config.yaml: {changes}"
        print(f"written to {where}" if tuned.written else f"not written; to set in {where}")
        if tuned.written:
            options = [] if arguments.store is None else ["--store", arguments.store]
            options += [] if arguments.config == DEFAULT_CONFIG else ["--config", arguments.config]
            print(f"next: {hints.command('serve', 'start', reference, *options)}")
    return 0
