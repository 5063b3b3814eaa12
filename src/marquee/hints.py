"""Shell commands for messages, written so that they work where the user is.

A message to a user who typed ``python scripts/train.py`` in a checkout names ``python scripts/package.py``; to one who
typed ``.venv/bin/marquee train``, it names ``.venv/bin/marquee package``.
"""

import shlex
import shutil
import sys
from pathlib import Path

SCRIPTS = {
    "select": "select_model",
    "import": "import_model",
    "find-lr": "find_lr",
    "find-batch-size": "find_batch_size",
    "demo": "run_demo",
}
"""Verbs whose script in ``scripts/`` has a different name; none may be named like a module of the standard library."""

_ENTRY = Path(__file__).resolve().parent / "__main__.py"


def command(verb: str, *arguments: object) -> str:
    """The shell command for ``marquee VERB ARGUMENT...``, quoted.

    Args:
        verb: such as ``package``.
        arguments: as a user would type them.
    """
    return " ".join([program(verb), *(shlex.quote(str(argument)) for argument in arguments)])


def program(verb: str) -> str:
    """How to run a verb, in the way this process was run: ``marquee package``, ``python scripts/package.py``."""
    started = Path(sys.argv[0] or "-")
    if started.parent.name == "scripts" and started.suffix == ".py":
        script = started.with_name(f"{SCRIPTS.get(verb, verb.replace('-', '_'))}.py")
        if script.is_file():
            return f"{_python()} {shlex.quote(str(script))}"
    if started.name == "marquee" and started.is_file() and not _is_on_path("marquee", started):
        return f"{shlex.quote(str(started))} {verb}"
    if started.name != "marquee" and (started == _ENTRY or shutil.which("marquee") is None):
        return f"{_python()} -m marquee {verb}"
    return f"marquee {verb}"


def _python() -> str:
    return "python" if _is_on_path("python", Path(sys.executable)) else shlex.quote(sys.executable)


def _is_on_path(name: str, file: Path) -> bool:
    """Whether typing ``name`` runs ``file``."""
    # Symbolic links are not resolved: the Python of a virtual environment is a link to the system's.
    executable = shutil.which(name)
    return executable is not None and Path(executable).absolute() == file.absolute()
