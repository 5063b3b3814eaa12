"""How fast an epoch went, and how much of it the step waited for the loader."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class Pace:
    """Counts one epoch; the clock runs from the first call of :meth:`batches` to its end, as in training.loop."""

    images: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Passes on the loader's batches (pixels, labels)."""
        started = waiting = time.monotonic()
        for batch in loader:
            self.data_seconds += time.monotonic() - waiting
            yield batch
            self.images += len(batch[1])
            waiting = time.monotonic()
        self.data_seconds += time.monotonic() - waiting
        self.seconds += time.monotonic() - started


def warm_values(epochs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The values of a result from the epochs after the first, which warms up.

    Args:
        epochs: ``images_per_second``, ``seconds`` and, where it was measured, ``data_seconds`` of each epoch.

    Returns:
        ``images_per_second`` and, where it was measured, ``data_share``: the part of the time that the step waited.
    """
    warm = epochs[1:]
    seconds = sum(epoch["seconds"] for epoch in warm)
    images = sum(epoch["images_per_second"] * epoch["seconds"] for epoch in warm)
    values = {"images_per_second": images / seconds}
    if all("data_seconds" in epoch for epoch in warm):
        values["data_share"] = sum(epoch["data_seconds"] for epoch in warm) / seconds
    return values


def as_epoch(pace: Pace) -> dict[str, float]:
    """An epoch as ``metrics.jsonl`` spells it."""
    return {
        "images_per_second": pace.images / pace.seconds,
        "seconds": pace.seconds,
        "data_seconds": pace.data_seconds,
    }
