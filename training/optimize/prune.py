"""Pruning of a trained network: removes whole channels, or sets individual weights to zero."""

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

from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.tasks.image_classification.models import Classifier

logger = logging.getLogger(__name__)

ROUND_TO = 8
"""The number of channels kept is a multiple of this, for which kernels are optimised."""
MAX_RATIO = 0.9
"""Largest share of a layer's channels that is removed; a layer without channels would cut the network off."""
STEPS = 100
"""Steps from the whole network to the smallest; each step ranks the remaining channels anew."""
WARM_UP_CALLS, TIMED_CALLS = 5, 30
_CHUNK = 1 << 20
_ADVICE = "use magnitude pruning, or train a smaller architecture"


@dataclass(frozen=True, kw_only=True)
class PruneTarget:
    """The pruning target; exactly one field must be set."""

    keep: float | None = None
    """Largest share of the multiplications to keep, 0 to 1."""
    size_mb: float | None = None
    """Largest size of the weights in float32, in millions of bytes."""
    latency_ms: float | None = None
    """Largest median latency of one image in milliseconds, in eager mode on the machine that prunes."""

    def __post_init__(self) -> None:
        limits = {item.name: getattr(self, item.name) for item in fields(self)}
        targets = [name for name, limit in limits.items() if limit is not None]
        if len(targets) != 1:
            raise ValueError(f"{', '.join(targets or limits)}: expected exactly one of {', '.join(limits)}")
        if not 0 < limits[targets[0]] < float("inf"):
            raise ValueError(f"{targets[0]}: expected more than 0, got {limits[targets[0]]}")
        if self.keep is not None and self.keep > 1:
            raise ValueError(f"keep: expected at most 1, got {self.keep}")


def prune_channels(
    model: Classifier, image: ImageSpec, target: PruneTarget, pixels: np.ndarray, progress: Progress
) -> Classifier:
    """Removes the channels with the smallest weights until the network reaches the target.

    Channels that depend on each other, such as those that a residual connection adds, are ranked and removed together
    (Fang et al., "DepGraph", 2023). Pruning lowers the accuracy; :func:`marquee.training.optimize.distil.fine_tune`
    restores it.

    Args:
        model: a trained model; not modified.
        image: the model's input.
        target: the size to reach.
        pixels: real images, uint8 (N, crop, crop, channels); the first two check the result, and latency is measured on
            the first.
        progress: where each step is reported.

    Returns:
        A smaller copy in eval mode, on the model's device; the shapes of its layers differ from those of its
        architecture.

    Raises:
        TrainingError: the target cannot be reached, the architecture cannot be pruned, or Torch-Pruning is missing.
    """
    pruned = copy.deepcopy(model).eval()
    # Torch-Pruning reads the dependencies from the autograd graph, which omits frozen parameters.
    pruned.requires_grad_(True)
    probe = torch.from_numpy(pixels[:2].copy()).to(_device(model))
    before = _outputs(pruned, probe)
    criterion = _criterion(pruned, image, target, probe[:1])
    try:
        _shrink(pruned, image, criterion, progress)
        _check_outputs(_outputs(pruned, probe), before)
    except TrainingError:
        raise
    except Exception as error:
        # Torch-Pruning and the code that it traces raise exceptions of any type; none is the user's fault.
        name = type(model.backbone).__name__
        raise TrainingError(f"{name}: its channels cannot be pruned ({_first_line(error)}); {_ADVICE}") from error
    _correct_feature_width(pruned.backbone)
    return pruned


def prune_weights(model: Classifier, amount: float) -> Classifier:
    """Sets the smallest weights of all convolutions and linear layers together to zero (Han et al., 2015).

    This makes the network neither smaller nor faster: dense engines store zeros and multiply by them like any other
    number. Only the compressed file is smaller (:func:`compressed_bytes`).

    Args:
        model: a trained model; not modified.
        amount: share of these weights to set to zero, 0 to 1; biases and normalisation layers are not changed.

    Returns:
        A copy with the same shapes, in eval mode.

    Raises:
        ValueError: ``amount`` is not between 0 and 1.
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"amount: expected 0 to 1, got {amount}")
    # PyTorch's pruning flattens weights with view(), which fails for those of a channels_last network.
    pruned = copy.deepcopy(model).eval().to(memory_format=torch.contiguous_format)
    layers = [(layer, "weight") for layer in pruned.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=float(amount))
    for layer, name in layers:
        prune.remove(layer, name)  # type: ignore[no-untyped-call]  # makes the pruning permanent
    return pruned


def compressed_bytes(path: Path) -> int:
    """Size of the file ``path`` after compression with zlib at its default level; nothing is written."""
    compressor, size = zlib.compressobj(), 0
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def count_multiplications(model: Classifier, image: ImageSpec) -> int:
    """Multiplications of all convolutions and matrix products for one image.

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
        model(pixels).cpu()  # waits for a GPU to finish
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM_UP_CALLS:]) * 1000


@dataclass(frozen=True)
class _Criterion:
    name: str
    limit: float
    measure: Callable[[Classifier], float]
    quick: bool = True
    """Whether it is fast enough to be measured after each group of channels instead of after each step."""


def _criterion(model: Classifier, image: ImageSpec, target: PruneTarget, pixels: torch.Tensor) -> _Criterion:
    if target.keep is not None:
        original = count_multiplications(model, image)
        return _Criterion("keep", target.keep, lambda pruned: count_multiplications(pruned, image) / original)
    if target.size_mb is not None:
        return _Criterion("size_mb", target.size_mb, weights_mb)
    if target.latency_ms is None:
        raise ValueError("the target sets none of its fields")
    return _Criterion("latency_ms", target.latency_ms, lambda pruned: median_latency_ms(pruned, pixels), quick=False)


def _shrink(model: Classifier, image: ImageSpec, criterion: _Criterion, progress: Progress) -> None:
    """Prunes ``model`` in place, step by step, until the criterion is met."""
    reached, pruner = criterion.measure(model), _create_pruner(model.backbone, image)
    with progress.task("pruning", STEPS) as task:
        for _ in range(STEPS):
            if reached <= criterion.limit:
                break
            reached = _take_step(model, pruner.step(interactive=True), criterion, reached)
            task.advance(f"{criterion.name} {reached:.3g}")
    if reached > criterion.limit:
        raise TrainingError(
            f"{criterion.name}: {criterion.limit:g} cannot be reached by pruning, which ends at {reached:.3g}; "
            "set a larger target, or train a smaller architecture"
        )
    logger.info(f"pruned: {criterion.name} {reached:.3g}, {weights_mb(model):.2f} MB of weights")


def _take_step(model: Classifier, groups: Iterable[Any], criterion: _Criterion, reached: float) -> float:
    """Removes the groups of channels until the criterion is met; returns the value that is reached."""
    size = weights_mb(model)
    for group in groups:
        group.prune()
        if criterion.quick:
            reached = criterion.measure(model)
            if reached <= criterion.limit:
                break
    # Because of rounding, many steps change nothing.
    return reached if criterion.quick or weights_mb(model) == size else criterion.measure(model)


def _create_pruner(backbone: nn.Module, image: ImageSpec) -> Any:
    try:
        import torch_pruning  # an extra, and heavy
    except ImportError as error:
        raise TrainingError(
            f'pruning channels needs Torch-Pruning ({error}): pip install "marquee[optimize]"'
        ) from error
    example = torch.zeros(1, image.channels, image.crop, image.crop, device=_device(backbone))
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # about parameters outside layers, which it handles correctly
        return torch_pruning.pruner.MagnitudePruner(  # newer releases call it BasePruner, too
            backbone,
            example,
            torch_pruning.importance.GroupMagnitudeImportance(),
            global_pruning=True,
            isomorphic=True,  # rank only layers of one kind together; otherwise the last layers would lose all channels
            pruning_ratio=MAX_RATIO,
            max_pruning_ratio=MAX_RATIO,
            iterative_steps=STEPS,
            ignored_layers=_unpruned_layers(backbone),
            round_to=ROUND_TO,
            # The default dictionaries are shared by all pruners and would keep a reference to this network.
            in_channel_groups={},
            out_channel_groups={},
            num_heads={},
        )


def _unpruned_layers(backbone: nn.Module) -> list[nn.Module]:
    """Layers whose outputs are not pruned: the classifier, and those that attention splits into heads of fixed size."""
    heads = backbone.get_classifier()  # type: ignore[operator]
    layers = list(heads) if isinstance(heads, (tuple, list)) else [heads]
    for module in backbone.modules():
        if hasattr(module, "num_heads"):
            layers += [layer for name, layer in module.named_children() if name != "proj"]
    return layers


def _outputs(model: Classifier, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits (N, classes) and, where the architecture gives them, features (N, D)."""
    with torch.inference_mode():
        logits = model(pixels)
        try:
            features = model.logits_and_features(pixels)[1]
        except (AttributeError, TypeError):
            return logits, None
    return logits, features if isinstance(features, torch.Tensor) and features.ndim == 2 else None


def _check_outputs(
    after: tuple[torch.Tensor, torch.Tensor | None], before: tuple[torch.Tensor, torch.Tensor | None]
) -> None:
    """Raises ValueError if the outputs of a pruned network differ in form from those before, or are not finite."""
    if after[0].shape != before[0].shape:
        raise ValueError(f"its logits have the shape {tuple(after[0].shape)}, not {tuple(before[0].shape)}")
    if (after[1] is None) != (before[1] is None):
        raise ValueError("it no longer returns its features")
    if not all(values is None or bool(values.isfinite().all()) for values in after):
        raise ValueError("its outputs are not finite")


def _correct_feature_width(backbone: nn.Module) -> None:
    """Corrects timm's attributes for the number of features, which are read when the classifier is replaced."""
    head = backbone.get_classifier()  # type: ignore[operator]
    for name in ("num_features", "head_hidden_size"):
        if isinstance(head, nn.Linear) and name in vars(backbone):
            setattr(backbone, name, head.in_features)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
