"""A run that is out of memory ends in one line, and goes on from its last checkpoint."""

import os
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from marquee.handlers.core.worker_process import exit_if_device_is_lost
from marquee.training.core.checkpoint import WEIGHTS, CheckpointStore
from marquee.training.core.config import CheckpointConfig
from marquee.training.core.context import RunContext
from marquee.training.core.errors import TrainingError
from marquee.training.core.loop import Trainer
from marquee.training.core.out_of_memory import explained, explained_in_run, is_out_of_memory
from marquee.training.core.progress import Progress
from marquee.training.core.run import train
from marquee.training.core.run_folder import RunFolder
from marquee.training.tasks.image_classification.config import (
    AugmentConfig,
    ImageConfig,
    ImageLoopConfig,
    ImageRunConfig,
    ModelConfig,
)
from marquee.training.tools.lr_finder import find_learning_rate
from marquee.training.tools.rate_range import RateRange

CPU = torch.device("cpu")
TINY = ImageRunConfig(
    image=ImageConfig(size=32),
    model=ModelConfig(arch="cnn4_w8"),
    loop=ImageLoopConfig(workers=0, epochs=2, device="cpu"),
    augment=AugmentConfig(horizontal_flip=0, crop_scale=0.9),
    checkpoint=CheckpointConfig(steps=2),
)
STEPS = 7
"""Of an epoch: 255 images by 32."""


def impossible() -> torch.Tensor:
    """What no machine has."""
    return torch.empty(1 << 50, dtype=torch.uint8)


@pytest.fixture
def short(monkeypatch):
    """Lets the memory end at a step of the run."""

    def at(number: int) -> None:
        original = Trainer.step

        def step(self, batch, step, rate):
            if step == number:
                impossible()
            return original(self, batch, step, rate)

        monkeypatch.setattr(Trainer, "step", step)

    return at


def weights(run) -> dict:
    return safetensors.torch.load_file(CheckpointStore(RunFolder(run).checkpoints).find("last") / WEIGHTS)


@pytest.mark.slow
def test_a_run_that_is_out_of_memory_goes_on_from_its_checkpoint(few, short, monkeypatch, tmp_path):
    train(TINY, few, tmp_path / "whole", report=False)
    short(STEPS + 4)
    with pytest.raises(TrainingError, match="^cpu: out of memory") as caught:
        train(TINY, few, tmp_path / "run", report=False)
    monkeypatch.undo()
    said = str(caught.value)
    assert "\n" not in said
    assert f"the last checkpoint, {tmp_path / 'run' / 'checkpoints' / 'epoch-0001-batch-000003'}, is intact" in said
    assert "in a new --out, and raise --loop.accumulate" in said
    assert said.endswith(f"train --out {tmp_path / 'run'} --resume")

    train(TINY, None, tmp_path / "run", resume=True, report=False)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_before_the_first_checkpoint_there_is_none_to_go_on_from(few, short, tmp_path):
    short(0)
    with pytest.raises(TrainingError, match=r"there is no checkpoint yet; raise --loop\.accumulate"):
        train(replace(TINY, checkpoint=CheckpointConfig()), few, tmp_path / "run", report=False)


def test_a_damaged_checkpoint_is_not_what_is_told_instead(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    (folder.checkpoints / "last").write_text("epoch-0001\n")
    context = RunContext(folder=folder, device=CPU, progress=Progress(quiet=True))
    with pytest.raises(TrainingError, match="^cpu: out of memory") as caught, explained_in_run(TINY, context):
        impossible()
    said = str(caught.value)
    assert "raise --loop.accumulate" in said
    assert "there is no checkpoint to go on from" in said
    assert "not a complete checkpoint" in said
    assert "\n" not in said


def test_find_lr_says_it_in_one_line(few, short):
    short(3)
    with pytest.raises(TrainingError, match=r"^cpu: out of memory .*; raise --loop\.accumulate"):
        find_learning_rate(TINY, few, RateRange(steps=20), Progress(quiet=True))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ..."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried ..."),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_counts_as_out_of_memory(error):
    assert is_out_of_memory(error)
    with pytest.raises(TrainingError, match="^cpu: out of memory"), explained(CPU):
        raise error


@pytest.mark.parametrize(
    "said", ["sizes differ", "cannot allocate memory for a thread: Resource temporarily unavailable"]
)
def test_other_errors_stay_what_they_are(said):
    with pytest.raises(RuntimeError, match=f"^{said}$"), explained(CPU):
        raise RuntimeError(said)


def test_a_worker_outlives_what_cuda_reports_of_memory(monkeypatch):
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail(f"the worker ended with {code}"))
    exit_if_device_is_lost(torch.AcceleratorError("CUDA error: out of memory"))
