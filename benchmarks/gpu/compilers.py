"""Whether code can be compiled on this machine: what torch.compile and AOTInductor want beyond PyTorch."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path


def why_not_compiled(device: str) -> str:
    """Why torch.compile can compile nothing here for ``cuda`` or ``cpu``; empty where it can.

    On a GPU, Triton compiles a launcher for its kernels in C; on a CPU, the kernels themselves are C++.
    """
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "needs Triton"
    if device == "cuda" and not _program("CC", "gcc", "clang"):
        return "needs a C compiler: gcc, clang, or that of $CC"
    if device == "cpu" and not _program("CXX", "g++", "clang++"):
        return _NEEDS_CPP
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return "" if header.is_file() else f"needs the header files of Python; there is no {header}"


def why_not_ahead_of_time(device: str) -> str:
    """The same for AOTInductor, which compiles C++, on a GPU against CUDA's header files."""
    if reason := why_not_compiled(device):
        return reason
    if not _program("CXX", "g++", "clang++"):
        return _NEEDS_CPP
    return "needs CUDA's header files; PyTorch finds no CUDA_HOME" if device == "cuda" and not _has_cuda() else ""


_NEEDS_CPP = "needs a C++ compiler: g++, clang++, or that of $CXX"


def _program(variable: str, *names: str) -> bool:
    """Whether one of these compilers is there; one that a variable names goes first, as for those who call it."""
    named = os.environ.get(variable)
    return any(shutil.which(name) for name in ([named] if named else names))


def _has_cuda() -> bool:
    from torch.utils.cpp_extension import CUDA_HOME  # takes a while to import

    return CUDA_HOME is not None and Path(CUDA_HOME, "include", "cuda.h").is_file()
