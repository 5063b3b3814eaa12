"""What a run was measured on: GPUs, driver, libraries, cores; and how busy a GPU is.

``python -m benchmarks.gpu.machine`` prints the facts as one JSON object: in a process of its own, so that a driver that
crashes does not end the pack.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import threading
from types import TracebackType
from typing import Any

import torch

from marquee.handlers.core.host import read_cpuinfo, usable_cores

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "safetensors",
    "pyyaml",
    "scikit-learn",
    "scipy",
    "tensorboard",
    "tyro",
    "rich",
    "psutil",
    "matplotlib",
    "orjson",
    "openvino",
    "nncf",
    "torch-pruning",
    "torchserve",
    "torch-model-archiver",
    "grpcio",
    "requests",
    "captum",
    "triton",
)
"""Distributions whose versions are told, or that they are absent."""
PROGRAMS = ("nvidia-smi", "g++", "nvcc", "java", "git")
"""Programs that steps may use; compiled variants need ``g++``."""
_INTERVAL = 200
"""Milliseconds between two samples of :class:`Sampler`."""


def facts(device: str) -> dict[str, Any]:
    """Facts about this machine; those of its GPUs for the device ``cuda`` alone."""
    return {
        "cpu": read_cpuinfo().get("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "memory_gb": memory_gb(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpus": gpus() if device == "cuda" else [],
        **(cuda_facts() if device == "cuda" else {}),
        "packages": {name: version(name) for name in PACKAGES},
        "programs": {name: shutil.which(name) is not None for name in PROGRAMS},
    }


def gpus() -> list[dict[str, Any]]:
    """Name, compute capability, memory in GB and multiprocessors of each GPU; none without CUDA."""
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [
        {
            "name": one.name,
            "capability": f"{one.major}.{one.minor}",
            "memory_gb": round(one.total_memory / 1e9, 1),
            "multiprocessors": one.multi_processor_count,
        }
        for one in found
    ]


def cuda_facts() -> dict[str, Any]:
    """Versions of CUDA and its libraries, and of the driver; empty texts where they cannot be asked."""
    nccl = ""
    if torch.distributed.is_available() and torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return {
        "driver": ", ".join(sorted(set(query("driver_version")))),
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version() or ""),  # type: ignore[no-untyped-call]
        "nccl": nccl,
        "mig": ", ".join(sorted(set(query("mig.mode.current")))),
    }


def query(field: str) -> list[str]:
    """A field of ``nvidia-smi --query-gpu`` for each GPU; none where the program is absent or fails."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def memory_gb() -> float:
    """Main memory in GB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


def version(name: str) -> str:
    """Of an installed distribution; empty where it is absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


class Sampler:
    """Asks ``nvidia-smi`` five times a second, for the length of a block, how busy GPU 0 is.

    ``nvidia-smi`` counts the share of the time in which any kernel ran, not how full the GPU was. Nothing is sampled
    where there is no such program.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._samples: list[tuple[float, float]] = []

    def __enter__(self) -> "Sampler":
        command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-i", "0"]
        try:
            self._process = subprocess.Popen(
                [*command, "-lms", str(_INTERVAL)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            return self
        self._thread = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None and self._thread is not None:
            self._process.terminate()
            self._process.wait()
            self._thread.join(5)

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            try:
                busy, used = line.split(",")
                self._samples.append((float(busy), float(used)))
            except ValueError:  # "[N/A]", or a cut line
                continue

    @property
    def utilisation(self) -> float | None:
        """Mean of the samples in %; None without any."""
        return statistics.fmean(busy for busy, _ in self._samples) if self._samples else None

    @property
    def memory_gb(self) -> float | None:
        """The most memory of the GPU that was in use, of all processes, in GB; None without a sample."""
        return max(used for _, used in self._samples) * 2**20 / 1e9 if self._samples else None


if __name__ == "__main__":
    import sys

    print(json.dumps(facts(sys.argv[1])))
