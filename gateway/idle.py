"""Which versions have nothing to do: their queues are empty, and their workers take no processor time.

A request to such a version that has no answer has been forgotten: nobody is working on it.
"""

import time
from collections.abc import Iterable

import psutil

from marquee.gateway.backend import Version

BUSY_SHARE = 0.05
"""Of one core, that the workers of a version take together, from which on they are at work."""


class Idleness:
    """Follows the processor time of workers whose processes are on this machine."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}
        self._last: dict[tuple[str, str], tuple[float, float]] = {}
        self._since: dict[tuple[str, str], float] = {}

    def look(self, versions: Iterable[Version]) -> None:
        """Looks at all workers.

        Args:
            versions: as the watch sees them now.
        """
        now, running, places = time.monotonic(), set(), set()
        for version in versions:
            place = (version.name, version.version)
            places.add(place)
            pids = {worker.pid for worker in version.workers if worker.state == "READY" and worker.pid is not None}
            running |= pids
            used, (before, then) = self._used(pids), self._last.get(place, (0.0, now))
            self._last[place] = (used, now)
            is_idle = bool(pids) and version.pending == 0 and now > then
            if is_idle and abs(used - before) < BUSY_SHARE * (now - then):
                self._since.setdefault(place, then)
            else:
                self._since.pop(place, None)
        self._last = {place: last for place, last in self._last.items() if place in places}
        self._since = {place: since for place, since in self._since.items() if place in places}
        self._processes = {pid: process for pid, process in self._processes.items() if pid in running}

    def seconds(self, place: tuple[str, str]) -> float:
        """How long a version has had nothing to do; 0: it works, or that is not known.

        Args:
            place: name and version.
        """
        since = self._since.get(place)
        return 0.0 if since is None else time.monotonic() - since

    def _used(self, pids: Iterable[int]) -> float:
        """Processor time of all of them, in seconds."""
        total = 0.0
        for pid in pids:
            try:
                if pid not in self._processes:
                    self._processes[pid] = psutil.Process(pid)
                times = self._processes[pid].cpu_times()
                total += times.user + times.system
            except psutil.Error:
                self._processes.pop(pid, None)
        return total
