"""Checkpoints: one folder each, written atomically, without pickle.

::

    checkpoints/
      epoch-0003/
        weights.safetensors     the model
        average.safetensors     the running average of its weights, if there is one; it is validated and served
        optimizer.safetensors   running averages, addressed as "<parameter index>.<name>" or "group.<index>.<name>"
        state.json              counters, parameter groups, history; sha256 of the other files
      last, best                one line each: the name of a folder

A damaged checkpoint is detected by its digests, and another one is used. No random state is saved: every random number
derives from the seed and its place (see :mod:`marquee.training.core.seeding`).
"""

import hashlib
import json
import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from marquee.handlers.core.bundle import sha256_file
from marquee.training.core.errors import CheckpointError
from marquee.training.core.files import atomic_folder, write_atomic

WEIGHTS, AVERAGE, OPTIMIZER = "weights.safetensors", "average.safetensors", "optimizer.safetensors"
_GROUP = "group."
_KERNEL_OPTIONS = ("fused", "foreach", "capturable")

logger = logging.getLogger(__name__)


@dataclass
class TrainingState:
    """The progress of a run."""

    epoch: int = 0
    """The epoch to continue with."""
    batch: int = 0
    """Completed batches of that epoch."""
    sums: dict[str, float] = field(default_factory=dict)
    """Running sums of that epoch (see :data:`marquee.training.core.loop.SUMS`)."""
    best_epoch: int = -1
    best_score: float = float("-inf")
    """Of that epoch (see :class:`marquee.training.core.objective.Score`)."""
    best_loss: float = float("inf")
    train_loss: float = float("inf")
    """Mean training loss of the last complete epoch."""
    converged: bool = False
    """True when the loss or its gradient fell below the configured tolerance."""
    finished: bool = False
    """True when the loop ended by itself: all epochs done, or stopped early."""


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: ``RUN/checkpoints``.
        keep: number of most recent checkpoints to keep, in addition to the best one.
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
        average: nn.Module | None = None,
    ) -> Path:
        """Writes a checkpoint and makes it ``last`` (and ``best``); then removes what is no longer kept.

        Raises:
            CheckpointError: it could not be written, such as on a full disk; earlier checkpoints are unchanged.
        """
        try:
            return self._save(model, optimizer, scaler, state, best, average)
        except PermissionError as error:
            raise _no_permission(self.folder, error, "write") from error
        except (OSError, safetensors.SafetensorError) as error:
            # safetensors reports a full disk with an error type of its own.
            raise CheckpointError(
                f"{self.folder}: a checkpoint could not be written ({error}); the last good one is kept: free disk "
                "space, then continue with --resume"
            ) from error

    def _save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        state: TrainingState,
        best: bool,
        average: nn.Module | None,
    ) -> Path:
        name = f"epoch-{state.epoch:04d}" + (f"-batch-{state.batch:06d}" if state.batch else "")
        path = self.folder / name
        saved = optimizer.state_dict()
        tensors, numbers = _flatten(saved["state"])
        groups = [_separate(i, group, tensors) for i, group in enumerate(saved["param_groups"])]
        files = {WEIGHTS: _plain(model.state_dict()), OPTIMIZER: _plain(tensors)}
        if average is not None:
            files[AVERAGE] = _plain(average.state_dict())
        with atomic_folder(path) as folder:
            for file, content in files.items():
                safetensors.torch.save_file(content, folder / file)
            document: dict[str, Any] = {
                "state": asdict(state),
                "param_groups": groups,
                "numbers": numbers,
                "scaler": scaler.state_dict(),
                "sha256": {file: sha256_file(folder / file) for file in files},
            }
            document["sha256"]["state.json"] = _digest(document)
            (folder / "state.json").write_text(json.dumps(document, indent=2), "utf-8")
        write_atomic(self.folder / "last", name + "\n")
        if best:
            write_atomic(self.folder / "best", name + "\n")
        self._prune()
        return path

    @property
    def is_empty(self) -> bool:
        """Whether no checkpoint was ever written; unlike :meth:`find`, it does not verify whole files."""
        return not (self.folder / "last").is_file()

    def find(self, which: str) -> Path | None:
        """The folder of the ``last`` or ``best`` checkpoint, None before the first one.

        If that one is damaged, the newest intact one, with a warning that names both.

        Raises:
            CheckpointError: it is damaged and there is no other, or this user may not read it.
        """
        pointer = self.folder / which
        try:
            if not pointer.is_file():
                return None
            checkpoint = self.folder / pointer.read_text("utf-8", "replace").strip()
        except PermissionError as error:
            raise _no_permission(pointer, error, "read") from error
        try:
            _read_state(checkpoint)
            return checkpoint
        except _PermissionMissingError:
            raise  # an older one that may be read would be the loss of this one's epochs
        except CheckpointError as error:
            damage = error
        for candidate in sorted(self.folder.glob("epoch-*"), reverse=True):
            try:
                _read_state(candidate)
            except CheckpointError:
                continue
            logger.warning("%s; using %s instead", damage, candidate)
            return candidate
        raise CheckpointError(f"{damage}; there is no other checkpoint, train into a new folder")

    def _prune(self) -> None:
        pointers = (self.folder / "best", self.folder / "last")
        kept = {self.folder / pointer.read_text("utf-8").strip() for pointer in pointers if pointer.is_file()}
        for path in sorted(self.folder.glob("epoch-*"))[: -self._keep]:
            if path not in kept:
                shutil.rmtree(path)
        # Unfinished checkpoints of killed processes.
        for path in self.folder.glob(".epoch-*"):
            shutil.rmtree(path, ignore_errors=True)


def served_weights(path: Path) -> Path:
    """The file of the checkpoint folder ``path`` with the weights that are validated and served."""
    average = path / AVERAGE
    return average if average.is_file() else path / WEIGHTS


def load_weights(path: Path, model: nn.Module) -> None:
    """Loads the served weights of the checkpoint folder ``path`` into ``model``.

    Raises:
        CheckpointError: the checkpoint is damaged, or belongs to another architecture.
    """
    _read_state(path)
    _load(served_weights(path), model)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: nn.Module | None = None,
) -> TrainingState:
    """Restores model, optimiser, scaler and average; returns the state of the run.

    Raises:
        CheckpointError: the checkpoint is damaged, or belongs to another configuration.
    """
    document = _read_state(path)
    _load(path / WEIGHTS, model)
    if average is not None:
        _load(path / AVERAGE, average)
    states: dict[int, dict[str, Any]] = {}
    group_tensors: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in (safetensors.torch.load_file(path / OPTIMIZER) | document["numbers"]).items():
        index, _, name = key.removeprefix(_GROUP).partition(".")
        (group_tensors if key.startswith(_GROUP) else states).setdefault(int(index), {})[name] = value
    # The choice of kernels depends on the current device, not on the one that wrote the checkpoint.
    groups = [
        current | saved | group_tensors.get(i, {}) | {key: current[key] for key in _KERNEL_OPTIONS if key in current}
        for i, (saved, current) in enumerate(
            zip(document["param_groups"], optimizer.state_dict()["param_groups"], strict=True)
        )
    ]
    try:
        optimizer.load_state_dict({"state": states, "param_groups": groups})
    except ValueError as error:
        raise CheckpointError(f"{path}: its optimiser state does not fit the configured model: {error}") from error
    _match_layout(optimizer)
    if document["scaler"]:
        scaler.load_state_dict(document["scaler"])
    return _state(document["state"])


def _state(saved: dict[str, Any]) -> TrainingState:
    """The state of a run; earlier versions stored items and scores under other names."""
    state = dict(saved)
    if "best_accuracy" in state:
        accuracy = state.pop("best_accuracy")
        state["best_score"] = accuracy if accuracy >= 0 else float("-inf")
    if "images" in (sums := state.get("sums", {})):
        state["sums"] = {"items" if name == "images" else name: value for name, value in sums.items()}
    return TrainingState(**state)


def _load(file: Path, model: nn.Module) -> None:
    try:
        model.load_state_dict(safetensors.torch.load_file(file))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{file}: its weights do not fit the configured model: {error}") from error


def _flatten(state: dict[int, dict[str, Any]]) -> tuple[dict[str, torch.Tensor], dict[str, float | None]]:
    """An optimiser's state as tensors, and as plain numbers, which some optimisers also keep."""
    items = {f"{i}.{key}": value for i, values in state.items() for key, value in values.items()}
    tensors = {key: value for key, value in items.items() if isinstance(value, torch.Tensor)}
    numbers = {key: value for key, value in items.items() if not isinstance(value, torch.Tensor)}
    if unsupported := [key for key, value in numbers.items() if not isinstance(value, (int, float, type(None)))]:
        raise CheckpointError(f"this optimiser keeps a {type(numbers[unsupported[0]]).__name__} that cannot be saved")
    return tensors, numbers


def _separate(index: int, group: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The part of a parameter group that JSON can hold; its tensors, such as step counters, are added to ``tensors``.

    Other values, such as a dtype, are restored from the configuration.
    """
    tensors |= {f"{_GROUP}{index}.{key}": value for key, value in group.items() if isinstance(value, torch.Tensor)}
    return {key: value for key, value in group.items() if isinstance(value, (int, float, str, list, tuple, type(None)))}


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Gives running averages the memory layout of their parameters, which fused kernels rely on.

    Files hold contiguous tensors; with channels_last parameters the fused AdamW refuses them on CUDA, and on a CPU
    silently combines the wrong elements.
    """
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class _PermissionMissingError(CheckpointError):
    """A checkpoint is intact as far as this user can tell."""


def _no_permission(path: Path, error: PermissionError, verb: str) -> _PermissionMissingError:
    file = Path(error.filename or path)
    try:
        owner = f"; it belongs to {file.owner()}"
    except (OSError, KeyError):
        owner = ""
    return _PermissionMissingError(
        f"{file}: no permission to {verb} it{owner}; ask that user for it (chmod -R a+rX {path}), or train into a "
        "folder of your own"
    )


def _read_state(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((path / "state.json").read_text("utf-8"))
        digests = document["sha256"]
        if digests.pop("state.json") != _digest(document):
            raise CheckpointError(f"{path / 'state.json'}: damaged, its sha256 is not the one that it contains")
        for file, expected in digests.items():
            if sha256_file(path / file) != expected:
                raise CheckpointError(f"{path / file}: damaged, its sha256 is not the one in state.json")
    except PermissionError as error:
        raise _no_permission(path, error, "read") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: not a complete checkpoint: {error!r}") from error
    return document


def _digest(document: dict[str, Any]) -> str:
    """sha256 of everything in ``document``, with the digests of the other files but without its own."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous copies on the CPU: safetensors stores only contiguous tensors, and channels_last ones are not."""
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
