"""What every command shares: errors become one line and exit code 1, Ctrl-C too; usage errors exit with 2."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from handlers.errors import ServingError
from serving.errors import OperationError
from training.config import RunConfig, load_config
from training.errors import TrainingError


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


def config_file() -> RunConfig | None:
    """What ``--config FILE`` holds, for the command line to start from; None when it is not given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    known, _ = parser.parse_known_args()
    return None if known.config is None else load_config(known.config)
