"""The predictor without a server: what no server around it can exceed.

Reads requests as JSON lines, so that loading is paid once: ``{"files": [...], "batch": 8, "seconds": 3}``. Answers each
with one: ``[label of the first image, images, seconds, seconds of each call]`` of each process that took part.
"""

import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

from marquee.handlers.core.predictor import Predictor
from marquee.handlers.outputs.classification import Prediction

_predictor: Predictor
"""Of a child."""


def main() -> None:
    """``MATERIAL VARIANT PROCESSES THREADS`` on the command line."""
    material, variant, processes, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with multiprocessing.get_context("spawn").Pool(processes, _start, (material, variant, threads)) as pool:
        for line in sys.stdin:
            command = json.loads(line)
            # A single client keeps a single process busy; more of them find every process free, so each takes one part.
            parts = processes if command["batch"] > 1 else 1
            print(json.dumps(pool.map(_answer, [command] * parts, chunksize=1)), flush=True)


def _start(material: Path, variant: str, threads: int) -> None:
    global _predictor
    import torch

    torch.set_num_threads(threads)
    _predictor = Predictor.load(material / "bundle", variant=variant, threads=threads)


def _answer(command: dict[str, Any]) -> Any:
    images = [Path(file).read_bytes() for file in command["files"]]
    durations: list[float] = []
    start = time.perf_counter()
    while not durations or time.perf_counter() - start < command["seconds"]:
        turn = len(durations) * command["batch"]
        chosen = [images[(turn + i) % len(images)] for i in range(command["batch"])]
        before = time.perf_counter()
        first = _predictor.predict(chosen)[0]
        durations.append(time.perf_counter() - before)
    label = first.label if isinstance(first, Prediction) else first.code
    return label, command["batch"] * len(durations), time.perf_counter() - start, durations


if __name__ == "__main__":
    main()
