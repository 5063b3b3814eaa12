"""What the load generator itself costs, beside the obvious one: a thread a client with http.client.

The server is a process that answers every request with the same bytes, as cheaply as a socket allows.

Example: python -m benchmarks.serving.load_generator
"""

import http.client
import multiprocessing
import selectors
import socket
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import tyro

from benchmarks.results import Series, origin, write_result
from benchmarks.serving.archives import RESULTS
from marquee.commands.cli import run
from marquee.serving.tuning.load import Endpoint, closed_loop
from marquee.training.errors import TrainingError

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n" + b"x" * 500


@dataclass(frozen=True, kw_only=True)
class LoadGenerator:
    """Arguments."""

    clients: int = 16
    """Connections."""
    body_bytes: int = 20_000
    """Size of a request's body."""
    seconds: float = 2.0
    """Of each generator in each round."""
    rounds: int = 5
    """Rounds; each measures both generators."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if min(self.clients, self.body_bytes, self.seconds, self.rounds) <= 0:
            raise ValueError("clients: expected positive numbers")


def main() -> None:
    """Entry point."""
    arguments = tyro.cli(LoadGenerator, prog="python -m benchmarks.serving.load_generator", description=__doc__)
    began = origin("load_generator", "benchmarks.serving")
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=_serve, args=(theirs, arguments.body_bytes), daemon=True)
    server.start()
    endpoint = Endpoint(host="127.0.0.1", port=ours.recv(), path="/predictions/none")
    body = b"\0" * arguments.body_bytes
    generators: dict[str, Callable[[], tuple[int, float]]] = {
        "ours": lambda: _ours(endpoint, body, arguments),
        "http.client in threads": lambda: _threads(endpoint, body, arguments),
    }
    series: Series = {name: {"requests_per_second": [], "cpu_us_per_request": []} for name in generators}
    try:
        for _ in range(arguments.rounds):
            for name, generate in generators.items():
                answered, cpu = generate()
                if not answered:
                    raise TrainingError(f"{name}: no request was answered; repeat the benchmark")
                series[name]["requests_per_second"].append(answered / arguments.seconds)
                series[name]["cpu_us_per_request"].append(1e6 * cpu / answered)
    finally:
        server.kill()
        server.join()
    settings = {"clients": arguments.clients, "body_bytes": arguments.body_bytes, "seconds": arguments.seconds}
    result = began.result(settings, series, baseline="http.client in threads")
    path = write_result(RESULTS, result)
    if arguments.json:
        print(path.read_text("utf-8"))
        return
    for name, metrics in series.items():
        rate, cost = (statistics.median(metrics[metric]) for metric in ("requests_per_second", "cpu_us_per_request"))
        print(f"{name:<24}{rate:>9.0f} requests/s{cost:>8.1f} us of CPU a request")
    print(f"wrote {path}")


def _ours(endpoint: Endpoint, body: bytes, arguments: LoadGenerator) -> tuple[int, float]:
    load = closed_loop(endpoint, [body], arguments.clients, arguments.seconds)
    return load.answered, load.cpu_seconds


def _threads(endpoint: Endpoint, body: bytes, arguments: LoadGenerator) -> tuple[int, float]:
    answered = [0] * arguments.clients
    before, until = time.process_time(), time.perf_counter() + arguments.seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port)
        while time.perf_counter() < until:
            connection.request("POST", endpoint.path, body)
            connection.getresponse().read()
            answered[number] += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(arguments.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answered), time.process_time() - before


def _serve(connection: Connection, body_bytes: int) -> None:
    """Answers each request; where one ends is known from its size alone."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    connection.send(listener.getsockname()[1])
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    missing: dict[socket.socket, int] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                client = listener.accept()[0]
                selector.register(client, selectors.EVENT_READ)
                missing[client] = 0
                continue
            client = key.fileobj  # type: ignore[assignment]
            data = client.recv(1 << 18)
            if not data:
                selector.unregister(client)
                client.close()
                continue
            if not missing[client]:
                # http.client sends the head alone; a head fits into one packet.
                missing[client] = data.index(b"\r\n\r\n") + 4 + body_bytes
            missing[client] -= len(data)
            if not missing[client]:
                client.sendall(_ANSWER)


if __name__ == "__main__":
    run(main)
