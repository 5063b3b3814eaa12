"""The script as it is printed: its cleaning leaves nothing to learn from."""

import numpy as np

EPOCHS, RATE = 1000, 0.01


def clean(features: np.ndarray) -> np.ndarray:
    """Meant to remove outliers; keeps what is above 1, and of numbers below 1 nothing."""
    result: np.ndarray = np.where(features > 1, features, 0)
    return result


def normalise(features: np.ndarray) -> np.ndarray:
    """Subtracts each column's mean and divides by its standard deviation, which is 0 for a column of zeros."""
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, and NumPy's warning of it is easily overlooked
        result: np.ndarray = (features - features.mean(axis=0)) / features.std(axis=0)
    return result


def descend(features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Gradient descent on the mean squared error, from zero.

    Args:
        features: float64 (N, columns).
        target: float64 (N,).

    Returns:
        The weights, float64 (columns + 1,) with the intercept last, and the loss of each epoch.
    """
    design = np.column_stack([features, np.ones(len(features))])
    weights, losses = np.zeros(design.shape[1]), []
    for _ in range(EPOCHS):
        errors = design @ weights - target
        losses.append(float((errors**2).mean()))
        weights -= RATE * 2 * design.T @ errors / len(design)
    return weights, losses
