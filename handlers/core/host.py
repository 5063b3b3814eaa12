"""What decides how fast and how exactly a variant runs on a machine."""

import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from .cgroup import cpu_quota

ISA = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")
"""Instruction sets that engines choose their kernels by, named as in ``/proc/cpuinfo``."""
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine's fingerprint."""

    cpu: str
    """Name of the processor."""
    isa: tuple[str, ...]
    """Those of :data:`ISA` that it has; none where the system does not tell."""
    cores: int
    """Cores that a process may use."""
    gpu: str = ""
    """Name of the GPU; empty without one."""

    def like(self, other: "Host") -> bool:
        """Whether what was measured on one machine holds on the other: the same processor and GPU."""
        return (self.cpu, self.isa, self.gpu) == (other.cpu, other.isa, other.gpu)


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, or the CPU quota of its container where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    # Rounded up, as Java does it: with 1.5 a second thread has half a core.
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def this_host(device: str = "cpu") -> Host:
    """The machine that this runs on, with its GPU when ``device`` is one."""
    fields = read_cpuinfo()
    flags = set(fields.get("flags", "").split())
    gpu = ""
    if device.startswith("cuda"):
        import torch  # a server without a GPU is not made to pay for asking

        gpu = torch.cuda.get_device_name(device)
    return Host(
        cpu=fields.get("model name") or platform.processor() or platform.machine(),
        isa=tuple(name for name in ISA if name in flags),
        cores=usable_cores(),
        gpu=gpu,
    )


def read_cpuinfo() -> dict[str, str]:
    """The first processor's fields in ``/proc/cpuinfo``; none on systems without the file."""
    try:
        first = _CPUINFO.read_text("utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
