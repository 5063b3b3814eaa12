"""Ray Serve with its batching: one replica that may use all cores, a local Ray of its own."""

import os
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.serving.peers.place import MAX_BATCH, WAIT_SECONDS, Place, load_model, read_place


# By default Ray gives a replica one thread, and five requests at a time, which would never fill a batch.
@serve.deployment(ray_actor_options={"num_cpus": os.cpu_count()}, max_ongoing_requests=100)
class Classifier:
    """The deployment.

    Args:
        place: told here, for a replica's environment is Ray's.
    """

    def __init__(self, place: Place) -> None:
        self._model = load_model(place.variant, place.material)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_SECONDS)
    async def answer(self, images: list[bytes]) -> list[dict[str, Any]]:
        """Answers a batch."""
        return self._model.answer(images)

    async def __call__(self, request: Request) -> Any:
        """The content of an image file -> an answer."""
        return await self.answer(await request.body())


if __name__ == "__main__":
    place = read_place()
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": place.port})
    application = Classifier.bind(place)  # type: ignore[attr-defined]  # the decorator made a deployment of the class
    serve.run(application, route_prefix="/predict", blocking=True)
