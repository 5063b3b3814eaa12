"""A running contender, and how it is asked: over REST, by the load of ``marquee tune``."""

import io
import json
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import psutil
import requests
from PIL import Image
from torchvision.transforms.functional import center_crop, resize

from benchmarks.serving.processes import ContenderError
from marquee.serving.errors import OperationError
from marquee.serving.tuning.load import Endpoint, closed_loop

_FIRST_ANSWER_SECONDS = 60
_BOUNDARY = "photograph-boundary"
CONTENT_TYPES = {
    "file": "image/jpeg",
    "octets": "application/octet-stream",
    "form": f"multipart/form-data; boundary={_BOUNDARY}",
    "pixels": "application/json",
    "v1": "application/json",
    "v2": "application/json",
    "v2-binary": "application/octet-stream",
}
"""Form of a body -> its Content-Type."""
_HEAD_BYTES = 192
"""Of the JSON before a binary tensor, filled up with spaces, so that one header suits all bodies."""
_MORE_HEADERS: dict[str, dict[str, str]] = {"v2-binary": {"Inference-Header-Content-Length": str(_HEAD_BYTES)}}
"""Form of a body -> what else the protocol wants in front of it."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What came of clients that send the next request when the last one is answered."""

    seconds: float
    """From the first request to the last answer."""
    latencies: np.ndarray
    """Seconds of each good call, float64 (N,)."""
    errors: int = 0
    """Requests that were not answered as they should be."""
    images: int = 1
    """Of a call."""


class Server(Protocol):
    """A running contender."""

    @property
    def process(self) -> psutil.Process:
        """The root of its processes."""

    def ask(self, photograph: Path) -> str:
        """The likeliest label, in one request; a ContenderError where there is none."""

    def load(self, photographs: Sequence[Path], clients: int, seconds: float) -> Load:
        """Answers ``clients`` that ask at once, new requests for so many seconds."""


@dataclass(frozen=True, kw_only=True)
class Post(Endpoint):
    """An endpoint whose bodies have a type."""

    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Further ones."""

    def request(self, body: bytes) -> bytes:
        """See :class:`marquee.serving.tuning.load.Endpoint`."""
        lines = [self.content_type, *(f"{name}: {value}" for name, value in self.headers.items())]
        return super().request(body).replace(b"application/octet-stream", "\r\n".join(lines).encode(), 1)


@dataclass(frozen=True, kw_only=True)
class RestServer:
    """Takes one photograph a POST."""

    process: psutil.Process
    url: str
    form: str = "file"
    """Of the bodies; one of :data:`CONTENT_TYPES`."""
    token: Callable[[], str | None] = lambda: None
    """Asked for at each use: a server writes its tokens while it starts."""

    def ask(self, photograph: Path) -> str:
        """See :class:`Server`."""
        session = requests.Session()
        headers = {"Content-Type": CONTENT_TYPES[self.form], **_MORE_HEADERS.get(self.form, {})}
        session.trust_env = False  # a proxy cannot reach this machine's loopback
        body = encode(photograph.read_bytes(), self.form)
        try:
            if token := self.token():
                headers["Authorization"] = f"Bearer {token}"
            response = session.post(self.url, data=body, headers=headers, timeout=_FIRST_ANSWER_SECONDS)
        except (requests.RequestException, OperationError) as error:
            raise ContenderError(f"no answer from {self.url}: {error}") from error
        if response.status_code != 200:
            raise ContenderError(f"{self.url}: status {response.status_code}: {response.text[:200]}")
        return likeliest(response.json())

    def load(self, photographs: Sequence[Path], clients: int, seconds: float) -> Load:
        """See :class:`Server`."""
        parts = urlsplit(self.url)
        endpoint = Post(
            host=parts.hostname or "",
            port=parts.port or 80,
            path=parts.path,
            token=self.token(),
            content_type=CONTENT_TYPES[self.form],
            headers=_MORE_HEADERS.get(self.form, {}),
        )
        bodies = [encode(path.read_bytes(), self.form) for path in photographs]
        began = time.perf_counter()
        try:
            load = closed_loop(endpoint, bodies, clients, seconds)
        except OperationError as error:
            raise ContenderError(str(error)) from error
        # Until the last answer: of a slow server's batches, one more or less would count if it ended before.
        took = time.perf_counter() - began
        return Load(seconds=took, latencies=load.latencies.get(200, np.zeros(0)), errors=load.errors + load.rejected)


def encode(photograph: bytes, form: str) -> bytes:
    """The body that a contender wants of a JPEG file."""
    if form == "form":
        head = (
            f"--{_BOUNDARY}\r\n"
            'Content-Disposition: form-data; name="images"; filename="photograph.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        return head.encode() + photograph + f"\r\n--{_BOUNDARY}--\r\n".encode()
    if form in ("v1", "v2", "v2-binary"):
        return _inference_body(photograph, form)
    if form == "pixels":
        # 224 x 224 x 3 integers: decoded and resized by the client, at no cost to the server.
        image = center_crop(resize(Image.open(io.BytesIO(photograph)).convert("RGB"), [256]), [224])
        return json.dumps({"image_data": np.asarray(image).tolist()}, separators=(",", ":")).encode()
    return photograph


def _inference_body(photograph: bytes, form: str) -> bytes:
    """``v1``: KServe's; ``v2``: the Open Inference Protocol's, in base64 or with the file behind the JSON."""
    if form == "v1":
        return json.dumps({"instances": [{"b64": b64encode(photograph).decode()}]}).encode()
    tensor: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [1]}
    if form == "v2":
        # Batches of MLServer want a second dimension.
        parameters, data = {"content_type": "base64"}, [b64encode(photograph).decode()]
        return json.dumps({"inputs": [{**tensor, "shape": [1, 1], "parameters": parameters, "data": data}]}).encode()
    element = len(photograph).to_bytes(4, "little") + photograph
    inputs = [{**tensor, "parameters": {"binary_data_size": len(element)}}]
    # One output: the answer as TorchServe gives it.
    head = json.dumps({"inputs": inputs, "outputs": [{"name": "answer"}]}).encode()
    return head.ljust(_HEAD_BYTES) + element


def likeliest(answer: Any) -> str:
    """The likeliest label of an answer.

    Args:
        answer: ours, a mapping from labels to probabilities, or a list of one of these; KServe's
            ``{"predictions": [...]}`` of one of these; or a tensor ``answer`` with one of these as JSON.

    Raises:
        ContenderError: it is something else.
    """
    if isinstance(answer, dict) and "predictions" in answer:
        return likeliest(answer["predictions"])
    if isinstance(answer, dict) and "outputs" in answer:
        texts = [text for output in answer["outputs"] if output["name"] == "answer" for text in output["data"]]
        return likeliest([json.loads(text) for text in texts])
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, dict) and "label" in answer:
        return str(answer["label"])
    if isinstance(answer, dict) and answer and all(isinstance(value, float) for value in answer.values()):
        return str(max(answer, key=answer.__getitem__))
    raise ContenderError(f"not an answer: {str(answer)[:200]}")
