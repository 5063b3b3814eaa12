"""A bundle behind KServe: ``python kserve_host.py runs/digits 8000``, then POST to ``/v1/models/digits:predict``."""

import sys
from typing import Any

import kserve

import marquee


class Host(kserve.Model):
    """Takes the bodies that TorchServe takes, images in base64 or rows of a table, and gives its answers."""

    def load(self) -> bool:
        """Loads the bundle; the model is not ready before."""
        self.predictor = marquee.load(sys.argv[1])
        self.ready = True
        return True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> dict[str, Any]:
        """``{"instances": [...]}`` -> an answer, or an error, for each."""
        return {"predictions": [self.encode(answer) for answer in self.predictor.answer(payload)]}

    def encode(self, answer: Any) -> dict[str, Any]:
        """The answer to one of them."""
        if isinstance(answer, marquee.InputError):
            return {"error": {"code": answer.code, "message": answer.message}}
        return answer.as_json()


if __name__ == "__main__":
    host = Host("digits")
    host.load()
    kserve.ModelServer(http_port=int(sys.argv[2]), enable_grpc=False).start([host])
