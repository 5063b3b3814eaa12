"""Features that give the target away: what is known only when the answer is, such as the price in another currency."""

import numpy as np

from marquee.training.tasks.tabular.schema.kinds import ColumnValues

CORRELATION = 0.9999
"""Correlation with the target above which a number is taken for the target itself."""
FEWEST_ROWS = 20
"""Rows below which nothing is suspected."""
_ROWS_A_VALUE = 10
"""Rows that a value has on average, at least, where it is suspicious that it determines the label."""


def why_leakage(values: ColumnValues, target: ColumnValues, rows: np.ndarray) -> str | None:
    """How a feature gives the target away; None where it does not.

    Of a regression: it is a copy of the target; it is in the same order as the target, value for value, as the target's
    logarithm is; its correlation with the target is above :data:`CORRELATION`; or each of its values belongs to one
    value of the target, and the other way round. Of a classification: each of its values belongs to one label, and its
    values are so few that this is no coincidence; or it has a value for exactly one of two labels.

    This is a reason to warn, and none to leave a column out: the law that a model is to find may be as simple as that.

    Args:
        values: of the feature.
        target: its values: numbers (regression) or a category (classification).
        rows: bool (N,), the rows that have a target.
    """
    if target.kind == "category" and (why := _shows_label_by_absence(values, target, rows)):
        return why
    both = values.present & target.present & rows
    if both.sum() < FEWEST_ROWS:
        return None
    of_feature, of_target = values.values[both], target.values[both]
    if target.kind == "category":
        return _determines_label(of_feature, of_target)
    with np.errstate(all="ignore"):  # differences and products of numbers that are near the largest
        why = _follows(of_feature, of_target) if values.kind != "category" else None
    return why or _one_to_one(of_feature, of_target)


def _follows(of_feature: np.ndarray, of_target: np.ndarray) -> str | None:
    if np.array_equal(of_feature, of_target):
        return "is a copy of the target"
    correlation = _correlation(of_feature, of_target)
    if abs(correlation) > CORRELATION:
        return f"has a correlation of {correlation:.6f} with the target"
    order = np.argsort(of_feature, kind="stable")
    steps, answers = np.diff(of_feature[order]) != 0, np.diff(of_target[order])
    same_steps = np.array_equal(steps, answers != 0)
    if same_steps and steps.sum() >= FEWEST_ROWS and ((answers >= 0).all() or (answers <= 0).all()):
        return "puts the rows into the same order as the target does"
    return None


def _correlation(of_feature: np.ndarray, of_target: np.ndarray) -> float:
    """Pearson's; 0 where one of them is constant or too large to be squared."""
    a, b = of_feature - of_feature.mean(), of_target - of_target.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    found = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    return found if np.isfinite(found) else 0.0


def _one_to_one(of_feature: np.ndarray, of_target: np.ndarray) -> str | None:
    pairs, features, answers = _distinct(of_feature, of_target)
    # Where almost every value is there once, any two columns are one to one.
    if pairs == features == answers and 1 < pairs <= len(of_target) / 2:
        return f"gives the target away: each of its {features:,} values belongs to one value of the target"
    return None


def _determines_label(of_feature: np.ndarray, of_target: np.ndarray) -> str | None:
    pairs, features, answers = _distinct(of_feature, of_target)
    if pairs == features and answers > 1 and features * _ROWS_A_VALUE <= len(of_target):
        return f"gives the label away: each of its {features:,} values belongs to one label"
    return None


def _shows_label_by_absence(values: ColumnValues, target: ColumnValues, rows: np.ndarray) -> str | None:
    """Such as a date of cancellation, which only those customers have who are gone."""
    known = target.present & rows
    with_value, without = (np.unique(target.values[known & where]) for where in (~values.missing, values.missing))
    fewest = min((known & values.missing).sum(), (known & ~values.missing).sum())
    if len(with_value) == len(without) == 1 and with_value[0] != without[0] and fewest >= FEWEST_ROWS:
        return "gives the label away: it has values for one of the two labels only"
    return None


def _distinct(of_feature: np.ndarray, of_target: np.ndarray) -> tuple[int, int, int]:
    """How many different pairs there are, how many values of the feature, and how many of the target."""
    features, feature = np.unique(of_feature, return_inverse=True)
    answers, answer = np.unique(of_target, return_inverse=True)
    pairs = np.unique(feature.astype(np.int64) * len(answers) + answer)
    return len(pairs), len(features), len(answers)
