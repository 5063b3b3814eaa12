"""KServe's Python server. It has no batching (KServe's is a container beside it), so each image is a call of its own.

A thread pool with a model for each core, each on one thread, answers as many images at once as there are cores. The
image is base64 in ``{"instances": [{"b64": ...}]}``, or the body itself: a body of the v1 route whose type is not JSON
reaches the model as it is. The binary tensors of v2 are no way for JPEG files: it decodes their bytes as UTF-8.
"""

import asyncio
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import kserve
import torch
from kserve import model_server
from kserve.protocol.rest.server import RESTServer

from benchmarks.serving.peers.place import Model, load_model, read_place
from marquee.handlers.core.host import usable_cores

NAME = "resnet18"


class Classifier(kserve.Model):  # type: ignore[misc]
    """The model."""

    def load(self) -> bool:
        """Loads it, once for each core."""
        place, cores = read_place(), usable_cores()
        torch.set_num_threads(1)
        self._models: SimpleQueue[Model] = SimpleQueue()
        for _ in range(cores):
            self._models.put(load_model(place.variant, place.material))
        self._threads = ThreadPoolExecutor(cores)
        self.ready = True
        return True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> dict[str, Any]:
        """Answers one request."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, payload)

    def _answer(self, payload: Any) -> dict[str, Any]:
        images = [payload] if isinstance(payload, bytes) else [b64decode(one["b64"]) for one in payload["instances"]]
        model = self._models.get()
        try:
            return {"predictions": model.answer(images)}
        finally:
            self._models.put(model)


class OnLoopback(RESTServer):  # type: ignore[misc]
    """KServe's server listens on every address; this one does not."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.config.host = "127.0.0.1"


if __name__ == "__main__":
    model_server.RESTServer = OnLoopback
    classifier = Classifier(NAME)
    classifier.load()
    server = model_server.ModelServer(http_port=read_place().port, enable_grpc=False, enable_latency_logging=False)
    server.start([classifier])
