"""The steps of a demo: each is a command, as a user would run it."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from marquee import hints
from marquee.serving.defaults import PACKAGED_CONFIG
from marquee.serving.errors import OperationError
from marquee.training.core.run_folder import RunFolder

if TYPE_CHECKING:
    from marquee.serving.client import Answer, Client

WORKERS = 2
CLIENTS = 8


class Demo(Protocol):
    """What differs between demos."""

    @property
    def name(self) -> str:
        """Of the model on the server."""

    @property
    def what(self) -> str:
        """The data, in words."""

    @property
    def items(self) -> str:
        """The plural noun for items, such as ``test images``."""

    @property
    def training(self) -> tuple[str, ...]:
        """Arguments of ``marquee train``, besides the folders."""

    def write_data(self, folder: Path) -> Path:
        """Writes the data set; returns what ``--data`` names."""

    def score(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        """The metric that the demo reports, from those of the run.

        Raises:
            OperationError: it is worse than it should be.
        """

    def requests(self, run: RunFolder) -> list[tuple[bytes, dict[str, str]]]:
        """The body for each line of the run's predictions, and that line."""

    def is_equal(self, answer: "Answer", row: dict[str, str]) -> bool:
        """Whether an answer is what evaluation wrote down."""

    def example(self, work: Path, run: RunFolder) -> Path:
        """A file that a user can send."""


def run_demo(demo: Demo, work: Path, started: float) -> dict[str, Any]:
    """Runs all steps.

    Args:
        demo: the demo.
        work: folder for data, run, archive and logs; emptied first.
        started: seconds since the epoch.

    Raises:
        OperationError: a step failed.
    """
    import json

    from marquee.serving import server as servers
    from marquee.serving.readiness import ready_workers
    from marquee.serving.settings import Addresses

    relative_work, work = work, work.absolute()
    run, store, state = RunFolder(work / "run"), work / "model_store", work / "server"
    empty(work, state)
    say(f"1/7 data: {demo.what} in {work / 'data'}")
    data = demo.write_data(work / "data")
    say("2/7 training")
    trained = json.loads(command("train", work, "--data", data, "--out", run.path, "--json", *demo.training))
    score = demo.score(trained)
    say(f"    {', '.join(f'test {name} {value:.4f}' for name, value in score.items())}")
    say("3/7 packaging")
    command("package", work, run.path, "--name", demo.name, "--store", store)
    say("4/7 starting TorchServe and replaying the golden samples over REST and gRPC")
    serve = ("--config", PACKAGED_CONFIG, "--store", store, "--state", state)
    port = Addresses.free().base_port
    try:
        golden = json.loads(command("serve", work, "start", demo.name, *serve, "--port", port, "--json"))
        client = servers.connect(state)
        requests = demo.requests(run)
        count = len(requests)
        say(f"5/7 predicting {count} {demo.items} over REST and gRPC, {CLIENTS} at a time")
        equal = {protocol: count_equal(demo, client, protocol, requests) for protocol in ("REST", "gRPC")}
        for protocol, number in equal.items():
            say(f"    {protocol}: {number} of {count} answers equal evaluation's")
            check(number == count, f"{count - number} answers over {protocol} differ from evaluation's")
        say(f"6/7 scaling to {WORKERS} workers through the management API")
        command("models", work, "scale", demo.name, "--workers", WORKERS, "--state", state)
        ready = ready_workers(client, demo.name)
        check(ready == WORKERS, f"{ready} of {WORKERS} workers are READY; see {state / 'logs'}")
    finally:
        say("7/7 stopping")
        if server := servers.find(state):
            servers.stop(server)
    show_next_steps(demo, relative_work)
    return {
        **score,
        demo.items.replace(" ", "_"): count,
        "rest_equal": equal["REST"],
        "grpc_equal": equal["gRPC"],
        "golden_checked": golden["checked"],
        "golden_equal": golden["checked"] - len(golden["differences"]),
        "workers_ready": ready,
        "train_seconds": trained["train_seconds"],
        "seconds": round(time.time() - started, 1),
    }


def count_equal(demo: Demo, client: "Client", protocol: str, requests: list[tuple[bytes, dict[str, str]]]) -> int:
    """The number of answers that equal evaluation's."""
    from concurrent.futures import ThreadPoolExecutor

    ask = client.predict if protocol == "REST" else client.predict_grpc

    def is_equal(request: tuple[bytes, dict[str, str]]) -> bool:
        body, row = request
        answer = ask(demo.name, body)
        return answer.error is None and demo.is_equal(answer, row)

    with ThreadPoolExecutor(CLIENTS) as clients:
        # One request alone first: it opens the connection that the others use.
        return is_equal(requests[0]) + sum(clients.map(is_equal, requests[1:]))


def show_next_steps(demo: Demo, work: Path) -> None:
    """What the user can do with the results."""
    run = RunFolder(work / "run")
    say("next steps:")
    say(f"    report on the model, for a browser: {run.report}")
    say(f"    start the server again: {hints.command('serve', 'start', demo.name, '--store', work / 'model_store')}")
    say(f"    send it something:      {hints.command('predict', demo.name, demo.example(work, run))}")


def predictions_of(run: RunFolder) -> list[dict[str, str]]:
    """The lines of the run's predictions."""
    import csv

    with open(run.predictions, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def command(name: str, work: Path, *arguments: object) -> str:
    """Runs ``marquee NAME`` as a user would and returns its stdout; its stderr goes to the terminal and a log."""
    import signal
    import subprocess

    command = [sys.executable, "-m", "marquee", name, *map(str, arguments)]
    log = work / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True) as step:
        try:
            output, _ = step.communicate()
        except KeyboardInterrupt:
            # Ctrl-C in a terminal has reached the step, too; a signal to this process alone has not.
            try:
                step.wait(5)
            except subprocess.TimeoutExpired:
                step.send_signal(signal.SIGINT)
                step.wait(60)
            raise
    if step.returncode != 0:
        lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
        raise OperationError(f"step {name} failed: {lines[-1] if lines else 'no output'}; log: {log}")
    return output


def empty(work: Path, state: Path) -> None:
    """Removes what an earlier demo left; a folder with other contents is refused."""
    import shutil

    from marquee.serving import server as servers

    marker = work / ".marquee-demo"
    if work.exists() and any(work.iterdir()) and not marker.exists():
        raise OperationError(f"{work}: exists and is not a demo's folder; choose another --work")
    if server := servers.find(state):
        servers.stop(server)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    marker.touch()


def check(condition: bool, failure: str) -> None:
    """Raises OperationError with ``failure`` unless the condition holds."""
    if not condition:
        raise OperationError(failure)


def say(line: str) -> None:
    """Shows a line to the user."""
    print(f"== {line}", file=sys.stderr, flush=True)
