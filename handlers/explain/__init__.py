"""Why the model answers what it answers.

For a label of an image, a heat map of the evidence for and against it; for a number or a label of a row of a table,
what each column contributes.

::

    request.py    the fields of a request -> the settings of its kind of input
    batch.py      explanations in a batch of requests: predictions are answered first
    early.py      the answer to a part of a batch, in TorchServe's protocol
    budget.py     how many passes of the model fit into the time that an explanation may take

    columns.py    row, prediction, RowRequest -> RowExplanation
    evaluations.py  as many answers for rows mixed from it and the background as the time allows
    game.py       Shapley values from these answers, exact and sampled
    cells.py      what the row's cells were

    explainer.py  image, prediction, ExplanationRequest -> Explanation, with the method that this model allows
    evidence.py   what is explained of the logits
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
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..core.arrays import Arrays
    from ..core.predictor import Predictor
    from .request import Settings

EXPLAINERS = {
    ("image", "classification"): (".explainer", "ImageExplainer"),
    ("image", "multi-label-classification"): (".explainer", "ImageExplainer"),
    ("table", "classification"): (".columns", "RowExplainer"),
    ("table", "regression"): (".columns", "RowExplainer"),
}
"""Kinds of input and output -> module and class of what explains such answers."""


class Explainer(Protocol):
    """Explains the answers of one predictor."""

    settings: "type[Settings]"
    """What a request may ask of it."""
    max_bytes: int | None
    """Size of a body above which it is no JSON object with settings; None: any size."""

    def own_names(self, document: Mapping[str, Any]) -> Collection[str]:
        """Of a JSON object in a request, the names that are the input's own and never settings."""

    def count(self, body: Any) -> int:
        """How many inputs a body holds, where lists of them are allowed; nothing is decoded for it.

        Raises:
            InputError: the body cannot be read.
        """

    def check(self, request: Any) -> None:
        """Raises InputError for what is not possible, before any prediction is made; ``request`` is a ``settings``."""

    def explain(self, inputs: "Arrays", prediction: Any, request: Any, seconds: float) -> Any:
        """The explanation of one answer, with ``as_json``; raises InputError, ``too_slow`` among them."""


def explainer_for(predictor: "Predictor", device: str = "cpu") -> Explainer | None:
    """What explains the answers of ``predictor``; None where nothing does."""
    spec = predictor.spec
    if (spec.input.kind, spec.output.kind) not in EXPLAINERS:
        return None
    module, name = EXPLAINERS[spec.input.kind, spec.output.kind]
    explainer: Explainer = getattr(importlib.import_module(module, __name__), name)(predictor, device)
    return explainer
