"""The ``openvino`` engine: an OpenVINO IR on a CPU, several times as fast as PyTorch there."""

from collections import Counter
from pathlib import Path

import numpy as np
import openvino as ov
import torch

from handlers.distance import DISTANCE_FILE, read_distance
from handlers.engines import Engine
from handlers.engines.openvino_core import core
from handlers.errors import BundleError
from handlers.spec import ModelSpec, VariantSpec

_HEAVY = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul", "Deconvolution")
# What int8 leaves in floating point runs in fp32: that is what its accuracy was measured with, on every CPU.
_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16", "fp16": "f16"}
_NAMES = {"u8": "int8", "i8": "int8", "f32": "fp32", "bf16": "bf16", "f16": "fp16"}


def load(spec: ModelSpec, variant: VariantSpec, folder: Path, device: str) -> Engine:
    """See :func:`handlers.engines.load_engine`; the variant's first file is the ``.xml``."""
    if device != "cpu":
        raise BundleError(f"variant {variant.name!r} runs on a CPU, not on {device}")
    path = Path(folder) / next(iter(variant.files))
    config = {
        "INFERENCE_PRECISION_HINT": _HINTS[variant.precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        # Several workers pinned to the same cores would wait for each other while other cores are idle.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        compiled = core().compile_model(str(path), "CPU", config)
    except Exception as error:
        raise BundleError(f"{path}: OpenVINO cannot load it: {' '.join(str(error).split())[:300]}") from error
    tables = [Path(folder) / name for name in variant.files if name.endswith(DISTANCE_FILE)]
    return OpenVinoEngine(compiled, tables[0] if tables else None)


class OpenVinoEngine:
    """Calls the compiled model.

    Args:
        compiled: uint8 (N, crop, crop, channels) -> logits and, with ``distance``, features (N, D).
        distance: file of the class means.
    """

    def __init__(self, compiled: ov.CompiledModel, distance: Path | None) -> None:
        self._compiled = compiled
        self._distance = read_distance(distance) if distance else None

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """uint8 (N, crop, crop, channels) -> float32 logits (N, labels), or with the distance."""
        results = self._compiled(batch)
        logits: np.ndarray = np.asarray(results[0], dtype=np.float32)
        if self._distance is None:
            return logits.copy()  # the array belongs to the engine's next call
        return np.concatenate([logits, self._distance(results[1])], axis=1)

    def kernels(self) -> dict[str, int]:
        """See :class:`handlers.engines.Engine`: what the compiled graph says about itself."""
        found: Counter[str] = Counter()
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            facts = node.get_rt_info()
            if facts["layerType"].astype(str) in _HEAVY:
                precision = facts["runtimePrecision"].astype(str)
                found[_NAMES.get(precision, precision)] += 1
        return dict(found)
