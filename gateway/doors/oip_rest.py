"""The Open Inference Protocol (KServe v2) over HTTP, as Triton's and KServe's clients speak it.

The handler reads and writes the protocol's bodies (:mod:`marquee.handlers.core.oip`), which are passed on unchanged.
"""

import json
from functools import partial
from typing import TYPE_CHECKING

from marquee.gateway.backend import Reply
from marquee.gateway.body import read_body
from marquee.gateway.doors.asking import ask
from marquee.gateway.doors.json_answer import JSON, answer, forward
from marquee.gateway.doors.oip_metadata import (
    is_model_ready,
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
)
from marquee.gateway.doors.operation import Operation, protocol_error
from marquee.gateway.doors.schemas import BINARY, OBJECT, OCTETS, STRING, TEXT_ERROR, a_list, an_object, replies
from marquee.gateway.doors.text_errors import text_error
from marquee.gateway.errors import BAD_REQUEST, GatewayError
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_TAG = "Open Inference Protocol"
_LENGTH = "inference-header-content-length"
_MARKS = (b'"outputs"', b'"model_name"')
"""Members that every answer of the protocol has."""
_NO_INFERENCE = (
    'the body is no inference request: expected {"inputs": [{"name", "shape", "datatype", "data"}, ...]}, '
    "and an archive that knows this protocol"
)

_TENSOR = an_object(
    "name", "datatype", "shape", name=STRING, datatype=STRING, shape=a_list({"type": "integer"}), data={}
)
_METADATA_TENSORS = a_list(an_object("name", "datatype", "shape", name=STRING, datatype=STRING))
_REQUEST = an_object("inputs", inputs=a_list(_TENSOR), outputs=a_list(OBJECT), id=STRING, parameters=OBJECT)
_ANSWER = an_object(
    "model_name", "outputs", model_name=STRING, model_version=STRING, id=STRING, outputs=a_list(_TENSOR)
)
_METADATA = an_object(
    "name",
    "versions",
    "inputs",
    "outputs",
    name=STRING,
    versions=a_list(STRING),
    platform=STRING,
    inputs=_METADATA_TENSORS,
    outputs=_METADATA_TENSORS,
)
_SERVER = an_object(name=STRING, version=STRING, extensions=a_list(STRING))
_CONFIG = an_object("name", "input", "output", name=STRING, input=a_list(OBJECT), output=a_list(OBJECT))
_INDEX = a_list(an_object(name=STRING, version=STRING, state=STRING, reason=STRING))
_LIVE, _READY = an_object(live={"type": "boolean"}), an_object("ready", ready={"type": "boolean"})
_LENGTH_PARAMETER = {
    "name": _LENGTH,
    "in": "header",
    "required": False,
    "description": "bytes of the JSON in front of binary tensors",
    "schema": {"type": "string", "pattern": "^[0-9]+$"},
}


def operations(gateway: Gateway) -> list[Operation]:
    """All routes."""
    door = _Door(gateway)
    shared = partial(Operation, refusal=protocol_error, tag=_TAG)
    probe = partial(shared, methods=("GET",), scope=None)
    reading = partial(shared, methods=("GET",), scope="predict")
    replied = replies(_ANSWER, TEXT_ERROR)
    replied[200] = {**replied[200], OCTETS: BINARY}
    found = [
        probe(path="/v2/health/live", endpoint=door.live, summary="Liveness", responses={200: {JSON: _LIVE}}),
        probe(
            path="/v2/health/ready",
            endpoint=door.ready,
            summary="Readiness: every default version was proven",
            responses={200: {JSON: _READY}, 503: {JSON: _READY}},
        ),
        reading(
            path="/v2",
            endpoint=door.server,
            summary="Name, version and extensions of the server",
            responses={200: {JSON: _SERVER}},
        ),
        shared(
            path="/v2/repository/index",
            methods=("POST",),
            scope="predict",
            endpoint=door.index,
            summary="Every version of every model",
            request={JSON: {"type": "object", "properties": {"ready": {"type": "boolean"}}}},
            is_body_required=False,
            responses={200: {JSON: _INDEX}},
        ),
    ]
    model, version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
    for path, where in ((model, "the default version"), (version, "one version")):
        found += [
            shared(
                path=f"{path}/infer",
                methods=("POST",),
                scope="predict",
                endpoint=door.infer,
                summary=f"Inference by {where}",
                request={JSON: _REQUEST, OCTETS: BINARY},
                responses=replied,
                parameters=(_LENGTH_PARAMETER,),
            ),
            probe(
                path=f"{path}/ready",
                endpoint=door.model_ready,
                summary=f"Whether {where} can answer",
                responses={200: {JSON: _READY}, 503: {JSON: _READY}},
            ),
            reading(
                path=f"{path}/config",
                endpoint=door.config,
                summary=f"Configuration of {where}, as Triton's clients read it",
                responses={200: {JSON: _CONFIG}},
            ),
            reading(
                path=path,
                endpoint=door.model,
                summary=f"Inputs and outputs of {where}",
                responses={200: {JSON: _METADATA}},
            ),
        ]
    return found


class _Door:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def live(self, request: "Request") -> "Response":
        return answer({"live": True})

    async def ready(self, request: "Request") -> "Response":
        return _readiness({}, self._gateway.readiness.is_ready)

    async def server(self, request: "Request") -> "Response":
        return answer(server_metadata())

    async def index(self, request: "Request") -> "Response":
        body = await read_body(request, self._gateway.config)
        try:
            document = json.loads(body) if body.strip() else {}
        except (ValueError, RecursionError) as error:
            raise GatewayError(BAD_REQUEST, "the body is not valid JSON") from error
        ready_only = document.get("ready", False) if isinstance(document, dict) else None
        if not isinstance(ready_only, bool):
            raise GatewayError(BAD_REQUEST, "ready: expected true or false")
        return answer(repository_index(self._gateway, ready_only))

    async def model_ready(self, request: "Request") -> "Response":
        name, version = _place(request)
        self._gateway.version(name, version)
        return _readiness({"name": name}, is_model_ready(self._gateway, name, version))

    async def model(self, request: "Request") -> "Response":
        return answer(await model_metadata(self._gateway, *_place(request)))

    async def config(self, request: "Request") -> "Response":
        return answer(await model_config(self._gateway, *_place(request)))

    async def infer(self, request: "Request") -> "Response":
        body = await read_body(request, self._gateway.config)
        headers = {} if _has_length(request, body) else {_LENGTH: str(len(body))}
        reply = await ask(self._gateway, request, *_place(request), body=body, headers=headers)
        if reply.status >= 400:
            return forward(text_error(reply))
        if not _is_inference(reply):
            # A client of the protocol would fail on it, without a word that says why.
            raise GatewayError(BAD_REQUEST, _NO_INFERENCE)
        return forward(reply)


def _place(request: "Request") -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def _has_length(request: "Request", body: bytes) -> bool:
    """Whether the handler knows, or must find out by itself, how much of a body is JSON.

    Where it is told, it reads a body as this protocol's and as nothing else. Of a packed one nobody knows it here.
    """
    return _LENGTH in request.headers or "content-encoding" in request.headers or body[:1] in (b"\x1f", b"\x78")


def _readiness(document: dict[str, object], is_ready: bool) -> "Response":
    document["ready"] = is_ready
    return answer(document) if is_ready else answer(document, 503, {"Retry-After": "1"})


def _is_inference(reply: Reply) -> bool:
    return _LENGTH in reply.headers or all(mark in reply.body for mark in _MARKS)
