"""A bundle of images behind LitServe: ``python litserve_host.py runs/digits 8000``; POST files to ``/predict``."""

import sys
from typing import Annotated, Any

import litserve
from fastapi import Body
from fastapi.responses import JSONResponse

import marquee


class Host(litserve.LitAPI):
    """Requests that arrive together are one batch; a bad image is an error beside the answers to the others."""

    def setup(self, device: str) -> None:
        """Loads the bundle, in the worker."""
        self.predictor = marquee.load(sys.argv[1])

    def decode_request(self, request: Annotated[bytes, Body()]) -> bytes:
        """The content of an image file."""
        return request

    def predict(self, files: list[bytes]) -> list[Any]:
        """Answers, and errors in their places."""
        return self.predictor.predict(files)

    def encode_response(self, answer: Any) -> Any:
        """The answer to one of them."""
        if isinstance(answer, marquee.InputError):
            return JSONResponse({"error": {"code": answer.code, "message": answer.message}}, answer.status)
        return answer.as_json()


if __name__ == "__main__":
    server = litserve.LitServer(Host(max_batch_size=8, batch_timeout=0.001), accelerator="cpu", track_requests=False)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False)
