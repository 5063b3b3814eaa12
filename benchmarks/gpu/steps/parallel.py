"""DDP on every GPU there is, NCCL with one process, and whether FSDP2 takes our networks."""

import json
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from benchmarks import ROOT
from benchmarks.gpu.differences import largest_difference, largest_gap
from benchmarks.gpu.material import digits, quick_config
from benchmarks.gpu.one_process import Trial, group_of_one
from benchmarks.gpu.ranks import digests
from benchmarks.gpu.short_run import fit
from benchmarks.gpu.step import Report, Site, environment
from benchmarks.gpu.training import command
from marquee.training.core.checkpoint import WEIGHTS, CheckpointStore
from marquee.training.core.config import RunConfig
from marquee.training.core.device import deterministic_algorithms, resolve_device
from marquee.training.core.errors import TrainingError
from marquee.training.core.run_folder import RunFolder

_LOSS, _ACCURACY = 0.02, 0.04
"""How far the metrics of several processes may be from those of one.

Without batch norm and dropout, both compute the same sums in another order. In fp32 these differ by 1e-7 of a gradient,
with TF32 by 1e-3; AdamW makes a whole step of a gradient that is nearly zero, whatever its sign. On a CPU the losses of
two epochs differ by less than 2e-3.
"""
_EQUAL = 5e-3
"""How far losses of the same steps may be apart with deterministic algorithms; bf16 has three decimal digits."""

_SECONDS_TO_END = 4.0
"""For torchrun; the driver gives a step that it ends little more."""


def run(site: Site, report: Report) -> None:
    """With one GPU the processes are one; on the CPU there are two."""
    data = digits(site) if site.full else digits(site) / "test"
    device = resolve_device(site.device)
    processes = torch.cuda.device_count() if site.full else 2
    with report.guard("torchrun"):
        _torchrun(site, report, data, processes)
    if site.full and processes == 1:
        report.skip("DDP on several GPUs", "needs a second GPU")
    with report.guard("one process"), group_of_one(device) as backend, deterministic_algorithms(True):
        with report.guard(f"DDP, {backend} with one process"):
            _ddp(site, report, data, f"DDP, {backend} with one process")
        if _has_fsdp2():
            _fsdp(site, report, data)
        else:
            report.skip("FSDP2", "this PyTorch has no torch.distributed.fsdp.fully_shard")


def _torchrun(site: Site, report: Report, data: Path, processes: int) -> None:
    config = _without_batch_norm(site)
    one, several = site.work / "one", site.work / "several"
    _start_torchrun(config, data, several, processes, limit=0.8 * site.seconds)
    alone = fit(config, data, one)
    if processes > 1:
        ends = digests(several)
        right = len(ends) == processes and len(set(ends)) == 1
        report.row("processes", len(ends), right=right, wanted=f"{processes}, with equal weights")
    epochs = [json.loads(line) for line in RunFolder(several).metrics.read_text("utf-8").splitlines()]
    losses = [epoch["train_loss"] for epoch in epochs]
    gap = largest_gap(losses, list(alone.train_losses))
    wanted = f"within {_LOSS:g} of a single process"
    report.row("training loss, from one process", gap, right=gap <= _LOSS, wanted=wanted)
    gap = abs(epochs[-1]["val_accuracy"] - alone.accuracy)
    right = gap <= _ACCURACY + 1e-9
    report.row(
        "accuracy, from one process", round(100 * gap, 2), "points", right=right, wanted=f"within {100 * _ACCURACY:g}"
    )
    difference = largest_difference(_weights(one), _weights(several))
    report.row("weights, from one process", difference, right=math.isfinite(difference), wanted="finite")
    speeds = f"one process: {alone.images_per_second:.0f}"
    report.row(f"{processes} processes", round(epochs[-1]["images_per_second"]), "images/s", note=speeds)


def _without_batch_norm(site: Site) -> RunConfig:
    """Parts of a batch then make the same update as the whole."""
    return quick_config(
        site,
        model={"arch": "test_vit", "dropout": 0.0},
        loop={"epochs": 2, "precision": "fp32", "ema": 0.9},
    )


def _start_torchrun(config: RunConfig, data: Path, out: Path, processes: int, limit: float) -> None:
    """Trains in several processes.

    Raises:
        TrainingError: torchrun failed.
        subprocess.TimeoutExpired: it took longer than ``limit`` seconds.
    """
    arguments = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes), "--module"]
    arguments += ["benchmarks.gpu.ranks", *command(config, data, out)[1:]]
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        cwd=ROOT,
        env=environment(OMP_NUM_THREADS="1"),
        stdout=subprocess.DEVNULL,
    )
    try:
        if (code := process.wait(limit)) != 0:
            raise TrainingError(f"torchrun ended with code {code}; the step's log says why")
    finally:
        process.terminate()  # it then ends its processes, which have sessions of their own
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
        process.kill()
        process.wait()


def _weights(out: Path) -> dict[str, torch.Tensor]:
    last = CheckpointStore(RunFolder(out).checkpoints).find("last")
    if last is None:
        raise TrainingError(f"{out}: no checkpoint")
    return safetensors.torch.load_file(last / WEIGHTS)


def _ddp(site: Site, report: Report, data: Path, name: str) -> None:
    trial = _trial(site, data, {})
    gap = largest_gap(trial.alone("alone"), trial.in_ddp("ddp"))
    report.row(name, gap, "of the loss", right=gap <= _EQUAL, wanted=f"within {_EQUAL:g} of a run without DDP")


def _fsdp(site: Site, report: Report, data: Path) -> None:
    """In both memory layouts: parameters that are not contiguous may be refused.

    On a CPU in fp32: a workaround of the loop for bf16 there copies the network, which FSDP2 does not allow.
    """
    precision = "bf16" if site.full else "fp32"
    for layout, channels_last in (("contiguous", False), ("channels_last", True)):
        name = f"FSDP2 in {precision}, {layout}"
        with report.guard(name):
            trial = _trial(site, data, {"loop": {"precision": precision, "channels_last": channels_last}})
            expected = trial.alone(f"{layout}-alone")
            try:
                gap = largest_gap(expected, trial.in_fsdp(f"{layout}-fsdp"))
            except NotImplementedError as error:
                report.row(name, "refused", note=f"PyTorch: {str(error).splitlines()[0][:120]}")
            else:
                wanted = f"within {_EQUAL:g} of a run without FSDP"
                report.row(name, gap, "of the loss", right=gap <= _EQUAL, wanted=wanted)


def _trial(site: Site, data: Path, sections: dict[str, dict[str, Any]]) -> Trial:
    model = {} if site.full else {"model": {"arch": "cnn4_w8"}}
    return Trial(site=site, data=data, steps=6 if site.full else 2, sections={**model, **sections})


def _has_fsdp2() -> bool:
    try:
        from torch.distributed.fsdp import fully_shard  # noqa: F401
    except ImportError:
        return False
    return True
