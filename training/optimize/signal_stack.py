"""Keep a thread's alternate signal stack through code that leaves a wrong one behind."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` on Linux (sigaltstack(2))."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Gives the calling thread the signal stack again that it has now.

    NNCF makes several OpenVINO Cores and frees them in any order; see :mod:`marquee.handlers.engines.openvino_core` for
    what that leaves behind. Only Linux is concerned.
    """
    if sys.platform != "linux":
        yield
        return
    change = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    change(None, ctypes.byref(before))
    try:
        yield
    finally:
        gc.collect()  # what is freed later finds a stack that is not its own, and leaves it
        change(ctypes.byref(before), None)
