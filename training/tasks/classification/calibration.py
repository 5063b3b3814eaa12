"""Calibration of a trained network's answers: temperature and thresholds.

They are fitted on validation images and stored in the bundle's spec.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

Metrics = Mapping[str, float]
Likelihood = Callable[[np.ndarray, np.ndarray, float], float]

TEMPERATURES = (0.05, 20.0)
"""Bounds of the search for the temperature."""


def calibration_facts(temperature: float, images: int, before: Metrics, after: Metrics) -> dict[str, Any]:
    """Facts about a fitted temperature: ``nll`` and ``ece`` of the validation images at temperature 1, and with it."""
    return {
        "temperature": temperature,
        "images": images,
        "nll_before": before["nll"],
        "nll_after": after["nll"],
        "ece_before": before["ece"],
        "ece_after": after["ece"],
    }


def fit_temperature(logits: np.ndarray, targets: np.ndarray, likelihood: Likelihood) -> float:
    """The temperature with the least negative log-likelihood (Guo et al., 2017, section 4.2).

    The target probability of the true class is (N + 1) / (N + 2), as in Platt (1999, section 2.2): N right answers do
    not make the next one certain, and without this the temperature of a network without errors would be 0.

    Args:
        logits: float64 (N, classes).
        targets: their targets, in the form that ``likelihood`` takes.
        likelihood: the mean negative log-likelihood of logits, given targets and a small probability that a target is
            wrong.
    """
    from scipy.optimize import minimize_scalar  # takes a second to import

    doubt = 1 / (len(targets) + 2)

    def loss(log_temperature: float) -> float:
        return likelihood(logits / np.exp(log_temperature), targets, doubt)

    # In the logarithm, half and double are equally far from 1.
    result = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(result.x))


def single_label_likelihood(logits: np.ndarray, targets: np.ndarray, doubt: float) -> float:
    """The likelihood for :func:`fit_temperature` with one label per image.

    Args:
        logits: float64 (N, classes).
        targets: int (N,).
        doubt: target probability that the other classes share.
    """
    from scipy.special import log_softmax

    logs = log_softmax(logits, axis=1)
    true = logs[np.arange(len(targets)), targets]
    others = (logs.sum(axis=1) - true) / (logits.shape[1] - 1)
    return float(-((1 - doubt) * true + doubt * others).mean())


def multi_label_likelihood(logits: np.ndarray, targets: np.ndarray, doubt: float) -> float:
    """The likelihood for :func:`fit_temperature` with several labels per image.

    Args:
        logits: float64 (N, classes).
        targets: zeros and ones (N, classes).
        doubt: target probability of the opposite of each.
    """
    from scipy.special import log_expit

    # The likelihood is sigmoid(z) for a label that is present, sigmoid(-z) for one that is absent.
    signs = 2 * targets - 1
    return float(-((1 - doubt) * log_expit(signs * logits) + doubt * log_expit(-signs * logits)).mean())


def abstain_threshold(confidence: np.ndarray, right: np.ndarray, max_error: float) -> float:
    """The lowest probability above which at most ``max_error`` of the answers are wrong.

    It is read off the risk-coverage curve (Geifman and El-Yaniv, 2017) of the validation images.

    Args:
        confidence: float (N,), probability of the likeliest label.
        right: bool (N,).
        max_error: largest share of wrong answers among the accepted ones.

    Returns:
        0 when no answer has to be withheld; above every confidence in the sample, at most 1, when even the most
        confident answers are wrong too often.
    """
    order = np.argsort(-confidence, kind="stable")
    descending, wrong = confidence[order], np.cumsum(~right[order])
    error = wrong / np.arange(1, len(order) + 1)
    # Equal confidences are accepted or rejected together: a threshold can only follow the last of them.
    cut = np.append(descending[1:] < descending[:-1], True)
    good = np.flatnonzero((error <= max_error) & cut)
    if len(good) == 0:
        return float(min(1.0, np.nextafter(descending[0], 2.0)))
    if good[-1] == len(order) - 1:
        return 0.0
    # Midway between the last accepted and the first rejected confidence: rounding errors do not change a decision.
    return float((descending[good[-1]] + descending[good[-1] + 1]) / 2)


LEAST_DISTANCE = 1.0
"""Least threshold of the distance: that of an average training image, by the distance's unit."""


def distance_threshold(distances: np.ndarray, share: float) -> float:
    """The distance that ``share`` of further images like these will exceed, on average.

    To achieve this, the k-th smallest of N distances is the quantile k / (N + 1) (Weibull, 1939; Hyndman and Fan, 1996,
    definition 6): with few images, a quantile interpolated between 0 and 1 would be exceeded by a multiple of
    ``share``. If ``share`` is below 1 / (N + 1), the result is the largest distance, and a warning is logged.

    Args:
        distances: float (N,), the distances of validation images.
        share: between 0 and 1.

    Returns:
        The threshold; at least :data:`LEAST_DISTANCE`, also where all validation images are copies of training images.
    """
    images = len(distances)
    if 0 < share < 1 / (images + 1):
        logger.warning(
            f"{images} validation images are too few to let only {share:.2%} of images like them count as unfamiliar: "
            f"expect {1 / (images + 1):.1%}"
        )
    return max(float(np.quantile(distances, 1 - share, method="weibull")), LEAST_DISTANCE)
