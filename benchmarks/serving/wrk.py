"""wrk, the load generator: from C, so that two cores are left to the server."""

import math
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.serving.errors import ContenderError
from benchmarks.serving.load import Load, parse_load
from marquee.training.errors import TrainingError

SCRIPT = Path(__file__).with_name("wrk.lua")
_LONGEST_SECONDS = 30
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
    """Asks ``url`` with ``clients`` connections, in one thread.

    The load ends with the first answer after ``seconds`` by which there are as many answers as clients, at the latest
    after half a minute: of a server that takes a second for a batch, one batch more or less would decide otherwise.

    Args:
        url: where the bodies are posted.
        headers: of every request.
        bodies: files, sent in turn.
        clients: connections; each sends its next request after its last answer.
        seconds: at least so long.

    Raises:
        ContenderError: it could not run.
    """
    longest = max(_LONGEST_SECONDS, math.ceil(seconds))
    command = [find_wrk(), "--threads", "1", "--connections", str(clients), "--duration", f"{longest}s"]
    command += ["--timeout", f"{_TIMEOUT_SECONDS}s", "--script", str(SCRIPT), url, "--"]
    with (
        tempfile.NamedTemporaryFile("w", suffix=".headers", encoding="utf-8") as stream,
        tempfile.TemporaryFile("w+", encoding="utf-8") as complaints,
    ):
        stream.writelines(f"{name}: {value}\n" for name, value in headers.items())
        stream.flush()
        command += [str(seconds), str(clients), stream.name, *map(str, bodies)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True) as process:
            try:
                output = _until_enough(process)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            complaints.seek(0)
            raise ContenderError(f"wrk ended with code {process.returncode}: {complaints.read().strip()[-300:]}")
    return parse_load(output)


def _until_enough(process: "subprocess.Popen[str]") -> str:
    """What wrk prints; it is asked to come to its end when its script says so."""
    lines = []
    for line in process.stdout or ():
        if line.strip() == "enough":
            process.send_signal(signal.SIGINT)
        lines.append(line)
    return "".join(lines)
