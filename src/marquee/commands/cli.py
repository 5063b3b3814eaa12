"""What every command shares: errors become one line and exit code 1, Ctrl-C too; usage errors exit with 2."""

import argparse
import gc
import io
import re
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

import tyro

from marquee import hints
from marquee.handlers.core.errors import ServingError
from marquee.locks import LockedError
from marquee.log import log_to_stderr
from marquee.serving.errors import OperationError
from marquee.training.core.config import RunConfig, named_config
from marquee.training.core.errors import TrainingError
from marquee.training.tasks import DEFAULT_TASK, TASKS, default_config

T = TypeVar("T")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs ``main`` and ends the process with its exit code (None is 0)."""
    _end_by_signals()
    _show_whatever_the_encoding()
    log_to_stderr()
    try:
        code = main() or 0
    except (TrainingError, ServingError, OperationError, LockedError) as error:
        _say(f"error: {' '.join(str(error).split())}")
        code = 1
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe.
        sys.stderr.close()
        code = 1
    except OSError as error:
        # A full disk, a folder without permission: a stack trace would not explain it better.
        _say(f"error: {error.filename or 'input/output'}: {error.strerror or error}")
        code = 1
    except KeyboardInterrupt:
        _say("interrupted")
        code = 1
    except RuntimeError as error:
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        # Python 3.11 wraps what a signal raises while a class is made, as on an import.
        _say("interrupted")
        code = 1
    sys.exit(code)


def _end_by_signals() -> None:
    """SIGTERM, and SIGHUP of a closed terminal, end a command as Ctrl-C does, so that it stops what it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, _hang_up)


def _hang_up(number: int, frame: object) -> NoReturn:
    # The shell and the system may each send one, and the second must not interrupt the clearing up.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    raise KeyboardInterrupt


def _show_whatever_the_encoding() -> None:
    """Characters that the terminal's encoding does not have are written as escapes, and raise nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not (
            stream.errors in ("backslashreplace", "replace", "xmlcharrefreplace", "namereplace")
            or (stream.errors == "surrogateescape" and stream.encoding.lower() == "utf-8")
        ):
            stream.reconfigure(errors="backslashreplace")


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # the terminal is closed
        print(text, file=sys.stderr, flush=True)


def parse_arguments(verb: str, kind: Callable[..., T], description: str | None, default: T | None = None) -> T:
    """Parses the command line to a ``kind``, or calls a function with it; a usage error ends the process with 2.

    Args:
        verb: of this command, for the usage line and the examples.
        kind: a dataclass, or a function.
        description: the module's docstring.
        default: values for options that are not given.
    """
    cli: Callable[..., T] = tyro.cli
    options: dict[str, Any] = {"prog": hints.program(verb), "description": with_program_name(description)}
    if isinstance(run := getattr(default, "run", None), RunConfig):
        options["args"] = [_without_short_option(word, run.short_options) for word in sys.argv[1:]]
    try:
        return cli(kind, **options) if default is None else cli(kind, default=default, **options)
    except ValueError as error:
        if not isinstance(kind, type):
            raise  # from the work of the function, not from parsing
        # tyro reports the errors of single parts, such as --loop.epochs, but not those of the whole.
        print(f"error: --{error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 2 and isinstance(run, RunConfig):
            _explain_options_of_other_tasks(run)
        raise
    finally:
        gc.enable()


def _explain_options_of_other_tasks(run: RunConfig) -> None:
    """Names the tasks for options that another task has, such as ``--target``, after the parser has refused them."""
    given = {word.partition("=")[0].removeprefix("--") for word in sys.argv[1:] if word.startswith("--")}
    for option in sorted(given - set(run.short_options)):
        if tasks := [name for name in TASKS if option in default_config(name).short_options]:
            print(f"--{option} is an option of --task {' and --task '.join(tasks)}", file=sys.stderr)


def _without_short_option(word: str, short_options: Mapping[str, str]) -> str:
    """``--table.target`` for ``--target``, where that is short for it; other words as they are."""
    name, equals, value = word.partition("=")
    for option, setting in short_options.items():
        if name == f"--{option}":
            return f"--{setting.replace('_', '-')}{equals}{value}"
    return word


def parse_subcommand(verb: str, commands: Mapping[str, Callable[..., T]], description: str) -> T:
    """Calls the command that the command line names, with its arguments; only that command's options are parsed."""
    program, name = hints.program(verb), next(iter(sys.argv[1:]), None)
    if name is not None and name in commands:
        function = commands[name]
        function.__doc__ = with_program_name(function.__doc__)
        cli: Callable[..., T] = tyro.cli
        return cli(function, prog=f"{program} {name}", args=sys.argv[2:])
    if name not in (None, "-h", "--help"):
        matches = get_close_matches(name, commands, 1)
        print(
            f"error: {program} {name}: no such command{f'; did you mean {matches[0]}?' if matches else ''}; "
            f"known: {', '.join(commands)}",
            file=sys.stderr,
        )
        sys.exit(2)
    width = max(map(len, commands))
    print(f"usage: {program} {{{','.join(commands)}}} ...\n\n{with_program_name(description)}")
    for key, function in commands.items():
        summary = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
        print(f"  {key:{width}s}  {summary}")
    print(f"\n{program} COMMAND --help has an example and every option.")
    sys.exit(0 if name else 2)


def with_program_name(text: str | None) -> str:
    """A docstring, with the program in its examples named as it was called."""
    return re.sub(r"(?<!-m )\bmarquee (?=[a-z])([a-z-]+)", lambda match: hints.program(match[1]), text or "")


def config_file(task: str | None = None) -> Any:
    """The configuration that ``--config`` names; None when it is not given.

    Args:
        task: the task for a file that names none.

    Raises:
        TrainingError: there is neither such a file nor such a recipe, or it cannot be read.
    """
    config = _option_value("config")
    return None if config is None else named_config(config, task)


def starting_config() -> Any:
    """The configuration that the command line starts from: ``--config``, else the defaults of ``--task``.

    An unknown task ends the process with 2.

    Raises:
        TrainingError: see :func:`config_file`.
    """
    default = task_default()
    return config_file(_option_value("task")) or default


def check_task(task: str | None, config: RunConfig) -> None:
    """Raises ValueError where ``--task`` and the settings, of the command line or of a file, contradict each other."""
    if task is not None and config.task != task:
        raise ValueError(f"task: expected {config.task}, which the other settings are for, got {task}")


def task_default() -> Any:
    """The default configuration of ``--task``; an unknown task ends the process with 2."""
    try:
        return default_config(_option_value("task") or DEFAULT_TASK)
    except ValueError as error:
        print(f"error: --{error}", file=sys.stderr)
        sys.exit(2)


def _option_value(option: str) -> str | None:
    """The value of one option on the command line, before the others can be parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(f"--{option}")
    try:
        namespace, _ = parser.parse_known_args()
    except argparse.ArgumentError:
        return None  # its value is missing, which the full parser will report
    value: str | None = getattr(namespace, option)
    return value
