"""Freed memory stays with the process that trains."""

import ctypes
import subprocess
import sys

import pytest

_PROGRAM = """
import sys, torch
from marquee.training.allocator import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.ones(1)
before = resident()
for _ in range(60):
    block = torch.ones(40_000_000, dtype=torch.uint8)
    del block
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
@pytest.mark.parametrize(("mode", "low", "high"), [("keep", 36e6, 1200e6), ("default", -1e6, 20e6)])
def test_a_freed_block_is_used_again(mode, low, high):
    """Sixty requests of 40 MB, one after the other, take a few blocks, not sixty.

    More than one, because whatever small is asked for in between is cut from the freed block.
    """
    done = subprocess.run([sys.executable, "-c", _PROGRAM, mode], capture_output=True, text=True, check=True)
    assert low < int(done.stdout) < high
