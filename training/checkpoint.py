"""Checkpoints: one folder each, written whole or not at all, without pickle.

::

    checkpoints/
      epoch-0003/
        weights.safetensors     the model
        optimizer.safetensors   running averages, addressed as "<parameter index>.<name>"
        state.json              counters, parameter groups, history; sha256 of both files
      last, best                one line each: the name of a folder

No random state is saved: every random number derives from the seed and its place (see :mod:`training.seeding`).
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from handlers.spec import sha256_file
from training.errors import CheckpointError
from training.files import atomic_folder, write_atomic

_FILES = ("weights.safetensors", "optimizer.safetensors")
_KERNEL_OPTIONS = ("fused", "foreach", "capturable")


@dataclass
class TrainingState:
    """Where a run stands."""

    epoch: int = 0
    """The epoch to go on with."""
    batch: int = 0
    """Batches of that epoch that are done."""
    sums: dict[str, float] = field(default_factory=dict)
    """Running sums of that epoch: loss, correct, images, seconds."""
    best_epoch: int = -1
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    finished: bool = False
    """True when the loop ended by itself: all epochs done, or stopped early."""


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: ``RUN/checkpoints``.
        keep: newest checkpoints to keep; the best one stays besides.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = Path(folder)
        self._keep = keep

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        state: TrainingState,
        best: bool,
    ) -> Path:
        """Writes a checkpoint and makes it ``last`` (and ``best``); then removes what is no longer kept."""
        name = f"epoch-{state.epoch:04d}" + (f"-batch-{state.batch:06d}" if state.batch else "")
        path = self.folder / name
        saved = optimizer.state_dict()
        tensors = {f"{i}.{key}": value for i, values in saved["state"].items() for key, value in values.items()}
        with atomic_folder(path) as folder:
            safetensors.torch.save_file(_plain(model.state_dict()), folder / _FILES[0])
            safetensors.torch.save_file(_plain(tensors), folder / _FILES[1])
            document = {
                "state": asdict(state),
                "param_groups": saved["param_groups"],
                "scaler": scaler.state_dict(),
                "sha256": {file: sha256_file(folder / file) for file in _FILES},
            }
            (folder / "state.json").write_text(json.dumps(document, indent=2), "utf-8")
        write_atomic(self.folder / "last", name + "\n")
        if best:
            write_atomic(self.folder / "best", name + "\n")
        self._prune()
        return path

    def find(self, which: str) -> Path | None:
        """The folder of the ``last`` or ``best`` checkpoint, None before the first one."""
        pointer = self.folder / which
        return self.folder / pointer.read_text("utf-8").strip() if pointer.is_file() else None

    def _prune(self) -> None:
        kept = {self.find("best"), self.find("last")}
        for path in sorted(self.folder.glob("epoch-*"))[: -self._keep]:
            if path not in kept:
                shutil.rmtree(path)
        # What a killed process was writing.
        for path in self.folder.glob(".epoch-*"):
            shutil.rmtree(path, ignore_errors=True)


def load_weights(path: Path, model: nn.Module) -> None:
    """Loads the weights of the checkpoint folder ``path`` into ``model``.

    Raises:
        CheckpointError: the checkpoint is damaged, or belongs to another architecture.
    """
    _read_state(path)
    try:
        model.load_state_dict(safetensors.torch.load_file(path / _FILES[0]))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit the configured model: {error}") from error


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> TrainingState:
    """Restores model, optimiser and scaler; returns where the run stood.

    Raises:
        CheckpointError: the checkpoint is damaged, or belongs to another configuration.
    """
    document = _read_state(path)
    load_weights(path, model)
    states: dict[int, dict[str, Any]] = {}
    for key, value in safetensors.torch.load_file(path / _FILES[1]).items():
        index, _, name = key.partition(".")
        states.setdefault(int(index), {})[name] = value
    # Which kernels compute the update belongs to the device at hand, not to the one that wrote the checkpoint.
    groups = [
        {**saved, **{key: own[key] for key in _KERNEL_OPTIONS if key in own}}
        for saved, own in zip(document["param_groups"], optimizer.state_dict()["param_groups"], strict=True)
    ]
    try:
        optimizer.load_state_dict({"state": states, "param_groups": groups})
    except ValueError as error:
        raise CheckpointError(f"{path}: its optimiser state does not fit the configured model: {error}") from error
    _match_layout(optimizer)
    if document["scaler"]:
        scaler.load_state_dict(document["scaler"])
    return TrainingState(**document["state"])


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Gives running averages the memory layout of their parameters, which fused kernels take for granted.

    Files hold contiguous tensors; with channels_last parameters the fused AdamW refuses them on CUDA, and on a CPU
    silently pairs the wrong numbers.
    """
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((path / "state.json").read_text("utf-8"))
        for file, expected in document["sha256"].items():
            if sha256_file(path / file) != expected:
                raise CheckpointError(f"{path / file}: damaged, its sha256 is not the one in state.json")
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint: {error!r}") from error
    return document


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Safetensors stores contiguous tensors; channels_last ones are not."""
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
