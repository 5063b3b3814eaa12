"""The exported program as Captum needs it: entered where its floats begin, with its last feature map as a layer.

A served program takes uint8 pixels, which have no gradient. An :class:`OpenProgram` runs the same graph from its first
float node on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from .evidence import Evidence


class OpenProgram(nn.Module):
    """Floats of the program's first float node -> float32 (N, labels), the evidence for each label.

    Args:
        module: the exported program, uint8 (N, crop, crop, channels) -> float (N, columns), alone or first of a tuple.
        crop: side of the images.
        channels: of the images.
        evidence: what is explained of the program's first output.

    Raises:
        ValueError: it is no graph, or no float node depends on the pixels.
    """

    def __init__(self, module: nn.Module, crop: int, channels: int, evidence: Evidence) -> None:
        super().__init__()
        if not isinstance(module, fx.GraphModule):
            raise ValueError(f"expected the graph of an exported program, got {type(module).__name__}")
        # Nothing is learned here: only the image gets gradients.
        self.module: fx.GraphModule = module.requires_grad_(False)
        self.feature_map = nn.Identity()
        """Called with the last activation that has a place, where the graph gives it: a layer for hooks."""
        self._entry, self._map = _find_entry(module), _find_feature_map(module)
        self._pixels_shape, self._evidence = (crop, crop, channels), evidence

    @property
    def map_side(self) -> int | None:
        """Side of the last feature map (N, C, side, side); None where the model has none, as transformers."""
        return None if self._map is None else int(_value(self._map).shape[2])

    @torch.no_grad()
    def floats(self, pixels: np.ndarray) -> torch.Tensor:
        """uint8 (N, crop, crop, channels) -> the program's first floats, in 0..255: (N, channels, crop, crop), say."""
        device = next((tensor.device for tensor in self.module.parameters()), torch.device("cpu"))
        walk = _Walk(self.module, {}, last=self._entry)
        entry: torch.Tensor = walk.run(torch.tensor(pixels, device=device), enable_io_processing=False)
        return entry.float()

    def forward(self, floats: torch.Tensor) -> torch.Tensor:
        """The rest of the program."""
        # The graph asks the pixels for the number of images; their values are not looked at any more.
        blank = torch.zeros((len(floats), *self._pixels_shape), dtype=torch.uint8, device=floats.device)
        calls = {} if self._map is None else {self._map: self.feature_map}
        result = _Walk(self.module, calls).run(blank, initial_env={self._entry: floats.clone()})
        logits: torch.Tensor = result[0] if isinstance(result, (tuple, list)) else result
        evidence: torch.Tensor = self._evidence(logits.float())
        return evidence


class _Walk(fx.Interpreter):
    """Runs a graph; the values of some nodes go through a module of ours, and nothing is computed after ``last``."""

    def __init__(self, module: fx.GraphModule, calls: Mapping[fx.Node, nn.Module], last: fx.Node | None = None) -> None:
        super().__init__(module)
        self._calls, self._last = calls, last
        self._result: Any = None

    def run_node(self, n: fx.Node) -> Any:
        """See torch.fx.Interpreter."""
        if self._result is not None:
            return self._result
        value = super().run_node(n)
        if n is self._last:
            self._result = value
        # What follows may work in place, and the layer's value is looked at later.
        return self._calls[n](value).clone() if n in self._calls else value


def _find_entry(module: fx.GraphModule) -> fx.Node:
    """The first float value that is computed from the pixels."""
    nodes: list[fx.Node] = list(module.graph.nodes)
    seen = {node for node in nodes if node.op == "placeholder"}
    for node in nodes:
        if node.op == "call_function" and seen & set(node.all_input_nodes):
            seen.add(node)
            if isinstance(_value(node), torch.Tensor) and _value(node).is_floating_point():
                return node
    raise ValueError("the program computes no float from its pixels")


def _find_feature_map(module: fx.GraphModule) -> fx.Node | None:
    """The last activation with places: (N, C, side, side) in a convolutional network.

    Behind it only (N, C), (N, C, 1, 1) and the like are left, so nothing mixes places any more and a place of the map
    is a place of the image. A transformer's last one is (N, tokens, C), and None is returned.
    """
    *_, output = module.graph.nodes
    ancestors, todo = set(), list(output.all_input_nodes)
    while todo:
        if (node := todo.pop()) not in ancestors:
            ancestors.add(node)
            todo.extend(node.all_input_nodes)
    last = None
    for node in module.graph.nodes:
        if node in ancestors and node.op == "call_function" and _has_places(_value(node)):
            last = node
    if last is None:
        return None
    shape: Sequence[Any] = _value(last).shape
    return last if len(shape) == 4 and shape[2] == shape[3] else None


def _has_places(value: Any) -> bool:
    """Whether a value is (N, C, H, W), (N, tokens, C) or alike: at least two sizes beside N that are not 1."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    return sum(not (isinstance(size, int) and size == 1) for size in value.shape[1:]) >= 2


def _value(node: fx.Node) -> Any:
    """The fake value that torch.export has kept with a node."""
    return node.meta.get("val")
