"""Names of classes: when two are the same, when they only look so, and how they are written."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

SHOWN = 5
"""Names that a message lists."""
_COLUMNS = ("path", "label", "predicted")


def canonical(name: str) -> str:
    """The name as classes are compared: in Unicode's composed form (NFC), without blanks around it.

    macOS and Linux store an accented letter of a file name in different forms, which look alike.
    """
    return unicodedata.normalize("NFC", name).strip()


def twins(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that differ only in capitals, accents, width or blanks, such as ``Cat`` and ``cat ``."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_outline(name)].append(name)
    return [tuple(members) for members in alike.values() if len(members) > 1]


def _outline(name: str) -> str:
    # Decomposed, so that accents are characters of their own, which are then left out. Those of other scripts than
    # Latin, Greek and Cyrillic tell letters apart.
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    plain = "".join(letter for letter in letters if not "\u0300" <= letter <= "\u036f")
    return "".join(" " if letter in "_-" or letter.isspace() else letter for letter in plain).strip() or name


def listed(names: Sequence[str], shown: int = SHOWN) -> str:
    """Quoted names for a message: the first ones, and how many there are besides."""
    text = ", ".join(map(repr, names[:shown]))
    return text if len(names) <= shown else f"{text} and {len(names) - shown:,} more"


def prediction_columns(labels: Sequence[str]) -> tuple[str, ...]:
    """The header of ``predictions.csv``: path, truth, answer, and a column for the probability of each class.

    The column has the name of the class; of a class that is called as one of the first three, ``p(NAME)``.
    """
    taken = {*_COLUMNS, *labels}
    columns = []
    for label in labels:
        name = label
        while name in _COLUMNS or (name != label and name in taken):
            name = f"p({name})"
        columns.append(name)
    return (*_COLUMNS, *columns)
