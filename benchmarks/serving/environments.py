"""Environments of peers whose requirements contradict this project's: their packages first, its libraries behind them.

MLServer and KServe's server ask for versions of FastAPI, Starlette, pandas and psutil that this project does not have.
Each gets a virtual environment below .benchmarks with exactly the packages of its requirements file; torch, OpenVINO
and everything else are those of the environment that runs this command.

Example: python -m benchmarks.serving.environments
"""

import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import tyro

from benchmarks import ROOT, WORK, program, tell
from marquee.commands.cli import run
from marquee.training.core.errors import TrainingError

FOLDER = WORK / "environments"
_LIBRARIES, _MADE_OF = "libraries.pth", "requirements.txt"
_SECONDS = 600


@dataclass(frozen=True)
class Environment:
    """One of them."""

    name: str
    """Of the peer's package."""

    @property
    def folder(self) -> Path:
        """Where it is."""
        return FOLDER / self.name

    @property
    def requirements(self) -> Path:
        """The packages that it has of its own."""
        return ROOT / "benchmarks" / f"requirements-{self.name}.txt"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Where its packages are."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    @property
    def is_made(self) -> bool:
        """Whether it is there, complete, of the requirements as they are, and beside the libraries of this process."""
        made_of, libraries = self.folder / _MADE_OF, self.packages / _LIBRARIES
        return (
            made_of.is_file()
            and made_of.read_bytes() == self.requirements.read_bytes()
            and libraries.is_file()
            and libraries.read_text("utf-8") == _libraries()
        )

    def make(self) -> None:
        """Makes it anew.

        Raises:
            TrainingError: its packages cannot be installed, as without a network.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.create(self.folder, with_pip=False)
        # A path in a .pth is searched after the environment's own packages.
        (self.packages / _LIBRARIES).write_text(_libraries(), "utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        command += ["--target", str(self.packages), "-r", str(self.requirements)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if done.returncode:
            raise TrainingError(f"{self.requirements.name} cannot be installed: {done.stderr.strip()[-300:]}")
        shutil.copyfile(self.requirements, self.folder / _MADE_OF)  # the last step: now it is complete

    def version(self) -> str | None:
        """Of the peer; None where the environment is not made."""
        found = metadata.distributions(name=self.name, path=[str(self.packages)])
        return next((one.version for one in found), None) if self.is_made else None


def _libraries() -> str:
    return sysconfig.get_path("purelib") + "\n"


ENVIRONMENTS = {name: Environment(name) for name in ("mlserver", "kserve")}


@dataclass(frozen=True, kw_only=True)
class Environments:
    """Arguments."""

    names: tuple[str, ...] = tuple(ENVIRONMENTS)
    """Which to make; those that are up to date are left as they are."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.names if name not in ENVIRONMENTS]:
            raise ValueError(f"names: no {unknown[0]!r}; there are {', '.join(ENVIRONMENTS)}")


def make(settings: Environments) -> None:
    """Makes what is missing."""
    for name in settings.names:
        if not (environment := ENVIRONMENTS[name]).is_made:
            tell(f"making {environment.folder.relative_to(ROOT)}")
            environment.make()
        tell(f"{name} {environment.version()}")


if __name__ == "__main__":
    run(lambda: make(tyro.cli(Environments, prog=program(), description=__doc__)))
