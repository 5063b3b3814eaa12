"""Device and number format."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from marquee.training.core.errors import TrainingError


def resolve_device(name: str) -> torch.device:
    """The device for ``--loop.device``; under torchrun, each process gets the GPU of its local rank.

    Raises:
        TrainingError: the device is unknown or not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no data")
        if device.type == "cuda":
            index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
            device = torch.device("cuda", index)
            torch.cuda.set_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first_line = str(error).splitlines()[0]
        raise TrainingError(f"device {name}: not available here: {first_line}") from error
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """``fp64``, ``fp32``, ``bf16`` or ``fp16`` for ``--loop.precision``.

    On a CPU, auto is bf16 where there are instructions for it (AMX, AVX512-BF16): elsewhere it is emulated and gains
    nothing.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return "bf16"
    return "fp32"


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Uses deterministic algorithms within the block, where ``wanted``; an operation that has none only warns.

    It also sets ``CUBLAS_WORKSPACE_CONFIG``, unless it is set. The variable stays after the block, and acts only where
    this process has not used cuBLAS before: to be sure of it, set it before the process starts.
    """
    if not wanted:
        yield
        return
    # Without it, results of cuBLAS depend on the order of its streams.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The autocast context of ``precision``; a null context for fp32 and fp64, which the weights then have."""
    if precision in ("fp32", "fp64"):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)
