"""Captum's methods, each held to the time that it is given. The only module that needs Captum.

All of them explain the evidence for a label (:mod:`.evidence`). A map is float64 (crop, crop), in logits: positive
where the image speaks for the label, negative where it speaks against it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion

from ..core.errors import InputError
from .budget import Budget, chunk
from .program import OpenProgram
from .request import ExplanationRequest

MIN_GRID, MAX_GRID = 4, 28
"""Occlusion: squares in a row."""
MIN_STEPS, MAX_STEPS = 8, 64
"""Integrated gradients: points on the way from the baseline."""
_GRADIENT_PASSES = 3
"""A pass forward and back costs about three passes forward."""

Map = tuple[np.ndarray, dict[str, Any]]
"""Float64 (crop, crop), and the settings that it was made with."""


def gradcam(program: OpenProgram, pixels: np.ndarray, index: int, budget: Budget) -> Map:
    """Grad-CAM (Selvaraju et al., 2017) at the last feature map.

    Args:
        program: with a feature map.
        pixels: uint8 (crop, crop, channels).
        index: of the label.
        budget: what it may take.

    Raises:
        InputError: ``too_slow``.
    """
    side = program.map_side
    assert side is not None, "asked only where there is a feature map"  # noqa: S101
    floats = program.floats(pixels[None])
    with torch.no_grad():
        budget.passes(budget.measure(lambda: program(floats)), _GRADIENT_PASSES)
    method = LayerGradCam(_checked(program, budget), program.feature_map)
    coarse = method.attribute(floats, target=index, relu_attributions=True)
    smooth = LayerAttribution.interpolate(coarse.detach(), pixels.shape[:2], "bilinear")
    return _as_map(smooth[0, 0]), {"layer_size": side}


def integrated_gradients(
    program: OpenProgram,
    pixels: np.ndarray,
    index: int,
    request: ExplanationRequest,
    colour: np.ndarray,
    budget: Budget,
) -> Map:
    """Integrated gradients (Sundararajan et al., 2017) from an image of one colour.

    Args:
        program: of the model.
        pixels: uint8 (crop, crop, channels).
        index: of the label.
        request: for ``steps``.
        colour: of the baseline, float (channels,) in 0..255.
        budget: what it may take.

    Returns:
        The map, summed over the channels. ``delta``, of its settings, is the part of the evidence's difference to the
        baseline's that the steps did not catch, in logits: near 0 when there are enough.

    Raises:
        InputError: ``too_slow``.
    """
    floats = program.floats(pixels[None])
    baseline = program.floats(np.broadcast_to(np.rint(colour).astype(np.uint8), pixels.shape)[None].copy())

    def step() -> None:
        image = floats.clone().requires_grad_()
        torch.autograd.grad(program(image)[0, index], image)

    each = budget.measure(step)
    fitting = budget.passes(each, MIN_STEPS if request.steps is None else request.steps)
    steps = request.steps or min(MAX_STEPS, fitting)
    method = IntegratedGradients(_checked(program, budget))
    values, delta = method.attribute(
        floats,
        baselines=baseline,
        target=index,
        n_steps=steps,
        internal_batch_size=chunk(each, 8),
        return_convergence_delta=True,
    )
    channels = 1 if values.shape[1] == pixels.shape[2] else 3  # (N, C, H, W), or (N, H, W, C)
    return _as_map(values.detach().sum(channels)[0]), {"steps": steps, "delta": round(float(delta[0]), 4)}


def occlusion(
    evidence_in: Callable[[np.ndarray], np.ndarray],
    pixels: np.ndarray,
    index: int,
    request: ExplanationRequest,
    colour: np.ndarray,
    budget: Budget,
) -> Map:
    """Occlusion (Zeiler and Fergus, 2014): how much the evidence falls when a square is covered. Needs no gradient.

    Args:
        evidence_in: uint8 (N, crop, crop, channels) -> (N, labels), by whatever engine.
        pixels: uint8 (crop, crop, channels).
        index: of the label.
        request: for ``window`` and ``stride``.
        colour: that covers, float (channels,) in 0..255.
        budget: what it may take.

    Raises:
        InputError: ``too_slow``; ``bad_request``, the window or stride does not fit the image.
    """
    crop, channels = pixels.shape[0], pixels.shape[2]
    each = budget.measure(lambda: evidence_in(pixels[None]))
    window, stride = _squares(crop, request, lambda least: budget.passes(each, least))

    def evidence(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(evidence_in(images.round().to(torch.uint8).numpy())).float()

    values = Occlusion(_checked(evidence, budget)).attribute(
        torch.from_numpy(pixels[None].astype(np.float32)),
        sliding_window_shapes=(window, window, channels),
        strides=(stride, stride, channels),
        baselines=torch.from_numpy(np.rint(colour).astype(np.float32)).expand(1, crop, crop, channels),
        target=index,
        perturbations_per_eval=chunk(each, 32),
    )
    return _as_map(values[0, :, :, 0]), {"window": window, "stride": stride}


def _squares(crop: int, request: ExplanationRequest, passes: Callable[[int], int]) -> tuple[int, int]:
    """Window and stride in pixels: what is asked, and where nothing is, the densest that ``passes`` allows.

    Args:
        crop: side of the image.
        request: what is asked.
        passes: the number of passes that fit, for the least that is needed; raises InputError when it does not fit.
    """
    window = request.window or max(2, round(crop / 7))
    if window > crop or (request.stride or 0) > window:
        raise InputError(
            "bad_request", f"expected stride <= window <= {crop} (the model's input), got {request.stride}, {window}"
        )
    if request.stride is not None:
        passes(_count(crop, window, request.stride))
        return window, request.stride
    # Four strides to a window are smooth; denser ones show no more.
    grids = range(min(MAX_GRID, _row(crop, window, max(1, window // 4))), 0, -1)
    fitting = passes(min(MIN_GRID, grids.start) ** 2 + 1)
    grid = next(grid for grid in grids if grid * grid + 1 <= fitting)
    stride = max(1, -(-max(crop - window, 1) // max(grid - 1, 1)))
    # A stride wider than the window would leave stripes that nothing has covered.
    return max(window, stride), stride


def _row(crop: int, window: int, stride: int) -> int:
    """Positions of a window in a row, the last one cut off by the edge included."""
    return 1 + -(-(crop - window) // stride)


def _count(crop: int, window: int, stride: int) -> int:
    """Passes of the model: one a window, and one of the whole image."""
    return _row(crop, window, stride) ** 2 + 1


def _checked(call: Callable[[torch.Tensor], torch.Tensor], budget: Budget) -> Callable[[torch.Tensor], torch.Tensor]:
    """``call``, refusing to begin after the deadline."""

    def checked(images: torch.Tensor) -> torch.Tensor:
        budget.check()
        return call(images)

    return checked


def _as_map(values: torch.Tensor) -> np.ndarray:
    result: np.ndarray = values.double().cpu().numpy()
    return result
