"""From labelled images to a TorchServe endpoint, served exactly as trained.

>>> import marquee
>>> predictor = marquee.load("runs/digits")           # a run folder, a bundle or a .mar
>>> predictor.predict(["seven.png"])[0].label
'7'

``train``, ``evaluate``, ``load``, ``package``, ``serve`` and ``Client`` cover the whole workflow in Python; the command
``marquee`` does the same in a shell. Heavy libraries are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from marquee.openmp import limit_spinning, limit_threads

if TYPE_CHECKING:
    from marquee.api import evaluate, load, package, serve, train
    from marquee.handlers.core.errors import BundleError, InputError, ServingError
    from marquee.handlers.core.predictor import Predictor
    from marquee.handlers.outputs.classification import Prediction
    from marquee.serving.client import Answer, Client
    from marquee.serving.errors import OperationError
    from marquee.serving.verified import Service
    from marquee.training.core.errors import TrainingError
    from marquee.training.tasks.image_classification.config import ImageRunConfig as RunConfig

limit_spinning()
limit_threads()

_HOMES = {
    "marquee.api": ("evaluate", "load", "package", "serve", "train"),
    "marquee.handlers.core.errors": ("BundleError", "InputError", "ServingError"),
    "marquee.handlers.core.predictor": ("Predictor",),
    "marquee.handlers.outputs.classification": ("Prediction",),
    "marquee.serving.client": ("Answer", "Client"),
    "marquee.serving.errors": ("OperationError",),
    "marquee.serving.verified": ("Service",),
    "marquee.training.core.errors": ("TrainingError",),
    "marquee.training.tasks.image_classification.config": ("ImageRunConfig",),
}

_ALIASES = {"RunConfig": "ImageRunConfig"}

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
    attribute = _ALIASES.get(name, name)
    for module, names in _HOMES.items():
        if attribute in names:
            value = getattr(import_module(module), attribute)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
