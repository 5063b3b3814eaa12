"""The environment of a run: facts that help to explain its results."""

import importlib.metadata
import os
import platform
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "torchserve")


def library_versions() -> dict[str, str]:
    """Python and the libraries that affect answers -> version."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def describe_environment(device: torch.device, precision: str, world_size: int) -> dict[str, Any]:
    """Machine, devices and library versions."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if device.type == "cuda" else []
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpus": gpus,
        "precision": precision,
        "processes": world_size,
        "versions": library_versions(),
    }
