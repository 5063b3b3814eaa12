"""A bundle of images behind Ray Serve: ``python ray_host.py runs/digits 8000``; POST files to ``/predict``."""

import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

import marquee


@serve.deployment(max_ongoing_requests=64)
class Host:
    """Requests that arrive together are one batch; a bad image is an error beside the answers to the others."""

    def __init__(self, source: str) -> None:
        self.predictor = marquee.load(source)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.001)
    async def predict(self, files: list[bytes]) -> list[Any]:
        """Answers, and errors in their places."""
        return self.predictor.predict(files)

    async def __call__(self, request: Request) -> JSONResponse:
        """The content of an image file -> an answer."""
        answer = await self.predict(await request.body())
        if isinstance(answer, marquee.InputError):
            return JSONResponse({"error": {"code": answer.code, "message": answer.message}}, answer.status)
        return JSONResponse(answer.as_json())


if __name__ == "__main__":
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])})
    serve.run(Host.bind(sys.argv[1]), route_prefix="/predict", blocking=True)
