"""What every command shares: errors become one line and exit code 1, Ctrl-C too; usage errors exit with 2."""

import argparse
import gc
import re
import signal
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from marquee import hints
from marquee.handlers.errors import ServingError
from marquee.log import log_to_stderr
from marquee.serving.errors import OperationError
from marquee.training.config import RunConfig, named_config
from marquee.training.errors import TrainingError

T = TypeVar("T")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs ``main`` and ends the process with its exit code (None is 0)."""
    # A polite kill ends a command as Ctrl-C does: it stops what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log_to_stderr()
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


def parse_arguments(verb: str, kind: Callable[..., T], description: str | None, default: T | None = None) -> T:
    """The command line as a ``kind``, or what a function returns for it; a usage error ends the process with 2.

    Args:
        verb: of this command, for the usage line and the examples.
        kind: a dataclass, or a function.
        description: the module's docstring.
        default: what the command line starts from.
    """
    cli: Callable[..., T] = tyro.cli
    options: dict[str, Any] = {"prog": hints.program(verb), "description": where_the_user_is(description)}
    try:
        return cli(kind, **options) if default is None else cli(kind, default=default, **options)
    except ValueError as error:
        if not isinstance(kind, type):
            raise  # of the work that a function has begun
        # tyro explains the refusals of single parts, such as --loop.epochs, but not those of the whole.
        print(f"error: --{error}", file=sys.stderr)
        sys.exit(2)
    finally:
        gc.enable()


def parse_subcommand(verb: str, commands: Mapping[str, Callable[..., T]], description: str) -> T:
    """Calls the one of ``commands`` that the command line names, with its arguments; only that one is parsed."""
    program, name = hints.program(verb), next(iter(sys.argv[1:]), None)
    if name is not None and name in commands:
        function = commands[name]
        function.__doc__ = where_the_user_is(function.__doc__)
        chosen: Callable[..., T] = tyro.cli
        return chosen(function, prog=f"{program} {name}", args=sys.argv[2:])
    if name not in (None, "-h", "--help"):
        near = get_close_matches(name, commands, 1)
        print(
            f"error: {program} {name}: no such command{f'; did you mean {near[0]}?' if near else ''}; "
            f"known: {', '.join(commands)}",
            file=sys.stderr,
        )
        sys.exit(2)
    width = max(map(len, commands))
    print(f"usage: {program} {{{','.join(commands)}}} ...\n\n{where_the_user_is(description)}")
    for key, function in commands.items():
        summary = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
        print(f"  {key:{width}s}  {summary}")
    print(f"\n{program} COMMAND --help has an example and every option.")
    sys.exit(0 if name else 2)


def where_the_user_is(text: str | None) -> str:
    """A docstring whose examples name the program as it was called."""
    return re.sub(r"(?<!-m )\bmarquee (?=[a-z])([a-z-]+)", lambda match: hints.program(match[1]), text or "")


def config_file() -> RunConfig | None:
    """What ``--config`` names, for the command line to start from; None when it is not given.

    Raises:
        TrainingError: there is neither such a file nor such a recipe, or it cannot be read.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    known, _ = parser.parse_known_args()
    return None if known.config is None else named_config(known.config)
