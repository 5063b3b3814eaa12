"""What turns a trained network's logits into answers that can be trusted: temperature and thresholds.

All of it is fitted on validation images and travels in the bundle's spec.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from marquee.handlers.predictor import Outputs, sigmoid, softmax
from marquee.handlers.spec import OutputSpec
from marquee.training.config import ExportConfig
from marquee.training.metrics import confidence_metrics
from marquee.training.multi_label import multi_label_confidence_metrics

logger = logging.getLogger(__name__)

TEMPERATURES = (0.05, 20.0)
"""Where the temperature is looked for."""


@dataclass(frozen=True)
class Calibration:
    """The output part of the spec, and how it came about."""

    output: OutputSpec
    facts: dict[str, Any]
    """Of validation: ``temperature``, ``images``, ``nll_before``, ``nll_after``, ``ece_before``, ``ece_after``."""


def calibrate(outputs: Outputs, targets: np.ndarray, config: ExportConfig) -> Calibration:
    """Fits temperature, abstain threshold and distance threshold.

    Args:
        outputs: of the validation images.
        targets: their true indices, int (N,), or zeros and ones (N, classes) where an image may have several.
        config: what is wanted.
    """
    logits = outputs.logits
    temperature = fit_temperature(logits, targets) if config.calibrate else 1.0
    multi_label = targets.ndim == 2
    activation = sigmoid if multi_label else softmax
    measure = multi_label_confidence_metrics if multi_label else confidence_metrics
    before, after = (measure(activation(logits / t), targets) for t in (1.0, temperature))
    min_probability = 0.0
    if config.max_error and not multi_label:
        probabilities = softmax(logits / temperature)
        right = probabilities.argmax(1) == targets
        min_probability = abstain_threshold(probabilities.max(1), right, config.max_error)
    output = OutputSpec(
        top_k=config.top_k,
        temperature=temperature,
        min_probability=min_probability,
        max_distance=None if outputs.distances is None else distance_threshold(outputs.distances, config.unfamiliar),
    )
    facts = {
        "temperature": temperature,
        "images": len(targets),
        "nll_before": before["nll"],
        "nll_after": after["nll"],
        "ece_before": before["ece"],
        "ece_after": after["ece"],
    }
    return Calibration(output, facts)


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature with the least negative log-likelihood (Guo et al., 2017, section 4.2).

    The true answer counts as right with (N + 1) / (N + 2), as in Platt (1999, section 2.2): that N images were answered
    rightly does not make the next answer certain, and without this the temperature of a faultless network would be 0.

    Args:
        logits: float64 (N, classes).
        targets: int (N,), or zeros and ones (N, classes).
    """
    from scipy.optimize import minimize_scalar  # takes a second to import
    from scipy.special import log_expit, log_softmax

    rows = np.arange(len(targets))
    doubt = 1 / (len(targets) + 2)
    # For several labels: the likelihood of z for a label that is there, of -z for one that is not.
    signs = 2 * targets - 1

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if targets.ndim == 2:
            return float(-((1 - doubt) * log_expit(signs * scaled) + doubt * log_expit(-signs * scaled)).mean())
        logs = log_softmax(scaled, axis=1)
        true = logs[rows, targets]
        others = (logs.sum(axis=1) - true) / (logits.shape[1] - 1)
        return float(-((1 - doubt) * true + doubt * others).mean())

    # In the logarithm, half and double are equally far from 1.
    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))


def abstain_threshold(confidence: np.ndarray, right: np.ndarray, max_error: float) -> float:
    """The lowest probability above which at most ``max_error`` of the answers are wrong.

    It is read off the risk-coverage curve (Geifman and El-Yaniv, 2017) of the validation images.

    Args:
        confidence: float (N,), probability of the likeliest label.
        right: bool (N,).
        max_error: wanted share of wrong answers among those that are given.

    Returns:
        0 when no answer has to be held back; above every confidence seen, at most 1, when even the surest are wrong
        too often.
    """
    order = np.argsort(-confidence, kind="stable")
    sure, wrong = confidence[order], np.cumsum(~right[order])
    error = wrong / np.arange(1, len(order) + 1)
    # Equal confidences are accepted or refused together: only the last of them is a place to cut.
    cut = np.append(sure[1:] < sure[:-1], True)
    good = np.flatnonzero((error <= max_error) & cut)
    if len(good) == 0:
        return float(min(1.0, np.nextafter(sure[0], 2.0)))
    if good[-1] == len(order) - 1:
        return 0.0
    # Between the last that is accepted and the first that is not: an answer that differs by rounding stays on its side.
    return float((sure[good[-1]] + sure[good[-1] + 1]) / 2)


def distance_threshold(distances: np.ndarray, share: float) -> float:
    """The distance that ``share`` of further images like these will exceed, on average.

    For that the sample's k-th smallest of N counts as the quantile k / (N + 1) (Weibull, 1939; Hyndman and Fan, 1996,
    definition 6): interpolated between 0 and 1, the quantile of few images would let through a multiple of ``share``.
    Below 1 / (N + 1) it is the largest of them, and a warning is logged.

    Args:
        distances: float (N,), of validation images.
        share: between 0 and 1.
    """
    images = len(distances)
    if 0 < share < 1 / (images + 1):
        logger.warning(
            f"{images} validation images are too few to let only {share:.2%} of images like them count as unfamiliar: "
            f"expect {1 / (images + 1):.1%}"
        )
    return float(np.quantile(distances, 1 - share, method="weibull"))
