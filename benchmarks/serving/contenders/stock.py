"""TorchServe's own `image_classifier` handler, with a model of eager PyTorch as its README packages it."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import yaml

from benchmarks.serving.contenders.base import Contender, Site
from benchmarks.serving.peers.place import WEIGHTS
from benchmarks.serving.processes import started
from benchmarks.serving.servers import RestServer
from marquee.serving.java import java_environment
from marquee.serving.keys import KeyFile
from marquee.serving.settings import Addresses
from marquee.training.core.errors import TrainingError

STOCK = "torchserve-stock"
_MODEL = "resnet18"
_MODEL_FILE = '''"""ResNet-18, as TorchServe's handlers want a network: one class without arguments."""

from torchvision.models.resnet import BasicBlock, ResNet


class ResNet18(ResNet):
    def __init__(self):
        super().__init__(BasicBlock, [2, 2, 2, 2])
'''
# The defaults start a worker a core, each with a thread a core, which get into each other's way; this is kinder to it.
_BATCHED = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 8, "maxBatchDelay": 1}


def _prepare(name: str, config: dict[str, int]) -> Callable[[Site], None]:
    def prepare(site: Site) -> None:
        """Packages the model; nothing of this project goes in."""
        store = site.store / name
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            model, settings = Path(temporary) / "model.py", Path(temporary) / "model-config.yaml"
            model.write_text(_MODEL_FILE, "utf-8")
            settings.write_text(yaml.safe_dump(config), "utf-8")
            arguments: list[str | Path] = [
                "--force",
                "--model-name",
                _MODEL,
                "--version",
                "1.0",
                "--handler",
                "image_classifier",
            ]
            arguments += ["--model-file", model, "--serialized-file", site.material / WEIGHTS, "--export-path", store]
            arguments += ["--config-file", settings] if config else []
            command = [sys.executable, "-m", "model_archiver.model_packaging", *map(str, arguments)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TrainingError(f"torch-model-archiver failed for {name}: {done.stderr.strip()[-300:]}")

    return prepare


def _contender(name: str, title: str, config: dict[str, int]) -> Contender:
    @contextmanager
    def start(site: Site) -> Iterator[RestServer]:
        state, addresses = site.state(name), Addresses.free()
        shutil.rmtree(state, ignore_errors=True)  # logs, and the tokens of an earlier start
        state.mkdir(parents=True)
        lines = [f"{key}={value}\n" for key, value in addresses.as_properties().items()]
        (state / "config.properties").write_text("".join(lines), "utf-8")
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"]
        command += ["--model-store", str((site.store / name).absolute()), "--models", f"{_MODEL}={_MODEL}.mar"]
        command += ["--ts-config", str((state / "config.properties").absolute())]
        with tempfile.TemporaryDirectory(prefix="ts-") as temporary:
            environment = {**java_environment(), "TMPDIR": temporary, "TEMP": temporary}
            with started(command, state, site.log(name), environment) as process:
                yield RestServer(
                    process=process,
                    url=f"{addresses.inference}/predictions/{_MODEL}",
                    token=partial(KeyFile(state / "key_file.json").token, "inference"),
                )

    return Contender(
        name=name,
        title=title,
        kind="eager",
        start=start,
        reference="eager",
        needs=("captum",),
        prepare=_prepare(name, config),
    )


CONTENDERS = (
    _contender(STOCK, "TorchServe, stock handler", {}),
    _contender("torchserve-batched", "TorchServe, stock handler, 1 worker, batches of 8", _BATCHED),
)
