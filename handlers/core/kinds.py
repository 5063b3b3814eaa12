"""Finds the class of a kind of input or output by its name, and imports nothing else of the others."""

import importlib
from types import ModuleType
from typing import Any


def of_kind(room: ModuleType, kind: str, attribute: str = "SPEC") -> Any:
    """What the module of one kind calls ``attribute``.

    Args:
        room: a package with ``KINDS``, which names the module of each kind.
        kind: as in ``spec.json``.
        attribute: ``SPEC``, the dataclass; or another that the room's modules have.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in room.KINDS:
        raise ValueError(f"kind: expected one of {', '.join(map(repr, room.KINDS))}, got {kind!r}")
    module = importlib.import_module(room.KINDS[kind], room.__name__)
    if not hasattr(module, attribute):
        raise ValueError(f"kind: {kind!r} has no {attribute.lower()}")
    return getattr(module, attribute)
