"""Runs the commands and the Python programs of a page in a shell, in their order."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from marquee.serving.settings import Addresses
from tests import forked
from tests.conftest import ROOT, WORKER

TO_RUN = re.compile(r"<!-- run -->\n```(sh|python)\n(.*?)```", re.S)


def choose_ports() -> Callable[[str], str]:
    """What puts free ports into a text, in the places of those that the pages name."""
    base = Addresses.free(20_600 + 1_000 * WORKER).base_port  # pages run in several workers at once
    gateway = Addresses.free(base + 5).base_port
    ports = {"8080": base, "8081": base + 1, "8082": base + 2, "7070": base + 3, "7071": base + 4}
    ports |= {"8090": gateway, "8091": gateway + 1}
    return lambda text: re.sub(rf"\b({'|'.join(ports)})\b", lambda match: str(ports[match[0]]), text)


def run_commands(page: str, folder: Path, programs: Path) -> str:
    """Runs every block that is marked ``<!-- run -->``, on free ports; stops the server whatever happens.

    Args:
        page: text of the page.
        folder: where the commands run, with the data that they name.
        programs: an empty folder, for ``marquee``.

    Returns:
        What the commands wrote.
    """
    with_free_ports = choose_ports()
    (folder / "config.properties").write_text(with_free_ports((ROOT / "config.properties").read_text()))
    blocks = [
        f"python - <<'END_OF_PROGRAM'\n{text}END_OF_PROGRAM\n"
        if language == "python"
        else text.replace("curl ", "curl --fail-with-body -sS ")
        for language, text in TO_RUN.findall(page)
    ]
    commands = with_free_ports("\n".join(blocks))
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    options = {"cwd": folder, "env": {**os.environ, "PATH": path}, "check": False}
    log = programs / "log"
    marquee = forked.command(programs / "marquee", "marquee")
    try:
        with open(log, "w") as stream:
            bash = ["bash", "-euxc", commands]
            result = subprocess.run(bash, stdout=stream, stderr=stream, timeout=500, **options)
        assert result.returncode == 0, log.read_text()
    finally:
        subprocess.run([marquee, "serve", "stop"], capture_output=True, timeout=90, **options)
    return log.read_text()
