"""The ``compiled`` engine: a ``.pt2`` that torch.compile turns into machine code when it is loaded.

What it compiles is bound to the machine, so nothing compiled is shipped: a worker pays with its start (a minute for a
ResNet on two cores) and needs a C++ compiler on a CPU, or Triton on a GPU.
"""

import torch

from ..bundle import Bundle
from ..errors import BundleError
from ..spec import VariantSpec
from . import Engine
from .exported import ExportedEngine, load_module


def load(bundle: Bundle, variant: VariantSpec, device: str) -> Engine:
    """See :func:`marquee.handlers.core.engines.load_engine`."""
    module = load_module(bundle, variant, device)
    # With CUDA graphs each new batch size would be recorded anew; without, dynamic shapes compile once.
    compiled = torch.compile(module, dynamic=True)
    engine = ExportedEngine(module, bundle.spec.input, device, variant.outputs, compiled)
    try:
        for size in (2, 1):  # one item is a case of its own for the compiler; neither is left to the first request
            engine(bundle.spec.input.example(size))
    except Exception as error:
        raise BundleError(f"variant {variant.name!r} cannot be compiled here: {error}") from error
    return engine
