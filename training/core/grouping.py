"""Shares whole groups of items out among the parts of a data set."""

from collections import Counter
from collections.abc import Mapping, Sequence


def place_groups(groups: Sequence[Sequence[str]], fractions: Mapping[str, float]) -> list[str]:
    """Greedy: each group goes to the part that lacks most of the group's strata.

    For a group with ``c`` items of a stratum of ``n``, that choice lowers the sum over parts and strata of
    ``((have - target) / n)^2`` the most.

    Args:
        groups: the strata of each group's items; the large ones should come first.
        fractions: part -> its share of the items of each stratum.

    Returns:
        The part of each group.
    """
    sizes = Counter(stratum for group in groups for stratum in group)
    lacking = {part: {stratum: share * n for stratum, n in sizes.items()} for part, share in fractions.items()}
    places = []
    for group in groups:
        counts = Counter(group)
        needs = {
            part: sum(c * lacking[part][stratum] / sizes[stratum] ** 2 for stratum, c in counts.items())
            for part in fractions
        }
        place = max(needs, key=lambda part: needs[part])
        for stratum, count in counts.items():
            lacking[place][stratum] -= count
        places.append(place)
    return places
