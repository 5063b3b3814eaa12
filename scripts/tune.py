"""Find the workers, threads, batches and variant of an archive that answer the most requests on this machine.

Measures with real requests on a private server, and writes the best settings into the archive. Stopped in the middle,
the same command goes on.

Example: python scripts/tune.py photos --p99-ms 200
"""

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from _cli import parse_arguments, run

from serving.errors import OperationError
from serving.server import DEFAULT_CONFIG
from serving.settings import read_properties
from serving.tuning.table import refusal, summary, table, to_document
from serving.tuning.tune import TuneConfig, tune
from training.device import resolve_device


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="NAME")]
    """An archive of the store, such as "photos" for photos.mar."""
    tune: Annotated[TuneConfig, tyro.conf.arg(name="")] = field(default_factory=TuneConfig)
    images: Path | None = None
    """A folder of image files to ask about, like those that clients will send; without it, those in the archive."""
    store: Path | None = None
    """Folder of archives (default: model_store of --config)."""
    config: Path = DEFAULT_CONFIG
    """TorchServe settings."""
    out: Path | None = None
    """Folder of the journal, NAME.tuning.jsonl (default: the store)."""
    device: str = "auto"
    """Where it will be served: cpu, cuda; auto takes a GPU when there is one."""
    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure, and write nothing into the archive."""
    fresh: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure anew what earlier calls have measured."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object."""


def main() -> int:
    """Entry point."""
    arguments = parse_arguments(Arguments, __doc__)
    name = arguments.name.removesuffix(".mar")
    # Relative to the configuration, as for serve.py.
    in_config = arguments.config.absolute().parent / read_properties(arguments.config).get("model_store", "model_store")
    store = arguments.store or in_config
    device = "cuda:0" if resolve_device(arguments.device).type == "cuda" else "cpu"
    try:
        tuned = tune(
            store / f"{name}.mar",
            arguments.tune,
            server_config=arguments.config,
            out=arguments.out or store,
            images=arguments.images,
            device=device,
            write=not arguments.dry_run,
            fresh=arguments.fresh,
            say=_say,
        )
    except KeyboardInterrupt:
        _say("what was measured is kept; the same command goes on")
        raise
    print(json.dumps(to_document(tuned)) if arguments.json else table(tuned))
    if not tuned.met:
        raise OperationError(refusal(tuned))
    if not arguments.json:
        print("\n".join(summary(tuned)))
        changes = ", ".join(f"{key}: {value}" for key, value in tuned.changes.items())
        where = f"{tuned.archive}: model-config.yaml: {changes}"
        print(f"written to {where}" if tuned.written else f"not written; to set in {where}")
        if tuned.written:
            given = "" if arguments.store is None else f" --store {shlex.quote(str(arguments.store))}"
            print(f"next: python scripts/serve.py start {name}{given}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
