"""Parts of a form that have the same name. Runs in TorchServe's worker only.

The worker gets all of them from the front end, and keeps the last in a mapping by name: the others would be lost
without a word.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .payload import Repeated


def keep_repeated_parts() -> None:
    """Makes the worker put :class:`~.payload.Repeated` in the place of such parts; a second call changes nothing."""
    from ts.service import Service  # handlers are imported without TorchServe, too

    original = Service.retrieve_data_for_inference
    if getattr(original, "keeps_repeated_parts", False):
        return

    def retrieve(batch: Sequence[dict[str, Any]]) -> tuple[list[Any], list[dict[str, Any]], dict[int, str]]:
        headers, requests, ids = original(batch)
        for message, fields in zip(batch, requests, strict=True):
            parts = message["parameters"]
            if len(fields) < len(parts):
                counts = Counter(part["name"] for part in parts)
                fields.update({name: Repeated(count) for name, count in counts.items() if count > 1})
        return headers, requests, ids

    retrieve.keeps_repeated_parts = True  # type: ignore[attr-defined]
    Service.retrieve_data_for_inference = staticmethod(retrieve)
