"""The explanation of a label that an image got: a heat map, by the method that the model allows."""

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from ..core.arrays import Arrays
from ..core.engines.exported import load_module
from ..core.errors import BundleError, InputError
from ..core.predictor import Predictor
from ..core.spec import VariantSpec
from ..inputs.image.spec import PIXELS, image_of
from ..outputs.classification import LOGITS, Prediction, classification_of
from .budget import Budget
from .evidence import evidence_of
from .picture import grey_map, overlay, png, smoothed
from .program import OpenProgram
from .request import AUTO, ExplanationRequest, no_names, one_input

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Explanation:
    """The evidence for a label in one image, and against it."""

    method: str
    """The method that was used."""
    label: str
    """Whose evidence it is."""
    index: int
    """Of the label."""
    variant: str
    """The variant that was looked into. Gradients exist in the fp32 program only, whichever variant answers."""
    settings: dict[str, Any]
    """What the method was run with."""
    note: str | None
    """Why it is another method than the one asked for, or why the map is empty."""
    pixels: np.ndarray
    """uint8 (crop, crop, channels): what the model saw."""
    heat: np.ndarray
    """Float64 (crop, crop), in logits: positive where the image speaks for the label."""

    def as_json(self) -> dict[str, Any]:
        """The explanation as it goes over the wire."""
        shown = smoothed(self.heat, self._sigma)
        picture = overlay(self.pixels, shown)
        return {
            "method": self.method,
            "label": self.label,
            "index": self.index,
            "variant": self.variant,
            "settings": self.settings,
            **({} if self.note is None else {"note": self.note}),
            "strongest": float(np.abs(self.heat).max()),
            "width": picture.shape[1],
            "height": picture.shape[0],
            "heatmap": png(picture),
            "map": png(grey_map(shown)),
        }

    @property
    def _sigma(self) -> float:
        """By how many pixels the shown map is blurred; Grad-CAM's is smooth."""
        blur = {"occlusion": self.settings.get("stride", 0) / 2, "integrated_gradients": len(self.heat) / 32}
        return float(blur.get(self.method, 0))


class ImageExplainer:
    """Explains the labels that a predictor gives images; see :class:`marquee.handlers.explain.Explainer`.

    Args:
        predictor: gives the answers; occlusion asks its engine.
        device: where the fp32 program goes when a gradient is needed.
    """

    settings: ClassVar[type[ExplanationRequest]] = ExplanationRequest
    own_names = staticmethod(no_names)
    count = staticmethod(one_input)
    max_bytes: ClassVar[int | None] = None

    def __init__(self, predictor: Predictor, device: str = "cpu") -> None:
        self._predictor = predictor
        output = classification_of(predictor.spec)
        self._image, self._labels, self._evidence = image_of(predictor.spec), output.labels, evidence_of(output)
        self._device = device
        self._program: OpenProgram | None = None
        self._no_gradients: str | None = None

    def check(self, request: ExplanationRequest) -> None:
        """Raises InputError for what is not possible, before any prediction is made."""
        check_captum()
        if request.label is not None:
            self.index_of(request.label)

    def explain(
        self, inputs: Arrays, prediction: Prediction, request: ExplanationRequest, seconds: float
    ) -> Explanation:
        """The map for one image.

        Args:
            inputs: ``pixels``, uint8 (1, crop, crop, channels).
            prediction: the answer for it.
            request: what is asked.
            seconds: what it may take; loading Captum and the program, once, comes on top.

        Raises:
            InputError: ``bad_request`` (no such label), ``not_supported`` (Captum is not installed), ``too_slow``.
        """
        check_captum()
        methods, pixels = _load_methods(), inputs[PIXELS][0]
        label = prediction.label if request.label is None else request.label
        index = self.index_of(label)
        method, note = self._choose(request.method)
        budget = Budget(seconds)
        colour = 255 * np.array(self._image.mean)
        if method == "occlusion":
            heat, settings = methods.occlusion(self._evidence_in, pixels, index, request, colour, budget)
        elif method == "gradcam":
            heat, settings = methods.gradcam(self._program, pixels, index, budget)
        else:
            heat, settings = methods.integrated_gradients(self._program, pixels, index, request, colour, budget)
        if not np.isfinite(heat).all():
            raise InputError("inference_failed", "the map has values that are not finite; try another method")
        if not heat.any():
            note = "; ".join(filter(None, [note, f"nothing in the image speaks for {label!r}"]))
        looked_into = self._predictor.variant if method == "occlusion" else self._predictor.spec.variants[0]
        return Explanation(method, label, index, looked_into.name, settings, note, pixels, heat)

    def _evidence_in(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (N, crop, crop, channels) -> float64 (N, labels), by the engine that answers."""
        evidence: np.ndarray = self._evidence(self._predictor.outputs({PIXELS: pixels})[LOGITS])
        return evidence

    def index_of(self, label: str) -> int:
        """The label's place among the logits.

        Raises:
            InputError: ``bad_request``, the model has no such label.
        """
        if label not in self._labels:
            raise InputError("bad_request", f"label: the model has no label {label!r:.80}")
        return self._labels.index(label)

    def _choose(self, asked: str) -> tuple[str, str | None]:
        """The method for this model, and what is to be said about it."""
        if asked == "occlusion":
            return asked, None
        self._open_program()
        if self._program is None:
            return "occlusion", f"occlusion, because {self._no_gradients}"
        if asked == "integrated_gradients" or self._program.map_side is not None:
            return "gradcam" if asked == AUTO else asked, None
        return "occlusion", "occlusion, because this architecture has no last feature map for Grad-CAM"

    def _open_program(self) -> None:
        """Loads the fp32 program on first use."""
        if self._program is not None or self._no_gradients is not None:
            return
        bundle = self._predictor.bundle
        first: VariantSpec = bundle.spec.variants[0]
        if first.engine != "exported" or first.precision != "fp32":
            self._no_gradients = "the bundle has no fp32 program to take gradients of"
            return
        try:
            bundle.verify(first.files)
            module = load_module(bundle, first, self._device)
            self._program = OpenProgram(module, self._image.crop, self._image.channels, self._evidence)
        except (BundleError, ValueError):
            logger.exception("the fp32 program cannot be opened; explanations use occlusion")
            self._no_gradients = "the fp32 program cannot be opened"


def _load_methods() -> ModuleType:
    """Captum is imported when first needed; see :func:`check_captum`."""
    return importlib.import_module(".methods", __package__)


def check_captum() -> None:
    """Whether explanations can be made here, without importing anything.

    Raises:
        InputError: ``not_supported``, naming what to install.
    """
    if importlib.util.find_spec("captum") is None:
        raise InputError(
            "not_supported", "explanations need Captum, which this server lacks: pip install captum (the extra explain)"
        )
