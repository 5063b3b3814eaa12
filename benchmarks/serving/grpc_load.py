"""Load over gRPC: threads that ask one after the other; prints a load's line.

``STATE NAME CLIENTS SECONDS FILE...`` on the command line. A Python client takes its share of the cores: a comparison
with REST by wrk is unfair to gRPC.
"""

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from marquee.serving.server import connect


def main() -> None:
    """Runs the load."""
    state, name, clients, seconds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    bodies = [Path(file).read_bytes() for file in sys.argv[5:]]
    client = connect(state)
    client.predict_grpc(name, bodies[0])  # the connection is no part of the load
    latencies: list[float] = []
    failed: list[str] = []
    start = time.perf_counter()

    def ask(number: int) -> None:
        while time.perf_counter() - start < seconds:
            before = time.perf_counter()
            answer = client.predict_grpc(name, bodies[number % len(bodies)])
            latencies.append(1e3 * (time.perf_counter() - before))
            if answer.error:
                failed.append(answer.error)
            number += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p90, p99 = (float(value) for value in np.percentile(latencies, (50, 90, 99)))
    facts = {"requests": len(latencies), "seconds": time.perf_counter() - start, "refused": len(failed)}
    print(json.dumps({**facts, "socket_errors": 0, "timeouts": 0, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99}))


if __name__ == "__main__":
    main()
