"""Run the whole workflow, from scikit-learn's digits to a scaled endpoint, and compare every answer with evaluation's.

Example: marquee demo --work .demo

The steps are shown on stderr; the last line of stdout is one JSON object.
"""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from marquee import hints
from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible
from marquee.serving.defaults import PACKAGED_CONFIG
from marquee.serving.errors import OperationError
from marquee.training.core.run_folder import RunFolder

if TYPE_CHECKING:
    from marquee.serving.client import Client

NAME = "digits"
TOLERANCE = 1e-4
MINIMUM_ACCURACY = 0.97
WORKERS = 2
CLIENTS = 8
# Tiny images: a small input, few epochs, and no flip, since a mirrored digit is not a digit.
TRAINING = {
    "image.size": 32,
    "model.arch": "resnet10t",
    "loop.epochs": 4,
    "loop.batch-size": 64,
    "optimizer.lr": 2e-3,
    "augment.horizontal-flip": 0,
    "augment.crop-scale": 0.8,
    "augment.rotation": 8,
}


def demo(work: Path = Path(".demo"), started: Optional[float] = None) -> int:
    """Runs all steps.

    Args:
        work: Folder for data, run, archive and logs; emptied first.
        started: Start time in seconds since the epoch, so that scripts/demo can include the installation.
    """
    started = started or time.time()
    with interruptible():
        from marquee.serving import server as servers
        from marquee.serving.readiness import ready_workers
        from marquee.serving.settings import Addresses
        from marquee.training.tasks.image_classification.data.digits import write_digits
    relative_work, work = work, work.absolute()
    data, run_folder, store, state = work / "data", work / "run", work / "model_store", work / "server"
    _empty(work, state)
    _say(f"1/7 data: scikit-learn's handwritten digits as PNG files in {data}")
    tests = write_digits(data)
    _say(f"2/7 training, {tests} test images held out")
    flags = [f"--{name}={value}" for name, value in TRAINING.items()]
    trained = json.loads(_command("train", work, "--data", data, "--out", run_folder, "--json", *flags))
    _check(trained["accuracy"] >= MINIMUM_ACCURACY, f"accuracy {trained['accuracy']:.4f} < {MINIMUM_ACCURACY}")
    _say(f"    test accuracy {trained['accuracy']:.4f}")
    _say("3/7 packaging")
    _command("package", work, run_folder, "--name", NAME, "--store", store)
    _say("4/7 starting TorchServe and replaying the golden samples over REST and gRPC")
    serve = ("--config", PACKAGED_CONFIG, "--store", store, "--state", state)
    port = Addresses.free().base_port
    try:
        golden = json.loads(_command("serve", work, "start", NAME, *serve, "--port", port, "--json"))
        client = servers.connect(state)
        _say(f"5/7 predicting {tests} test images over REST and gRPC, {CLIENTS} at a time")
        equal = {
            protocol: _count_equal(client, protocol, RunFolder(run_folder).predictions) for protocol in ("REST", "gRPC")
        }
        for protocol, count in equal.items():
            _say(f"    {protocol}: {count} of {tests} answers equal evaluation's")
            _check(count == tests, f"{tests - count} answers over {protocol} differ from evaluation's")
        _say(f"6/7 scaling to {WORKERS} workers through the management API")
        _command("models", work, "scale", NAME, "--workers", WORKERS, "--state", state)
        ready = ready_workers(client, NAME)
        _check(ready == WORKERS, f"{ready} of {WORKERS} workers are READY; see {state / 'logs'}")
    finally:
        _say("7/7 stopping")
        if server := servers.find(state):
            servers.stop(server)
    result = {
        "accuracy": trained["accuracy"],
        "test_images": tests,
        "rest_equal": equal["REST"],
        "grpc_equal": equal["gRPC"],
        "golden_checked": golden["checked"],
        "golden_equal": golden["checked"] - len(golden["differences"]),
        "workers_ready": ready,
        "train_seconds": trained["train_seconds"],
        "seconds": round(time.time() - started, 1),
    }
    _show_next_steps(relative_work)
    print(json.dumps(result))
    return 0


def _show_next_steps(work: Path) -> None:
    """What the user can do with the results."""
    image = sorted((work / "data" / "test").glob("*/*.png"))[0]
    _say("next steps:")
    _say(f"    report on the model, for a browser: {RunFolder(work / 'run').report}")
    _say(f"    start the server again: {hints.command('serve', 'start', NAME, '--store', work / 'model_store')}")
    _say(f"    send it an image:       {hints.command('predict', NAME, image)}")


def _command(name: str, work: Path, *arguments: object) -> str:
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


def _empty(work: Path, state: Path) -> None:
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


def _count_equal(client: "Client", protocol: str, predictions: Path) -> int:
    """Answers with evaluation's label and with probabilities within the tolerance of evaluation's."""
    import csv
    from concurrent.futures import ThreadPoolExecutor

    ask = client.predict if protocol == "REST" else client.predict_grpc
    with open(predictions, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))

    def is_equal(row: dict[str, str]) -> bool:
        answer = ask(NAME, Path(row["path"]).read_bytes())
        return (
            answer.error is None
            and answer.body["label"] == row["predicted"]
            and all(
                abs(entry["probability"] - float(row[entry["label"]])) < TOLERANCE for entry in answer.body["ranking"]
            )
        )

    with ThreadPoolExecutor(CLIENTS) as clients:
        # One request alone first: it opens the connection that the others use.
        return is_equal(rows[0]) + sum(clients.map(is_equal, rows[1:]))


def _check(condition: bool, failure: str) -> None:
    if not condition:
        raise OperationError(failure)


def _say(line: str) -> None:
    print(f"== {line}", file=sys.stderr, flush=True)


def main() -> int:
    """Entry point."""
    return parse_arguments("demo", demo, __doc__)
