"""What every command shares: errors become one line and exit code 1, Ctrl-C too; usage errors exit with 2."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from handlers.errors import ServingError
from serving.errors import OperationError
from training.config import RunConfig, load_config
from training.errors import TrainingError

T = TypeVar("T")

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
"""Configurations that can be given by name."""


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs ``main`` and ends the process with its exit code (None is 0)."""
    # A polite kill ends a command as Ctrl-C does: it stops what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        code = main() or 0
    except (TrainingError, ServingError, OperationError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        sys.stderr.close()
        code = 1
    except OSError as error:
        # A full disk, a folder without permission: nothing that a stack trace would explain better.
        print(f"error: {error.filename or 'input/output'}: {error.strerror or error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 1
    sys.exit(code)


def parse_arguments(kind: type[T], description: str | None, default: T | None = None) -> T:
    """The command line as a ``kind``; a usage error ends the process with 2."""
    try:
        if default is None:
            return tyro.cli(kind, description=description)
        return tyro.cli(kind, description=description, default=default)
    except ValueError as error:
        # tyro explains the refusals of single parts, such as --loop.epochs, but not those of the whole.
        print(f"error: --{error}", file=sys.stderr)
        sys.exit(2)


def config_file() -> RunConfig | None:
    """What ``--config`` names, for the command line to start from; None when it is not given.

    Raises:
        TrainingError: there is neither such a file nor such a recipe, or it cannot be read.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    known, _ = parser.parse_known_args()
    if known.config is None:
        return None
    if known.config.exists():
        return load_config(known.config)
    # The ladder is a list of candidates for select_model.py, no configuration.
    recipes = {path.stem: path for path in sorted(RECIPES.glob("*.yaml")) if path.stem != "ladder"}
    if str(known.config) not in recipes:
        raise TrainingError(f"--config {known.config}: no such file, and no recipe of that name ({', '.join(recipes)})")
    return load_config(recipes[str(known.config)])
