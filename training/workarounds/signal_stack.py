"""Restores a thread's alternate signal stack after library code that changes it."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SEEN_WITH = {"nncf": "3.4", "openvino": "2026.4"}
"""Without this workaround, tests/unit/test_signal_stack.py ends with a segmentation fault."""


class _Stack(ctypes.Structure):
    """``stack_t`` on Linux (sigaltstack(2))."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restores the calling thread's current alternate signal stack at the end of the ``with`` block.

    NNCF creates several OpenVINO Cores and frees them in any order; see
    :mod:`marquee.handlers.core.engines.openvino_core` for the consequences. Only Linux is affected.
    """
    if sys.platform != "linux":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        gc.collect()  # Cores that are freed later find a stack that is not theirs, and do not change it
        sigaltstack(ctypes.byref(before), None)
