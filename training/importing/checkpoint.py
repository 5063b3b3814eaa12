"""The tensors of a PyTorch or safetensors file, wherever in it they lie; never anything that could run code."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from marquee.training.core.errors import TrainingError
from marquee.training.tasks.image_classification.pretrained import StateDict

_DEPTH = 4
"""How deep state dicts are looked for; ``{"ema": {"module": ...}}`` has 2."""
_PLAIN: list[Any] = [argparse.Namespace]
"""What training scripts save with the tensors, beside numbers and texts: it has attributes and no code. numpy's types
are not among these, because numpy trusts the layout that a pickle gives them."""


def load_tensors(path: Path) -> dict[str, StateDict]:
    """The groups of named tensors in a file, by where they lie in it: ``""`` for the top, else ``ema/module``.

    Raises:
        TrainingError: the file is damaged, would run code, or has no named tensors.
    """
    if path.suffix.lower() == ".safetensors":
        try:
            return {"": safetensors.torch.load_file(path)}
        except Exception as error:
            # Its reader raises errors of its own and of the operating system.
            raise TrainingError(f"{path}: not readable as weights: {_first_sentence(error)}") from error
    groups = dict(_groups(_load(path), ""))
    if not groups:
        raise TrainingError(
            f"{path}: has no tensors with names; where the model was made, run torch.save(model.state_dict(), "
            "'weights.pth')"
        )
    return groups


def _load(path: Path) -> Any:
    graph = path.with_suffix(".xml")
    if path.suffix.lower() == ".bin" and graph.is_file():
        raise TrainingError(f"{path}: is the part of an OpenVINO IR that has the weights; use --model {graph}")
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises pickle, zip and value errors alike.
        raise TrainingError(f"{path}: not readable as weights: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    text = str(error)
    advice = "which could run any code; where it was made, run torch.save(model.state_dict(), 'weights.pth')"
    if "TorchScript" in text:
        return f"it is a TorchScript program, {advice}"
    if unpickled := re.search(r"(?:Unsupported global: GLOBAL|class) (\S+)", text):
        return f"it is a pickle that calls {unpickled[1].strip('`')}, {advice}"
    if path.suffix.lower() not in (".pth", ".pt") and ("magic number" in text or "pickle" in text.lower()):
        return "it is not a file of torch.save"
    return _first_sentence(error)


def _first_sentence(error: Exception) -> str:
    # The rest of torch's message advises to load the file as a pickle.
    return (str(error).split(". ")[0].splitlines() or [type(error).__name__])[0]


def _groups(value: Any, place: str, depth: int = _DEPTH) -> Iterator[tuple[str, StateDict]]:
    if not isinstance(value, dict) or depth == 0:
        return
    tensors = {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, torch.Tensor)}
    if tensors:
        yield place, tensors
    for key, item in value.items():
        if isinstance(key, str):
            yield from _groups(item, f"{place}/{key}".lstrip("/"), depth - 1)
