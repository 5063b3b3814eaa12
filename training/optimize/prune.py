"""Pruning of a trained network: whole channels are taken out of it, or single weights are set to zero."""

import copy
import logging
import statistics
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from marquee.handlers.spec import ImageSpec
from marquee.training.errors import TrainingError
from marquee.training.models import Classifier
from marquee.training.progress import Progress

logger = logging.getLogger(__name__)

ROUND_TO = 8
"""Channels are kept in multiples of this, which is what fast kernels are written for."""
MAX_RATIO = 0.9
"""Share of a layer's channels after which it is left alone: one that has lost them all answers nothing."""
STEPS = 100
"""Steps from the whole network to the smallest; each ranks the channels that are left anew."""
WARM_UP_CALLS, TIMED_CALLS = 5, 30
_CHUNK = 1 << 20
_ADVICE = "use magnitude pruning, or train a smaller architecture"


@dataclass(frozen=True, kw_only=True)
class PruneTarget:
    """How small the network shall become: exactly one of these."""

    keep: float | None = None
    """Share of the multiplications that may be kept, 0 to 1."""
    size_mb: float | None = None
    """Size of the weights in float32, in millions of bytes."""
    latency_ms: float | None = None
    """Milliseconds for one image, in eager mode where it is pruned; the median."""

    def __post_init__(self) -> None:
        wishes = {item.name: getattr(self, item.name) for item in fields(self)}
        given = [name for name, value in wishes.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"{', '.join(given or wishes)}: expected exactly one of {', '.join(wishes)}")
        if not 0 < wishes[given[0]] < float("inf"):
            raise ValueError(f"{given[0]}: expected more than 0, got {wishes[given[0]]}")
        if self.keep is not None and self.keep > 1:
            raise ValueError(f"keep: expected at most 1, got {self.keep}")


def prune_channels(
    model: Classifier, image: ImageSpec, target: PruneTarget, pixels: np.ndarray, progress: Progress
) -> Classifier:
    """Takes out the channels with the smallest weights until the network is as small as wished.

    Channels that depend on each other, such as those that a residual connection adds up, are ranked and go together
    (Fang et al., "DepGraph", 2023). The answers get worse: :func:`marquee.training.optimize.distil.fine_tune` repairs
    them.

    Args:
        model: trained; it is left as it is.
        image: the model's input.
        target: how small.
        pixels: uint8 (N, crop, crop, channels), real images; the first two are tried on the result, and the first is
            what latency is measured with.
        progress: told about each step.

    Returns:
        A smaller copy in eval mode, on the model's device; its layers have other shapes than its architecture's name
        says.

    Raises:
        TrainingError: the wish cannot be reached, the architecture cannot be pruned, or Torch-Pruning is missing.
    """
    pruned = copy.deepcopy(model).eval()
    # What was frozen in training has no place in the graph that Torch-Pruning reads the dependencies from.
    pruned.requires_grad_(True)
    tried = torch.from_numpy(pixels[:2].copy()).to(_device(model))
    before = _answer(pruned, tried)
    wish = _wish(pruned, image, target, tried[:1])
    try:
        _shrink(pruned, image, wish, progress)
        _check_answer(_answer(pruned, tried), before)
    except TrainingError:
        raise
    except Exception as error:
        # Torch-Pruning and what it traces raise anything; none of it is the user's fault.
        name = type(model.backbone).__name__
        raise TrainingError(f"{name}: its channels cannot be pruned ({_first_line(error)}); {_ADVICE}") from error
    _tell_true_width(pruned.backbone)
    return pruned


def prune_weights(model: Classifier, amount: float) -> Classifier:
    """Sets the smallest weights of all convolutions and linear layers together to zero (Han et al., 2015).

    The network becomes neither smaller nor faster by it: dense engines store a zero and multiply by it as by any other
    number. Only the compressed file is smaller (:func:`compressed_bytes`).

    Args:
        model: trained; it is left as it is.
        amount: share of these weights to set to zero, 0 to 1; biases and norms are left alone.

    Returns:
        A copy of the same shapes, in eval mode.

    Raises:
        ValueError: ``amount`` is no such share.
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"amount: expected 0 to 1, got {amount}")
    # torch's pruning flattens weights by views, which those of a channels_last network do not allow.
    pruned = copy.deepcopy(model).eval().to(memory_format=torch.contiguous_format)
    layers = [(layer, "weight") for layer in pruned.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=float(amount))
    for layer, name in layers:
        prune.remove(layer, name)  # type: ignore[no-untyped-call]  # the mask becomes part of the weight
    return pruned


def compressed_bytes(path: Path) -> int:
    """Size of the file ``path`` after zlib at its default level, read piece by piece; nothing is written."""
    compressor, size = zlib.compressobj(), 0
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def count_multiplications(model: Classifier, image: ImageSpec) -> int:
    """Multiplications of convolutions and matrix products for one image, whatever kind of layer calls them.

    Args:
        model: in eval mode.
        image: its input.
    """
    example = torch.zeros(1, image.crop, image.crop, image.channels, dtype=torch.uint8, device=_device(model))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    return int(counter.get_total_flops()) // 2  # it counts a multiplication and its addition as two


def weights_mb(model: nn.Module) -> float:
    """Size of the parameters in float32, in millions of bytes."""
    return sum(parameter.numel() for parameter in model.parameters()) * 4 / 1e6


@torch.inference_mode()
def median_latency_ms(model: Classifier, pixels: torch.Tensor) -> float:
    """Median time of eager calls, in milliseconds.

    Args:
        model: in eval mode.
        pixels: uint8 (N, H, W, C), on the model's device.
    """
    times = []
    for _ in range(WARM_UP_CALLS + TIMED_CALLS):
        started = time.perf_counter()
        model(pixels).cpu()  # a GPU is waited for
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM_UP_CALLS:]) * 1000


@dataclass(frozen=True)
class _Wish:
    name: str
    limit: float
    measure: Callable[[Classifier], float]
    quick: bool = True
    """Whether it is measured after each group of channels, not after each step over all groups."""


def _wish(model: Classifier, image: ImageSpec, target: PruneTarget, one: torch.Tensor) -> _Wish:
    if target.keep is not None:
        whole = count_multiplications(model, image)
        return _Wish("keep", target.keep, lambda pruned: count_multiplications(pruned, image) / whole)
    if target.size_mb is not None:
        return _Wish("size_mb", target.size_mb, weights_mb)
    if target.latency_ms is None:
        raise ValueError("a target has one wish")
    return _Wish("latency_ms", target.latency_ms, lambda pruned: median_latency_ms(pruned, one), quick=False)


def _shrink(model: Classifier, image: ImageSpec, wish: _Wish, progress: Progress) -> None:
    """Prunes ``model`` itself, a step at a time, until the wish is met."""
    reached, pruner = wish.measure(model), _create_pruner(model.backbone, image)
    with progress.task("pruning", STEPS) as task:
        for _ in range(STEPS):
            if reached <= wish.limit:
                break
            reached = _take_step(model, pruner.step(interactive=True), wish, reached)
            task.advance(f"{wish.name} {reached:.3g}")
    if reached > wish.limit:
        raise TrainingError(
            f"{wish.name}: {wish.limit:g} cannot be reached by pruning, which ends at {reached:.3g}; "
            "wish for no less than that, or train a smaller architecture"
        )
    logger.info(f"pruned: {wish.name} {reached:.3g}, {weights_mb(model):.2f} MB of weights")


def _take_step(model: Classifier, groups: Iterable[Any], wish: _Wish, reached: float) -> float:
    """Takes out each of the groups of channels, or as many as the wish asks for; returns what is reached then."""
    size = weights_mb(model)
    for group in groups:
        group.prune()
        if wish.quick:
            reached = wish.measure(model)
            if reached <= wish.limit:
                break
    # Rounding lets many a step pass without a change.
    return reached if wish.quick or weights_mb(model) == size else wish.measure(model)


def _create_pruner(backbone: nn.Module, image: ImageSpec) -> Any:
    try:
        import torch_pruning  # an extra, and heavy
    except ImportError as error:
        raise TrainingError(
            f'pruning channels needs Torch-Pruning ({error}): pip install "marquee[optimize]"'
        ) from error
    example = torch.zeros(1, image.channels, image.crop, image.crop, device=_device(backbone))
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # about parameters outside layers, which it treats as they should be
        return torch_pruning.pruner.MagnitudePruner(  # newer releases call it BasePruner, too
            backbone,
            example,
            torch_pruning.importance.GroupMagnitudeImportance(),
            global_pruning=True,
            isomorphic=True,  # layers of one kind are ranked together: among all, the last ones would lose everything
            pruning_ratio=MAX_RATIO,
            max_pruning_ratio=MAX_RATIO,
            iterative_steps=STEPS,
            ignored_layers=_whole_layers(backbone),
            round_to=ROUND_TO,
            # Its defaults are dictionaries that all pruners share, and that would keep this network alive.
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
        )


def _whole_layers(backbone: nn.Module) -> list[nn.Module]:
    """Layers whose outputs are not pruned: the classifier, and what attention cuts into heads of a fixed size."""
    heads = backbone.get_classifier()  # type: ignore[operator]
    whole = list(heads) if isinstance(heads, (tuple, list)) else [heads]
    for module in backbone.modules():
        if hasattr(module, "num_heads"):
            whole += [layer for name, layer in module.named_children() if name != "proj"]
    return whole


def _answer(model: Classifier, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits (N, classes) and, where the architecture gives them, features (N, D)."""
    with torch.inference_mode():
        logits = model(pixels)
        try:
            features = model.logits_and_features(pixels)[1]
        except (AttributeError, TypeError):
            return logits, None
    return logits, features if isinstance(features, torch.Tensor) and features.ndim == 2 else None


def _check_answer(
    after: tuple[torch.Tensor, torch.Tensor | None], before: tuple[torch.Tensor, torch.Tensor | None]
) -> None:
    """Raises ValueError when a pruned network does not answer in the form that it did before."""
    if after[0].shape != before[0].shape:
        raise ValueError(f"its logits have the shape {tuple(after[0].shape)}, not {tuple(before[0].shape)}")
    if (after[1] is None) != (before[1] is None):
        raise ValueError("it does not give its features any more")
    if not all(values is None or bool(values.isfinite().all()) for values in after):
        raise ValueError("it answers with infinities")


def _tell_true_width(backbone: nn.Module) -> None:
    """Corrects timm's own note of the features' width, which those read who put in another classifier."""
    head = backbone.get_classifier()  # type: ignore[operator]
    for name in ("num_features", "head_hidden_size"):
        if isinstance(head, nn.Linear) and name in vars(backbone):
            setattr(backbone, name, head.in_features)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
