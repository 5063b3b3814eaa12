"""Engines: what runs a variant's files.

An engine takes the arrays that the bundle's input gives and returns the float32 arrays that the variant's ``outputs``
name. Normalisation is part of the model, so no engine can be fed the wrong mean. To add one: a module here with a
``load(bundle, variant, device)`` and a line in :data:`ENGINES` (docs/optimizing.md shows a whole one).
"""

import importlib
from dataclasses import dataclass
from typing import Protocol

from ..arrays import Arrays
from ..bundle import Bundle
from ..errors import BundleError
from ..spec import VariantSpec


@dataclass(frozen=True)
class Registration:
    """Where an engine is and what it needs."""

    module: str
    """Imported only when a variant asks for it."""
    install: str = ""
    """What to install when the import fails; empty: what every server has."""


ENGINES = {
    "exported": Registration(".exported"),
    "compiled": Registration(".compiled"),
    "openvino": Registration(".openvino", "the extra optimize, or: pip install openvino"),
}
"""Engine name, as in ``VariantSpec.engine`` -> its registration."""


class Engine(Protocol):
    """A loaded model."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """Arrays as :meth:`InputSpec.example` has them -> float32 arrays, by the names of :attr:`VariantSpec.outputs`.

        The predictor checks that each is there.
        """

    def kernels(self) -> dict[str, int]:
        """Precision (``fp32``, ``bf16``, ``fp16``, ``int8``) -> convolutions and matrix products that run in it."""


def load_engine(bundle: Bundle, variant: VariantSpec, device: str) -> Engine:
    """Loads a variant of a bundle onto ``device`` (``cpu``, ``cuda:0``, ``mps``, ...).

    Raises:
        BundleError: the engine is unknown, its library is not installed, the files cannot be loaded, or the kernels
            run in another precision than the variant says.
    """
    if variant.engine not in ENGINES:
        raise BundleError(f"variant {variant.name!r} wants engine {variant.engine!r}; known: {', '.join(ENGINES)}")
    registration = ENGINES[variant.engine]
    try:
        module = importlib.import_module(registration.module, __package__)
    except ImportError as error:
        hint = f"; install {registration.install}" if registration.install else ""
        raise BundleError(f"variant {variant.name!r} needs a library that is not installed: {error}{hint}") from error
    engine: Engine = module.load(bundle, variant, device)
    check_precision(variant, engine.kernels())
    return engine


def check_precision(variant: VariantSpec, kernels: dict[str, int]) -> None:
    """Refuses a variant that says one precision and runs in another, which only its speed and size would tell.

    Some kernels of an int8 model stay in floating point, where its accuracy asks for it; most must not.

    Args:
        variant: what it says.
        kernels: see :meth:`Engine.kernels`; none where an engine has no way to tell.

    Raises:
        BundleError: less than half of the kernels run in the variant's precision.
    """
    total, matching = sum(kernels.values()), kernels.get(variant.precision, 0)
    if total and matching * 2 < total:
        counts = ", ".join(f"{count} in {precision}" for precision, count in sorted(kernels.items()))
        raise BundleError(
            f"variant {variant.name!r} says {variant.precision}, but of its {total} convolutions and matrix products "
            f"only {matching} run in it here ({counts})"
        )
