"""Runs one contender at a time, each in a process of its own: two OpenMP pools in one process, or at once, collide."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from marquee.training.config import RunConfig
from marquee.training.errors import TrainingError


def run_json(arguments: Sequence[str], show: bool = False) -> dict[str, Any]:
    """Runs ``python ARGUMENTS`` in the project's folder; returns the JSON object that is its last line.

    Args:
        arguments: what follows ``python``.
        show: pass on what it tells people.

    Raises:
        TrainingError: it failed; the message ends with its last line.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr or "its message is above").strip().splitlines()[-1:]
        raise TrainingError(f"{' '.join(arguments)}: ended with code {done.returncode}: {''.join(last)}")
    lines = done.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise TrainingError(f"{' '.join(arguments)}: its last line is no JSON object") from error
    if not isinstance(answer, dict):
        raise TrainingError(f"{' '.join(arguments)}: its last line is no JSON object")
    return answer


def train(data: Path, out: Path, flags: Sequence[str], show: bool = False) -> dict[str, Any]:
    """Runs scripts/train.py and returns its metrics; ``data`` and ``out`` must be absolute or relative to the root."""
    return run_json(["scripts/train.py", "--data", str(data), "--out", str(out), "--json", *flags], show)


def supported_flags(values: Mapping[str, object]) -> list[str]:
    """``{"augment.zoom": 0}`` -> ``["--augment.zoom", "0"]``, without fields that this version does not have.

    What an earlier version cannot do needs no switching off; so the same benchmark measures both.
    """
    config = RunConfig()
    known = {f"{part.name}.{field.name}" for part in _fields(config) for field in _fields(getattr(config, part.name))}
    return [
        text for name, value in values.items() if name in known for text in (f"--{name.replace('_', '-')}", str(value))
    ]


def _fields(config: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(config)


NO_AUGMENTATION: Mapping[str, object] = {
    "augment.crop_scale": 1,
    "augment.horizontal_flip": 0,
    "augment.vertical_flip": 0,
    "augment.rotation": 0,
    "augment.zoom": 0,
    "augment.color": 0,
    "augment.erasing": 0,
    "augment.shift": 0,
    "augment.policy": "none",
    "augment.mixup": 0,
    "augment.cutmix": 0,
}
"""Every kind of augmentation, switched off; for :func:`supported_flags`."""


def read_epochs(run: Path) -> list[dict[str, float]]:
    """The metrics of each epoch of a run.

    Raises:
        TrainingError: the run has none.
    """
    path = run / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: {error}; repeat the run") from error
