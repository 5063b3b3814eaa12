"""MLServer with a runtime of one's own and adaptive batching; the image is a string in base64, as it has no other form.

Its pool of processes (``parallel_workers``) is off: each image would be pickled once more on its way into the pool.
"""

import asyncio
import json
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor

from mlserver import MLModel, MLServer, ModelSettings, Settings  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput  # type: ignore[import-not-found]
from mlserver.utils import install_uvloop_event_loop  # type: ignore[import-not-found]

from benchmarks.serving.peers.place import MAX_BATCH, WAIT_SECONDS, load_model, read_place

NAME = "resnet18"


class Classifier(MLModel):  # type: ignore[misc]
    """The runtime."""

    async def load(self) -> bool:
        """Loads the model."""
        place = read_place()
        self._model = load_model(place.variant, place.material)
        # Batches one after the other, while the event loop reads further requests.
        self._thread = ThreadPoolExecutor(1)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answers a batch, each image with one string of JSON."""
        texts = list(payload.inputs[0].data)
        answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, texts)
        output = ResponseOutput(name="answer", datatype="BYTES", shape=[len(answers), 1], data=answers)
        return InferenceResponse(model_name=self.name, outputs=[output])

    def _answer(self, texts: list[str]) -> list[str]:
        return [json.dumps(answer) for answer in self._model.answer([b64decode(text) for text in texts])]


async def main() -> None:
    """Serves until SIGTERM."""
    settings = Settings(
        debug=False,  # which would log each request
        host="127.0.0.1",
        http_port=read_place().port,
        grpc_port=0,  # any; there is no switch
        parallel_workers=0,
        metrics_endpoint=None,
        gzip_enabled=False,
    )
    model = ModelSettings(
        name=NAME,
        implementation="benchmarks.serving.peers.mlserver_app.Classifier",
        max_batch_size=MAX_BATCH,
        max_batch_time=WAIT_SECONDS,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    install_uvloop_event_loop()
    asyncio.run(main())
