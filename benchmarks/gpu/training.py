"""One training run in a process of its own, for steps that kill it, interrupt it, or start it under torchrun.

``python -m benchmarks.gpu.training CONFIG DATA OUT [--resume | --loop-alone]``: CONFIG is a file of settings, see
:func:`command`. The last line of stdout is the run's metrics as one JSON object; a loop alone has none. The exit code
is 1 for a run that failed, whose message is the last line of stderr, and 130 for one that was interrupted.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.gpu.short_run import fit
from marquee.log import log_to_stderr
from marquee.training.core.config import RunConfig, dump_config, load_config
from marquee.training.core.errors import TrainingError
from marquee.training.core.files import write_atomic
from marquee.training.core.loop import Interrupted
from marquee.training.core.run import train

INTERRUPTED = 130


def command(config: RunConfig, data: Path, out: Path, *, resume: bool = False) -> list[str]:
    """The arguments after ``python -m`` or ``torchrun -m``; writes the settings beside ``out``.

    The process needs :func:`benchmarks.gpu.step.environment`, and :data:`benchmarks.ROOT` as its folder.
    """
    settings = out.with_name(f"{out.name}.yaml")
    write_atomic(settings, dump_config(config))
    arguments = ["benchmarks.gpu.training", str(settings), str(data), str(out)]
    return [*arguments, "--resume"] if resume else arguments


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Trains, exports and evaluates, and writes no report.")
    parser.add_argument("config", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--loop-alone", action="store_true", help="without export and evaluation")
    given = parser.parse_args()
    log_to_stderr()
    try:
        if given.loop_alone:
            fit(load_config(given.config), given.data, given.out)
            return 0
        metrics = train(load_config(given.config), given.data, given.out, resume=given.resume, report=False)
    except TrainingError as error:
        print(error, file=sys.stderr)
        return INTERRUPTED if isinstance(error.__cause__, Interrupted) else 1
    print(json.dumps(metrics), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
