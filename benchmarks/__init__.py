"""Measurements beside other training loops, engines and servers. They compare, and nothing depends on them."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

ROOT = Path(__file__).resolve().parent.parent
"""The project's folder."""
WORK = ROOT / ".benchmarks"
"""Data sets, models and runs; git ignores it."""

T = TypeVar("T")


def tell(line: str) -> None:
    """Tells whoever waits how far a benchmark is."""
    print(line, file=sys.stderr, flush=True)


def program() -> str:
    """The running command, such as ``python -m benchmarks.training.throughput``."""
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name}" if spec else Path(sys.argv[0]).name


def main(measure: Callable[[T], Path], settings: type[T], description: str | None) -> NoReturn:
    """Runs a benchmark as a command: arguments in, the path of the result file out."""
    import tyro  # benchmarks.gpu runs where it is not installed

    from marquee.commands.cli import run

    run(lambda: print(measure(tyro.cli(settings, prog=program(), description=description))))
