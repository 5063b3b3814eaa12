"""The predictor without a server: what no server around it can exceed.

Reads requests as JSON lines and answers each with one, so that loading is paid once:
``{"ask": FILE}`` -> ``{"label": ...}``; ``{"files": [...], "batch": 8, "seconds": 3}`` -> a load's line.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

_Done = tuple[int, float, list[float]]
"""Images, seconds, and the seconds of each call."""


def main() -> None:
    """``MATERIAL VARIANT PROCESSES THREADS`` on the command line."""
    material, variant, processes, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    context = multiprocessing.get_context("spawn")
    workers = []
    for _ in range(processes):
        ours, theirs = context.Pipe()
        context.Process(target=_work, args=(theirs, material, variant, threads), daemon=True).start()
        workers.append(ours)
    for line in sys.stdin:
        print(json.dumps(_answer(workers, json.loads(line))), flush=True)


def _answer(workers: Sequence[Connection], command: dict[str, Any]) -> dict[str, Any]:
    if "ask" in command:
        workers[0].send(command)
        return {"label": workers[0].recv()}
    # A single client keeps a single process busy.
    busy = workers if command["batch"] > 1 else workers[:1]
    for worker in busy:
        worker.send(command)
    done: list[_Done] = [worker.recv() for worker in busy]
    latencies = 1e3 * np.concatenate([durations for _, _, durations in done])
    p50, p90, p99 = (float(value) for value in np.percentile(latencies, (50, 90, 99)))
    return {
        "requests": sum(images for images, _, _ in done),
        # Each process counts its own seconds, so the sum of their speeds is the speed.
        "seconds": sum(images for images, _, _ in done) / sum(images / seconds for images, seconds, _ in done),
        "refused": 0,
        "socket_errors": 0,
        "timeouts": 0,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
    }


def _work(connection: Connection, material: Path, variant: str, threads: int) -> None:
    import torch

    from marquee.handlers.predictor import Predictor

    torch.set_num_threads(threads)
    predictor = Predictor.load(material / "bundle", variant=variant, decode_threads=threads)
    while True:
        try:
            command = connection.recv()
        except EOFError:
            return
        if "ask" in command:
            connection.send(predictor.predict([Path(command["ask"]).read_bytes()])[0].label)  # type: ignore[union-attr]
        else:
            images = [Path(file).read_bytes() for file in command["files"]]
            connection.send(_run(predictor.predict, images, command["batch"], command["seconds"]))


def _run(predict: Any, images: list[bytes], batch: int, seconds: float) -> _Done:
    durations: list[float] = []
    start = time.perf_counter()
    turn = 0
    while not durations or time.perf_counter() - start < seconds:
        chosen = [images[(turn + i) % len(images)] for i in range(batch)]
        turn += batch
        before = time.perf_counter()
        predict(chosen)
        durations.append(time.perf_counter() - before)
    return batch * len(durations), time.perf_counter() - start, durations


if __name__ == "__main__":
    main()
