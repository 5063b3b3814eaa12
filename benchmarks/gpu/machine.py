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
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

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
PROGRAMS = ("nvidia-smi", "gcc", "g++", "nvcc", "java", "git")
"""Programs that steps may use; compiled variants need ``gcc`` and ``g++``."""
_INTERVAL = 100
"""Milliseconds between two samples of :class:`Sampler`."""


def facts(device: str) -> dict[str, Any]:
    """Facts about this machine; those of its GPUs for the device ``cuda`` alone."""
    return {
        "cpu": read_cpuinfo().get("model name") or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "memory_gb": memory_gb(),
        "shared_memory_gb": shared_memory_gb(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "gpus": gpus() if device == "cuda" else [],
        **(cuda_facts() if device == "cuda" else {}),
        "packages": {name: version(name) for name in PACKAGES},
        "programs": {name: shutil.which(name) is not None for name in PROGRAMS},
    }


def gpus() -> list[dict[str, Any]]:
    """Name, compute capability, memory in GB and multiprocessors of each GPU; none without CUDA."""
    import torch  # takes seconds, and without a GPU there is nothing to ask it for

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
    import torch

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


def shared_memory_gb() -> float | None:
    """Size of ``/dev/shm`` in GB, through which loader processes hand over their batches; None where there is none."""
    try:
        return round(shutil.disk_usage("/dev/shm").total / 1e9, 3)
    except OSError:
        return None


def version(name: str) -> str:
    """Of an installed distribution; empty where it is absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


class Sampler:
    """Asks ``nvidia-smi`` ten times a second, for the length of a block, how busy GPU 0 is.

    ``nvidia-smi`` counts the share of the time in which any kernel ran, not how full the GPU was. Nothing is sampled
    where there is no such program.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._samples: list[tuple[float, float]] = []  # time.perf_counter(), %

    def __enter__(self) -> "Sampler":
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]
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
                self._samples.append((time.perf_counter(), float(line)))
            except ValueError:  # "[N/A]", or a cut line
                continue

    def utilisation(self, windows: Iterable[tuple[float, float]]) -> float | None:
        """Mean of the samples within these windows in %; None without any.

        Args:
            windows: begin and end of each, of ``time.perf_counter()``.
        """
        spans = list(windows)
        busy = [share for at, share in list(self._samples) if any(begin <= at <= end for begin, end in spans)]
        return statistics.fmean(busy) if busy else None


if __name__ == "__main__":
    import sys

    print(json.dumps(facts(sys.argv[1])))
