"""The process's one OpenVINO runtime.

Every ``ov.Core`` that has loaded the CPU plugin gives the calling thread an alternate signal stack, and takes it back
when it is freed. Two that are freed in the order of their making leave the thread with the stack of the first, which is
gone: the next signal that Python handles (Ctrl-C, a time-out, a child that ended) then kills the process with SIGSEGV,
without a word. Seen with OpenVINO 2026.4.1 on Linux; the plugin's ``SigAltStackSetup``, there for AMX.
"""

import functools

import openvino as ov


@functools.cache
def core() -> ov.Core:
    """The only Core; it is never freed, so its signal stack stays.

    Call it before libraries that make others, such as NNCF: a second one that is freed gives back the stack of this.
    """
    runtime = ov.Core()
    runtime.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin, here and now
    return runtime
