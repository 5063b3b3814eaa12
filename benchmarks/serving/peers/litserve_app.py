"""LitServe with its batching; the body is the file itself, by a type hint that it hands to FastAPI."""

from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.serving.peers.place import MAX_BATCH, WAIT_SECONDS, load_model, read_place

place = read_place()


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """The four steps of a LitServe API."""

    def setup(self, device: str) -> None:
        """Loads the model, in the worker."""
        self._model = load_model(place.variant, place.material)

    def decode_request(self, request: Annotated[bytes, Body()]) -> bytes:
        """The content of an image file."""
        return request

    def predict(self, images: list[bytes]) -> list[dict[str, Any]]:
        """Answers a batch."""
        return self._model.answer(images)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Is JSON already."""
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=MAX_BATCH, batch_timeout=WAIT_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=place.port, generate_client_file=False, log_level="warning")
