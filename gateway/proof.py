"""One proof: the golden samples of an archive are sent to a version, and the answers compared with evaluation's."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marquee.gateway.backend import AbsentError, Backend, Call, FullError, LostError, Reply, Version
from marquee.serving.answers import Answer
from marquee.serving.errors import OperationError
from marquee.serving.replay import Samples
from marquee.serving.store import versioned

ASK_SECONDS = 60.0
"""For one sample: behind a full queue."""
FULL_SECONDS = 0.25
"""Before a sample is sent again to a full queue."""
MOST_FULL = 120
SHARE = 8
"""Samples for each worker, at least; see :func:`plan`."""
TRANSIENT = frozenset({500, 503, 504, 507})
"""Statuses of answers that say nothing about the answers to come."""


@dataclass
class Proof:
    """Its outcome."""

    checked: int = 0
    difference: str | None = None
    """The first; None: all are equal."""
    bundles: set[str] = field(default_factory=set)
    """Digests that the answers name."""


def plan(samples: int, workers: int) -> list[int]:
    """The numbers of the samples to send, in their order: each at least once, and ``SHARE`` for each worker.

    A worker cannot be addressed. TorchServe's workers take their turns at the queue, so that idle ones have a request
    each; and were the requests dealt out by chance, the probability that one worker of ``n`` gets none of ``8 n`` would
    be below exp(-8), or 1 in 3,000. Each worker has checked every sample for itself before it was READY; what is added
    here is the way from the gateway to it and back.

    Args:
        samples: how many there are.
        workers: that are READY.
    """
    passes = max(1, -(-SHARE * workers // samples))
    return [number for _ in range(passes) for number in range(samples)]


async def prove(backend: Backend, version: Version, samples: Samples) -> Proof:
    """Sends the samples, twice as many at a time as there are workers.

    Args:
        backend: the host.
        version: with its workers.
        samples: of its archive.

    Raises:
        LostError: an answer did not come; the proof can be made again.
        AbsentError: the version has been removed.
    """
    proof, bodies = Proof(), samples.bodies
    ways = asyncio.Semaphore(2 * max(1, version.ready_workers))

    async def check(number: int) -> None:
        async with ways:
            if proof.difference is not None:
                return
            reply = await _ask(backend, version, bodies[number])
        answer = as_answer(reply)
        proof.checked += 1
        if bundle := answer.body.get("model", {}).get("bundle"):
            proof.bundles.add(str(bundle))
        if line := samples.difference(number, answer):
            proof.difference = proof.difference or line

    tasks = [asyncio.create_task(check(number)) for number in plan(len(bodies), version.ready_workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return proof


async def _ask(backend: Backend, version: Version, body: bytes) -> Reply:
    call = Call(model=version.name, version=version.version, body=body)
    for _ in range(MOST_FULL):
        try:
            reply = await backend.ask(call, ASK_SECONDS)
        except FullError:
            await asyncio.sleep(FULL_SECONDS)
            continue
        if reply.status in TRANSIENT:
            raise LostError(f"{reply.status}: {reply.body[:200]!r}")
        return reply
    raise LostError("the queue stays full")


def as_answer(reply: Reply) -> Answer:
    """The reply as :class:`~marquee.serving.replay.Samples` compares it."""
    try:
        body: Any = json.loads(reply.body)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        body = {"error": {"code": f"http_{reply.status}", "message": f"no JSON object, but {reply.body[:100]!r}"}}
    return Answer(reply.status, body)


def read_samples(store: Path, version: Version) -> Samples:
    """The golden samples of a version's archive.

    ``NAME.mar`` in the store may have become another version since it was registered; ``NAME-VERSION.mar`` stays.

    Args:
        store: folder of archives.
        version: as the host describes it.

    Raises:
        OperationError: there is no such archive, or it has no samples.
    """
    if version.archive is None:
        raise OperationError("the host does not say which archive of the store it is")
    registered = store / Path(version.archive).name
    kept = versioned(registered, version.version)
    return Samples.read(kept if kept.is_file() else registered)


__all__ = ["AbsentError", "Proof", "as_answer", "plan", "prove", "read_samples"]
