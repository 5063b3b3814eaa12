"""wrk, the load generator: from C, so that two cores are left to the server."""

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.serving.errors import ContenderError
from benchmarks.serving.load import Load, parse_load
from training.errors import TrainingError

SCRIPT = Path(__file__).with_name("wrk.lua")
_TIMEOUT_SECONDS = 60
"""An answer that takes longer is an error."""


def find_wrk() -> str:
    """Its path.

    Raises:
        TrainingError: it is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise TrainingError("wrk: not found; install it with: scripts/install_debian_packages")
    return found


def run_wrk(url: str, headers: Mapping[str, str], bodies: Sequence[Path], clients: int, seconds: float) -> Load:
    """Asks ``url`` with ``clients`` connections for ``seconds``, in one thread.

    Args:
        url: where the bodies are posted.
        headers: of every request.
        bodies: files, sent in turn.
        clients: connections; each sends its next request after its last answer.
        seconds: whole ones, for wrk knows no others.

    Raises:
        ContenderError: it could not run.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".headers", encoding="utf-8") as stream:
        stream.writelines(f"{name}: {value}\n" for name, value in headers.items())
        stream.flush()
        command = [find_wrk(), "--threads", "1", "--connections", str(clients), "--duration", f"{round(seconds)}s"]
        command += ["--timeout", f"{_TIMEOUT_SECONDS}s", "--script", str(SCRIPT), url, "--", stream.name]
        command += map(str, bodies)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ContenderError(f"wrk ended with code {done.returncode}: {done.stderr.strip()[-300:]}")
    return parse_load(done.stdout)
