"""Ready means proven: a version is ready only when its golden answers were equal over the wire.

The proof is made again for every set of workers: a process that is new, after a restart of a worker or of the host, is
``UNPROVEN`` until then. One worker cannot be addressed, so the samples are sent often enough that each has its share
(:func:`marquee.gateway.proof.plan`), and a new one beside proven ones may answer before its proof: it has checked its
golden answers itself, as every worker does while it loads. A version whose answers differ has workers that are
``DIFFERENT``, and gets no requests.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from marquee.gateway.backend import AbsentError, Backend, LostError, Version, Worker
from marquee.gateway.proof import Proof, prove, read_samples
from marquee.gateway.watch import Watch, key
from marquee.serving.errors import OperationError
from marquee.serving.replay import Samples

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 15.0
"""After which a proof that failed is tried again, though no process has changed."""
HASTY_SECONDS = 0.5
"""The same for one that could not be finished, because a worker died or the queue was full."""

Identity = tuple[str, int | None]


@dataclass
class _State:
    """What is known of one version."""

    proven: frozenset[Identity] = frozenset()
    """The workers that were there when the answers were equal."""
    differs: str | None = None
    """The first difference; None: there is none, or it is not known yet."""
    differing: frozenset[Identity] = frozenset()
    """The workers that were there then."""
    task: "asyncio.Task[None] | None" = None
    not_before: float = 0.0
    said: set[str] = field(default_factory=set)
    """What was logged, so that it is logged once."""


class Proofs:
    """Proves the versions that a watch sees, and tells which are ready.

    Args:
        backend: the host.
        watch: of the host's workers; the proofs begin when it starts.
        store: folder of the archives, for their golden samples.
    """

    def __init__(self, backend: Backend, watch: Watch, store: Path) -> None:
        self._backend, self._watch, self._store = backend, watch, Path(store)
        self._states: dict[tuple[str, str], _State] = {}
        self._samples: dict[tuple[str, str], Samples] = {}
        self._seen: dict[tuple[str, str], Version] = {}
        self._listeners: list[Callable[[], None]] = []
        self.draining = False
        """Set where the gateway is about to end: the probes say that it is not ready, and requests are still taken."""
        watch.on_look(self._look)

    @property
    def is_ready(self) -> bool:
        """Whether every default version has a READY worker that was proven; False for no model, and while draining."""
        defaults = [version for version in self._seen.values() if version.is_default]
        return bool(defaults) and not self.draining and all(version.ready_workers for version in defaults)

    @property
    def versions(self) -> Sequence[Version]:
        """As last seen; the state of a worker that was not proven is ``UNPROVEN`` or ``DIFFERENT``."""
        return tuple(self._seen.values())

    def find(self, name: str, version: str | None = None) -> Version | None:
        """A version, or the default one, with these states."""
        found = self._watch.find(name, version)
        return None if found is None else self._seen.get(key(found))

    def on_change(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` after each look and each proof."""
        self._listeners.append(listener)

    async def close(self) -> None:
        """Gives up the proofs under way."""
        tasks = [state.task for state in self._states.values() if state.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self) -> None:
        """Begins the proofs that are due."""
        seen = {key(version): version for version in self._watch.versions}
        for place in [place for place in self._states if place not in seen]:
            if (task := self._states.pop(place).task) is not None:
                task.cancel()
        now = time.monotonic()
        for place, version in seen.items():
            state = self._states.setdefault(place, _State())
            workers = identities(version)
            state.proven &= frozenset((worker.id, worker.pid) for worker in version.workers)
            if state.differing and not state.differing & workers:
                state.differs, state.differing, state.not_before = None, frozenset(), 0.0  # those processes are gone
            is_due = bool(workers - state.proven) or (state.differs is not None and bool(workers))
            if is_due and state.task is None and now >= state.not_before:
                state.task = asyncio.create_task(self._prove(version, state), name=f"proof: {place}")
        self._tell()

    def _tell(self) -> None:
        self._seen = {
            key(version): self._judged(version, self._states.get(key(version), _State()))
            for version in self._watch.versions
        }
        for tell in self._listeners:
            tell()

    def _judged(self, version: Version, state: _State) -> Version:
        def judged(worker: Worker) -> Worker:
            if worker.state != "READY":
                return worker
            if state.differs is not None:
                return replace(worker, state="DIFFERENT")
            return worker if (worker.id, worker.pid) in state.proven else replace(worker, state="UNPROVEN")

        return replace(version, workers=tuple(map(judged, version.workers)))

    async def _prove(self, version: Version, state: _State) -> None:
        name, workers = f"{version.name} {version.version}", identities(version)
        wait = AGAIN_SECONDS
        try:
            proof = await self._attempt(version)
            now = self._watch.find(version.name, version.version)
            still = workers & identities(now) if now is not None else frozenset()
            if proof.difference is not None:
                state.differs, state.differing = proof.difference, workers
                self._say(state, f"{name} is not ready: answers differ from evaluation's; first: {proof.difference}")
            elif still:
                state.proven |= still
                state.differs, state.differing, wait = None, frozenset(), 0.0
                state.said.clear()
                logger.info("%s is proven: %d golden answers equal, workers %s", name, proof.checked, _pids(still))
            else:
                wait = 0.0  # they have died meanwhile
        except OperationError as error:
            self._say(state, f"{name} cannot be proven, and is not ready: {error}")
        except (LostError, AbsentError) as error:
            wait = HASTY_SECONDS
            logger.info("the proof of %s is made again: %s", name, error)
        except Exception:
            logger.exception("the proof of %s failed", name)
        finally:
            state.task, state.not_before = None, time.monotonic() + wait
            self._tell()

    async def _attempt(self, version: Version) -> Proof:
        """Asks for the samples; the archive is read again where the answers are from another one than was read."""
        place = key(version)
        kept = self._samples.get(place)
        if kept is not None:
            proof = await prove(self._backend, version, kept)
            if proof.bundles <= {kept.digest}:
                return proof
        self._samples[place] = await asyncio.to_thread(read_samples, self._store, version)
        return await prove(self._backend, version, self._samples[place])

    def _say(self, state: _State, line: str) -> None:
        if line not in state.said:
            state.said.add(line)
            logger.error("%s", line)


def identities(version: Version) -> frozenset[Identity]:
    """The workers that the host calls READY and whose processes run."""
    return frozenset((worker.id, worker.pid) for worker in version.workers if worker.state == "READY")


def _pids(workers: frozenset[Identity]) -> str:
    return ", ".join(sorted(f"pid {pid}" if pid is not None else name for name, pid in workers))
