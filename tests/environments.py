"""Python environments that tests make for themselves."""

import sys
import sysconfig
import venv
from pathlib import Path


def bare_environment(folder: Path) -> Path:
    """Makes a virtual environment with the libraries of this one, but without the project; returns its Python."""
    venv.create(folder, with_pip=False)
    # A path in a .pth is added without reading the .pth files inside it, so an editable install stays out.
    (site_packages(folder) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def site_packages(folder: Path) -> Path:
    """Where packages of a virtual environment lie."""
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
