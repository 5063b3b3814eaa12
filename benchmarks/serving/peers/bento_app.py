"""BentoML with adaptive batching: each request sends a list of one file, as its batchable methods want."""

from pathlib import Path
from typing import Any

import bentoml

from benchmarks.serving.peers.place import MAX_BATCH, load_model, read_place


@bentoml.service(workers=1, traffic={"timeout": 120, "concurrency": 100})
class Classifier:
    """The service."""

    def __init__(self) -> None:
        place = read_place()
        self._model = load_model(place.variant, place.material)

    # Its dispatcher refuses requests that it expects to wait longer than this; its default, a minute, refuses none.
    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=60_000)
    def predict(self, images: list[Path]) -> list[dict[str, Any]]:
        """Files -> answers."""
        return self._model.answer([image.read_bytes() for image in images])
