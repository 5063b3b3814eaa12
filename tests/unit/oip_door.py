"""A model's handler, asked as TorchServe's worker asks it; and requests of the Open Inference Protocol."""

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ts.context import Context, RequestProcessor

from marquee.handlers.core.handler import Handler
from marquee.handlers.core.oip.datatypes import unpack
from marquee.handlers.core.oip.wire import HEADER_LENGTH, RawTensor, decode_answer, encode_request, join

REST = {"Host": "localhost", "explain": "False"}
"""Headers by which TorchServe tells REST."""
OF_THE_CLIENT = "Inference-Header-Content-Length"
"""As Triton's client writes it."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The JSON; of a body with raw tensors the part before them."""
        length = self.headers.get(HEADER_LENGTH)
        return json.loads(self.body if length is None else self.body[: int(length)])

    @property
    def error(self) -> str:
        """The text of a request that failed."""
        document = self.document
        assert document.keys() == {"error"}
        assert isinstance(document["error"], str)
        assert 400 <= self.status < 600
        return document["error"]

    def outputs(self) -> dict[str, np.ndarray]:
        """The tensors, in their shapes; None in JSON is NaN."""
        assert self.status == 200, self.body
        _, tensors = decode_answer(self.body, self.headers.get(HEADER_LENGTH))
        return {t.name: unpack(t.raw, t.datatype, math.prod(t.shape)).reshape(t.shape) for t in tensors}


class Door:
    """One archive's handler.

    Args:
        archive: the ``.mar``.
        folder: where it is unpacked.
    """

    def __init__(self, archive: Path, folder: Path) -> None:
        with zipfile.ZipFile(archive) as source:
            source.extractall(folder)
        manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
        self.handler = Handler()
        with pytest.MonkeyPatch.context() as patch:  # the code of this project, not the archive's
            patch.setattr("marquee.handlers.core.handler._refuse_foreign_code", lambda folder: None)
            self.handler.initialize(Context("digits", str(folder), manifest, 8, None, "0", model_yaml_config={}))

    def ask(self, body: Any, headers: Mapping[str, str] = REST) -> Answer:
        """The answer to one request; the body as TorchServe hands it over: bytes, or JSON that is parsed."""
        return self.batch([{"body": body}], [headers])[0]

    def batch(self, requests: list[dict[str, Any]], headers: list[Mapping[str, str]]) -> list[Answer]:
        """The answers to several requests in one batch."""
        context = Context("digits", "", {}, len(requests), None, "0")
        context.request_processor = [RequestProcessor(dict(names)) for names in headers]
        bodies = self.handler.handle(requests, context)
        assert len(bodies) == len(requests)
        return [
            Answer(context.get_response_status(i)[0], context.get_response_headers(i), bytes(body))
            for i, body in enumerate(bodies)
        ]

    def infer(self, *tensors: dict[str, Any], **members: Any) -> Answer:
        """As JSON."""
        return self.ask({"inputs": list(tensors), **members})

    def infer_raw(self, *tensors: RawTensor, **options: Any) -> Answer:
        """With the tensors as binary data, there and back."""
        body, length = encode_request(tensors, **options)
        return self.ask(body, {**REST, OF_THE_CLIENT: str(length)})


def tensor(name: str, datatype: str, shape: list[int], data: Any, **parameters: Any) -> dict[str, Any]:
    """A tensor as JSON."""
    head = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    return {**head, "parameters": parameters} if parameters else head


def with_header(document: Any, rest: bytes = b"") -> tuple[bytes, dict[str, str]]:
    """A body with bytes behind its document, and the headers that go with it."""
    body, length = join(document, [rest])
    return body, {**REST, OF_THE_CLIENT: str(length)}
