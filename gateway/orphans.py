"""PID 1 of a container inherits the children of processes that die, and has to ask for their exit codes."""

import asyncio
import os
from contextlib import suppress

import psutil

_SECONDS = 1.0


async def reap_orphans() -> None:
    """Takes ended children off the list that nobody asks for, for ever.

    TorchServe's launcher ends when it has started the front end, and a front end that is killed leaves workers. This
    process becomes the parent of both where it is PID 1. A child of its own has somebody who waits for it, and is gone
    long before it was seen twice.
    """
    seen: set[int] = set()
    while True:
        await asyncio.sleep(_SECONDS)
        ended = await asyncio.to_thread(_ended)
        for pid in seen & ended:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        seen = ended


def _ended() -> set[int]:
    found = set()
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found
