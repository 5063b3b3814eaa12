"""From labelled images to a TorchServe endpoint, served exactly as trained.

>>> import marquee
>>> predictor = marquee.load("runs/digits")           # a run folder, a bundle or a .mar
>>> predictor.predict(["seven.png"])[0].label
'7'

``train``, ``evaluate``, ``load``, ``package``, ``serve`` and ``Client`` are the whole way in Python; the command
``marquee`` is the same in a shell. Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from marquee.openmp import limit_spinning

if TYPE_CHECKING:
    from marquee.api import evaluate, load, package, serve, train
    from marquee.handlers.errors import BundleError, InputError, ServingError
    from marquee.handlers.predictor import Prediction, Predictor
    from marquee.serving.client import Answer, Client
    from marquee.serving.errors import OperationError
    from marquee.serving.verified import Service
    from marquee.training.config import RunConfig
    from marquee.training.errors import TrainingError

limit_spinning()

_HOMES = {
    "marquee.api": ("evaluate", "load", "package", "serve", "train"),
    "marquee.handlers.errors": ("BundleError", "InputError", "ServingError"),
    "marquee.handlers.predictor": ("Prediction", "Predictor"),
    "marquee.serving.client": ("Answer", "Client"),
    "marquee.serving.errors": ("OperationError",),
    "marquee.serving.verified": ("Service",),
    "marquee.training.config": ("RunConfig",),
    "marquee.training.errors": ("TrainingError",),
}

__all__ = [
    "Answer",
    "BundleError",
    "Client",
    "InputError",
    "OperationError",
    "Prediction",
    "Predictor",
    "RunConfig",
    "Service",
    "ServingError",
    "TrainingError",
    "evaluate",
    "load",
    "package",
    "serve",
    "train",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
