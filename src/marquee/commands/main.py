"""The ``marquee`` command: runs the module of a verb, and imports nothing else."""

import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Verb:
    """One verb."""

    module: str
    """Module in this package."""
    summary: str
    """What it does, for the overview."""


VERBS = {
    "demo": Verb("demo", "the whole workflow below on a small data set, in about a minute"),
    "select": Verb("select_model", "which model? compares candidates by cross-validation"),
    "find-lr": Verb("find_lr", "which learning rate?"),
    "find-batch-size": Verb("find_batch_size", "which batch size?"),
    "train": Verb("train", "train a model of images or a table: a run folder, bundle and report"),
    "import": Verb("import_model", "or: make a bundle from a model that was trained elsewhere"),
    "evaluate": Verb("evaluate", "evaluate a run on other data"),
    "report": Verb("report", "write the run's report and model card again"),
    "optimize": Verb("optimize", "add smaller and faster variants, measured on the test items"),
    "package": Verb("package", "bundle -> model_store/NAME.mar"),
    "serve": Verb("serve", "start TorchServe and verify its answers; status, stop"),
    "predict": Verb("predict", "send files to the server: images, or rows of a table"),
    "models": Verb("models", "list, register, scale and remove models of the server"),
    "keys": Verb("keys", "make, list and revoke keys of the gateway's clients"),
    "certificates": Verb("certificates", "make certificates for development, for a gateway with TLS"),
    "tune": Verb("tune", "find the settings that answer the most requests on this machine"),
    "completion": Verb("completion", "print the completion script for a shell"),
}

MAP = (
    ("First", ("demo",)),
    ("Choose", ("select", "find-lr", "find-batch-size")),
    ("Train", ("train", "import")),
    ("Look", ("evaluate", "report")),
    ("Make it fast", ("optimize",)),
    ("Serve", ("package", "serve", "predict", "models", "tune")),
    ("Guard", ("keys", "certificates")),
    ("Shell", ("completion",)),
)
"""The verbs by group, in the order in which users need them."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs ``marquee VERB ...`` and ends the process with its exit code.

    Args:
        arguments: the command line without the program's name; None: this process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        sys.exit(0 if words else 2)
    if words[0] in ("-V", "--version"):
        print(version())
        sys.exit(0)
    if words[0] not in VERBS:
        print(f"error: {_unknown(words[0])}", file=sys.stderr)
        sys.exit(2)
    run_verb(words[0], words[1:])


def run_verb(verb: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one verb and ends the process; the scripts in ``scripts/`` call this.

    Args:
        verb: a key of :data:`VERBS`.
        arguments: the arguments of the verb; None: those of this process.
    """
    from importlib import import_module

    # Until the arguments are parsed, garbage collection would take a sixth of the time and free hardly anything. It is
    # enabled again before anything else is imported or started.
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["--version"], ["-V"]):
        print(version())
        sys.exit(0)
    sys.argv[1:] = words
    with interruptible():
        gc.disable()
        module = import_module(f"marquee.commands.{VERBS[verb].module}")
        from marquee.commands.cli import run
    run(module.main)


def overview() -> str:
    """The overview: every verb, in the order in which users need them."""
    lines = [
        "From labelled images or a table to a TorchServe endpoint, served exactly as trained.",
        "",
        "  marquee train --data photos --out runs/photos    # photos/cat/1.jpg, photos/dog/2.jpg, ...",
        "  marquee package runs/photos --name photos",
        "  marquee serve start photos",
        "  marquee predict photos cat.jpg",
        "",
    ]
    width = max(map(len, VERBS))
    for title, verbs in MAP:
        for i, verb in enumerate(verbs):
            lines.append(f"{title if not i else '':14s}{verb:{width}s}  {VERBS[verb].summary}")
    lines += ["", "marquee VERB --help has an example and every option; marquee --version prints the version."]
    return "\n".join(lines)


def version() -> str:
    """``marquee 0.1.0``."""
    from importlib.metadata import version as read

    return f"marquee {read('marquee')}"


@contextmanager
def interruptible() -> "Iterator[None]":
    """Lets Ctrl-C end the process with one line while libraries are imported.

    A KeyboardInterrupt in the middle of an import prints dozens of lines of traceback, and some extension modules turn
    it into an ImportError. Nothing has been started or written yet, so the process simply ends.
    """

    def end(number: int, frame: object) -> None:
        os.write(2, b"interrupted\n")
        os._exit(1)

    gc.enable()
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Under nohup it stays ignored.
    numbers += [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    previous = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _unknown(verb: str) -> str:
    from difflib import get_close_matches

    matches = get_close_matches(verb, VERBS, 1)
    return f"{verb}: no such command{f'; did you mean {matches[0]}?' if matches else ''}; marquee --help lists them"
