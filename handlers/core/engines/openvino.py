"""The ``openvino`` engine: an OpenVINO IR on a CPU, several times as fast as PyTorch there."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import openvino as ov
import torch

from ..arrays import Arrays, rows
from ..bundle import Bundle
from ..errors import BundleError
from ..spec import VariantSpec
from ..threads import threads_alone
from . import Engine
from .float_parts import in_parts
from .openvino_core import core

_HEAVY = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul", "Deconvolution")
# What int8 leaves in floating point runs in fp32: that is what its accuracy was measured with, on every CPU.
_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16", "fp16": "f16"}
_NAMES = {"u8": "int8", "i8": "int8", "f32": "fp32", "bf16": "bf16", "f16": "fp16"}


# More items than this at once are not worth their memory: an archive's batches have 8 unless it was tuned.
_MAX_STREAMS = 8
# Items of a kind that goes through the engine in larger chunks are less work each: 64 rows of a table, one image.
_SHARES = 64


def load(bundle: Bundle, variant: VariantSpec, device: str) -> Engine:
    """See :func:`marquee.handlers.core.engines.load_engine`; the variant's first file is the ``.xml``."""
    if device != "cpu":
        raise BundleError(f"variant {variant.name!r} runs on a CPU, not on {device}")
    path = bundle.program(variant)
    threads = torch.get_num_threads()
    streams, for_one = min(threads, _MAX_STREAMS), threads_alone()

    def compile_for(threads: int, streams: int) -> ov.CompiledModel:
        config = {
            "INFERENCE_PRECISION_HINT": _HINTS[variant.precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            # Several workers pinned to the same cores would wait for each other while other cores are idle.
            "ENABLE_CPU_PINNING": False,
        }
        return core().compile_model(str(path), "CPU", config)

    try:
        together = compile_for(threads, streams)
        # The same settings are the same program: its weights need not be there twice.
        alone = together if (threads, streams) == (for_one, 1) else compile_for(for_one, 1)
    except Exception as error:
        raise BundleError(f"{path}: OpenVINO cannot load it: {' '.join(str(error).split())[:300]}") from error
    return OpenVinoEngine(together, alone, variant.outputs, max(1, bundle.spec.input.chunk // _SHARES))


class OpenVinoEngine:
    """Shares a batch out among streams, which need not wait for each other after every layer.

    What cannot be shared out equally, such as an item that comes alone, goes through all threads together. Float64
    arrays go in as float32 parts (see :mod:`.float_parts`), as OpenVINO computes in float32 on a CPU.

    Args:
        together: the arrays of the input -> one output or several; as many streams as parts of a batch run at once.
        alone: the same model with one stream.
        outputs: names of the outputs.
        least: items of a stream's share that are worth the wait for the other streams.
    """

    def __init__(
        self, together: ov.CompiledModel, alone: ov.CompiledModel, outputs: Sequence[str], least: int = 1
    ) -> None:
        self._together, self._alone = together, alone
        self._streams = [together.create_infer_request() for _ in range(int(together.get_property("NUM_STREAMS")))]
        self._rest = alone.create_infer_request()
        self._outputs = outputs
        self._least = least

    def __call__(self, inputs: Arrays) -> Arrays:
        """See :class:`marquee.handlers.core.engines.Engine`."""
        batch, items = list(in_parts(inputs).values()), rows(inputs)
        share = items // len(self._streams) if items > 1 else 0
        share = share if share >= self._least else 0
        shared = share * len(self._streams)
        running = self._streams if share else []
        for number, stream in enumerate(running):
            stream.start_async([values[number * share : (number + 1) * share] for values in batch])
        parts = []
        for stream in running:
            stream.wait()
            parts.append(_outputs(stream))
        if shared < items:
            self._rest.infer([values[shared:] for values in batch], share_inputs=True)
            parts.append(_outputs(self._rest))
        arrays = (np.concatenate(shares) for shares in zip(*parts, strict=True))
        return dict(zip(self._outputs, arrays, strict=False))

    def kernels(self) -> dict[str, int]:
        """See :class:`marquee.handlers.core.engines.Engine`: what the compiled graph says about itself."""
        counts: Counter[str] = Counter()
        for node in self._together.get_runtime_model().get_ordered_ops():
            facts = node.get_rt_info()
            if facts["layerType"].astype(str) in _HEAVY:
                precision = facts["runtimePrecision"].astype(str)
                counts[_NAMES.get(precision, precision)] += 1
        return dict(counts)


def _outputs(request: ov.InferRequest) -> list[np.ndarray]:
    """Copies, float32: the arrays belong to the request's next call."""
    return [np.array(tensor.data, dtype=np.float32) for tensor in request.output_tensors]
