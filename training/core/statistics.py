"""Confidence intervals for few items, and for items that form groups."""

from collections.abc import Sequence

import numpy as np


def effective_number(values: np.ndarray, groups: Sequence[str]) -> float:
    """The number of independent items with as much information about the mean of ``values`` (Korn and Graubard, 1998).

    It is the number of items divided by the design effect, the variance between groups over that of independent items,
    and corrected by Student's t for the number of groups.

    Args:
        values: (N,), one per item, such as whether its answer is right.
        groups: the group of each item.
    """
    from scipy.stats import t  # takes a second to import

    names, group = np.unique(np.asarray(groups), return_inverse=True)
    items, count = len(values), len(names)
    if count < 2:
        return 1.0
    sums = np.bincount(group, values - values.mean())
    independent, variance = float(values.var()), count / (count - 1) * float((sums**2).sum()) / items**2
    # Equal values do not show how similar the items of a group are: each group then counts as one item.
    effective = min(items, independent / variance) if independent > 0 and variance > 0 else count
    return float(max(1.0, effective * (t.ppf(0.975, items - 1) / t.ppf(0.975, count - 1)) ** 2))


def share_interval(right: np.ndarray, groups: Sequence[str] | None = None) -> list[float]:
    """Lower and upper end of the 95 % confidence interval of a share (Wilson, 1927).

    Items of one group, such as a patient's, are often all right or all wrong, and give less information than as many
    independent items. The interval is then computed for the effective number of items (:func:`effective_number`).

    Args:
        right: bool (N,), such as which answers are right.
        groups: the group of each item; None: all items are independent.
    """
    from scipy.stats import binomtest, norm  # takes a second to import

    items, hits = len(right), int(right.sum())
    if groups is None or len(set(groups)) == items:
        interval = binomtest(hits, items).proportion_ci(method="wilson")
        return [float(interval.low), float(interval.high)]
    share, effective, z = hits / items, effective_number(right, groups), float(norm.ppf(0.975))
    centre = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    spread = z / (1 + z**2 / effective) * np.sqrt(share * (1 - share) / effective + (z / (2 * effective)) ** 2)
    return [float(max(0.0, centre - spread)), float(min(1.0, centre + spread))]
