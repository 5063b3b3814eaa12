"""Finds the items that belong together, and shares whole groups of them out among the parts of a data set."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence


def sets_of(keys: Iterable[Iterable[Hashable]]) -> list[list[int]]:
    """Sets of items that share a key, directly or through others.

    Args:
        keys: of each item, such as its group and its content; an item without any is on its own.

    Returns:
        The indices of the items of each set, ascending; the sets are in the order of their first items.
    """
    parent: list[int] = []
    first: dict[Hashable, int] = {}

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for number, of_item in enumerate(keys):
        parent.append(number)
        for key in of_item:
            one, other = sorted((root(number), root(first.setdefault(key, number))))
            parent[other] = one
    sets: dict[int, list[int]] = defaultdict(list)
    for number in range(len(parent)):
        sets[root(number)].append(number)
    return list(sets.values())


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
