"""Freed memory stays with the process that trains."""

import ctypes
import subprocess
import sys

import pytest

_PROGRAM = """
import torch
from marquee.training.core.allocator import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def growth():
    before = resident()
    for _ in range(60):
        block = torch.ones(40_000_000, dtype=torch.uint8)
        del block
    return resident() - before

torch.ones(1)
print(growth())
assert keep_freed_memory()
print(growth())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
@pytest.mark.slow
def test_a_freed_block_is_used_again():
    """Sixty requests of 40 MB, one after the other, take a few blocks, not sixty.

    More than one, because whatever small is asked for in between is cut from the freed block. Before that is wanted,
    none of them stays.
    """
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    default, kept = map(int, done.stdout.split())
    assert -1e6 < default < 20e6
    assert 36e6 < kept < 1200e6
