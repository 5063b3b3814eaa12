"""Runs the example: ``python -m examples.linear_regression``, or ``python examples/linear_regression``."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

if not __package__:  # called by the name of the folder, which stands first on the path then
    sys.path[0] = str(Path(__file__).resolve().parents[2])


def main() -> int:
    """Entry point; steps go to stderr, the result to stdout as one JSON object.

    Returns:
        The exit code: 0, 1 where a step failed, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(description="Linear regression: as printed, corrected, served, compared.")
    parser.add_argument("--work", type=Path, help="folder for tables, runs and archives; a temporary one by default")
    arguments = parser.parse_args()
    try:
        from examples.linear_regression.steps import run
        from marquee import OperationError, TrainingError
    except KeyboardInterrupt:
        return _interrupted()
    try:
        with tempfile.TemporaryDirectory(prefix="linear-regression-") as temporary:
            result = run(arguments.work or Path(temporary))
    except KeyboardInterrupt:
        return _interrupted()
    except (OperationError, TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


def _interrupted() -> int:
    print("interrupted", file=sys.stderr)
    return 130


if __name__ == "__main__":
    sys.exit(main())
