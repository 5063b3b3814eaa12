"""Runs the commands of a page in a shell, in their order."""

import os
import re
import subprocess
import sys
from pathlib import Path

from marquee.serving.settings import Addresses
from tests import forked
from tests.conftest import ROOT

TO_RUN = re.compile(r"<!-- run -->\n```sh\n(.*?)```", re.S)


def run_commands(page: str, folder: Path, programs: Path) -> str:
    """Runs every block that is marked ``<!-- run -->``, on free ports; stops the server whatever happens.

    Args:
        page: text of the page.
        folder: where the commands run, with the data that they name.
        programs: an empty folder, for ``marquee``.

    Returns:
        What the commands wrote.
    """
    base = Addresses.free(23100).base_port
    ports = {"8080": base, "8081": base + 1, "8082": base + 2, "7070": base + 3, "7071": base + 4}

    def with_free_ports(text: str) -> str:
        return re.sub(r"\b(8080|8081|8082|7070|7071)\b", lambda match: str(ports[match[0]]), text)

    (folder / "config.properties").write_text(with_free_ports((ROOT / "config.properties").read_text()))
    commands = with_free_ports("\n".join(TO_RUN.findall(page))).replace("curl ", "curl --fail-with-body -sS ")
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    options = {"cwd": folder, "env": {**os.environ, "PATH": path}, "check": False}
    log = programs / "log"
    with forked.command(programs / "marquee", "marquee"):
        try:
            with open(log, "w") as stream:
                bash = ["bash", "-euxc", commands]
                result = subprocess.run(bash, stdout=stream, stderr=stream, timeout=500, **options)
            assert result.returncode == 0, log.read_text()
        finally:
            subprocess.run([programs / "marquee", "serve", "stop"], capture_output=True, timeout=90, **options)
    return log.read_text()
