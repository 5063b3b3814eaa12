"""Python environments that tests make for themselves."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest


def bare_environment(folder: Path) -> Path:
    """Makes a virtual environment with the libraries of this one, but without the project; returns its Python."""
    venv.create(folder, with_pip=False)
    # A path in a .pth is added without reading the .pth files inside it, so an editable install stays out.
    (site_packages(folder) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    """Where packages of a virtual environment lie."""
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def environment_with(folder: Path, requirements: Path) -> Path:
    """Makes such an environment with packages of its own beside, exactly those of a file; returns its Python.

    Where they cannot be had, as without a network, the test that wants them is left out, but in CI.
    """
    python = bare_environment(folder)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", "--target", str(site_packages(folder)), "-r", str(requirements)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    if result.returncode:
        reason = f"{requirements.name} cannot be installed: {result.stderr[-300:]}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return python
