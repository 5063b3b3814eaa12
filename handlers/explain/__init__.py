"""Why the model answers what it answers: for labels of images, a heat map of the evidence for and against a label.

::

    request.py    the fields of a request -> ExplanationRequest
    batch.py      explanations in a batch of requests: predictions are answered first
    early.py      the answer to a part of a batch, in TorchServe's protocol
    budget.py     how many passes of the model fit into the time that an explanation may take
    explainer.py  image, prediction, ExplanationRequest -> Explanation, with the method that this model allows
    program.py    the exported fp32 program, opened where its floats begin and at its last feature map
    methods.py    Captum's Grad-CAM, integrated gradients and occlusion; imported when first asked for
    picture.py    the map as pictures

Usable without a server:

>>> from marquee.handlers.explain import explainer_for
>>> from marquee.handlers.explain.request import ExplanationRequest
>>> explainer = explainer_for(predictor)
>>> explanation = explainer.explain({"pixels": pixels}, prediction, ExplanationRequest(), seconds=10)
"""

import importlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..core.arrays import Arrays
    from ..core.predictor import Predictor
    from .request import ExplanationRequest

EXPLAINERS = {
    ("image", "classification"): (".explainer", "ImageExplainer"),
    ("image", "multi-label-classification"): (".explainer", "ImageExplainer"),
}
"""Kinds of input and output -> module and class of what explains such answers."""


class Explainer(Protocol):
    """Explains the answers of one predictor."""

    def check(self, request: "ExplanationRequest") -> None:
        """Raises InputError for what is not possible, before any prediction is made."""

    def explain(self, inputs: "Arrays", prediction: Any, request: "ExplanationRequest", seconds: float) -> Any:
        """The explanation of one answer, with ``as_json``; raises InputError, ``too_slow`` among them."""


def explainer_for(predictor: "Predictor", device: str = "cpu") -> Explainer | None:
    """What explains the answers of ``predictor``; None where nothing does."""
    spec = predictor.spec
    if (spec.input.kind, spec.output.kind) not in EXPLAINERS:
        return None
    module, name = EXPLAINERS[spec.input.kind, spec.output.kind]
    explainer: Explainer = getattr(importlib.import_module(module, __name__), name)(predictor, device)
    return explainer
