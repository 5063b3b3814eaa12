"""Ends TorchServe when the step that started it has ended, in whatever way.

``python -m benchmarks.gpu.server_guard STATE``: waits for the end of its stdin, a pipe that the step holds; then ends
the processes of this state folder.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import ROOT
from benchmarks.gpu.step import Report, environment

_SECONDS = 45.0


@contextmanager
def ends_with_us(state: Path, report: Report) -> Iterator[None]:
    """No server of this state folder outlives the block, even where this process is killed.

    Args:
        state: the folder.
        report: takes a row where the processes have not ended in time.
    """
    command = [sys.executable, "-m", "benchmarks.gpu.server_guard", str(state)]
    # In a session of its own: what kills the step's processes leaves it alone.
    guard = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        try:
            guard.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:  # it is left to go on
            report.row("end of TorchServe", f"not after {_SECONDS:g} s", right=False, wanted="its processes have ended")


def main(state: Path) -> None:
    """Entry point."""
    sys.stdin.read()
    from marquee.serving.server import stop_left_over  # imported late: the step starts in the meantime

    if found := stop_left_over(state, timeout=5):
        print(f"ended {found}, which a step had left", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
