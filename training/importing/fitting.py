"""Which tensors of a file are an architecture's weights: the group that lies where, under which prefix."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from marquee.training.core.errors import TrainingError
from marquee.training.tasks.image_classification.pretrained import StateDict

_COUNTER = "num_batches_tracked"
"""Batch norm's counter of steps, which older versions of PyTorch did not store and inference does not use."""
_PREFIXES = ("", "module.", "_orig_mod.", "model.", "backbone.")
"""Where no tensor of the file has a known name, these are tried for the sake of the message."""


@dataclass(frozen=True)
class Found:
    """A group of tensors, named as the architecture names them."""

    place: str
    """Where it lies in the file, with the prefix of its names: ``state_dict/module``; empty: at the top."""
    state: StateDict
    """Its tensors, without the prefix."""
    others: tuple[str, ...]
    """Names in the same group that have another prefix."""

    def missing(self, target: Mapping[str, torch.Tensor]) -> list[str]:
        """Names that the architecture has and the group has not."""
        return [key for key in target if key not in self.state and not key.endswith(_COUNTER)]


def find_weights(path: Path, groups: Mapping[str, StateDict], target: StateDict, wanted: str | None) -> Found:
    """The group of tensors with all names of the architecture or, if there is none, with the most of them.

    Args:
        path: the file, for messages.
        groups: place -> named tensors.
        target: the architecture's own state dict.
        wanted: place of the group to take; None: there is to be only one that fits.

    Raises:
        TrainingError: several groups fit and have different values, or there is none at ``wanted``.
    """
    found = [one for place, state in groups.items() for one in _under_prefixes(place, state, target)]
    complete = [one for one in found if not one.missing(target)]
    if wanted is not None:
        return _at(path, wanted, complete or found)
    if not complete:
        return max(found, key=lambda one: sum(key in target for key in one.state))
    if different := [one for one in complete[1:] if not _equal(complete[0].state, one.state, target)]:
        places = ", ".join(one.place or "top" for one in (complete[0], *different))
        raise TrainingError(
            f"{path}: has several sets of weights that fit, with different values: {places}; choose one with "
            f"--weights-key, such as --weights-key {different[-1].place or 'top'}"
        )
    return complete[0]


def _at(path: Path, wanted: str, found: list[Found]) -> Found:
    for one in found:
        if (one.place or "top") == wanted.strip("/") or one.place.startswith(f"{wanted.strip('/')}/"):
            return one
    places = ", ".join(dict.fromkeys(one.place or "top" for one in found))
    raise TrainingError(f"--weights-key {wanted}: {path} has no such weights; there are {places}")


def _under_prefixes(place: str, state: StateDict, target: StateDict) -> Iterator[Found]:
    """The group under each prefix with which it has the architecture's first name; else as it is."""
    first = next(key for key in target if not key.endswith(_COUNTER))
    prefixes = [key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")]
    for prefix in prefixes or [p for p in _PREFIXES if all(key.startswith(p) for key in state)][-1:]:
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        # AveragedModel counts beside the module that it wraps.
        others = tuple(key for key in state if not key.startswith(prefix) and key != "n_averaged")
        yield Found("/".join(filter(None, (place, prefix.rstrip(".")))), inner, others)


def _equal(first: StateDict, second: StateDict, target: StateDict) -> bool:
    return all(torch.equal(first[key], second[key]) for key in target if key in first and key in second)
