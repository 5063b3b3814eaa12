"""TorchServe's own gRPC API, so that its clients need no change: predictions, and the management of models.

``Predictions`` answers as TorchServe's: the call is OK whenever the handler answers, and an error of the handler is in
the body. Where a model is not there, the status is ``INTERNAL`` with TorchServe's words, because clients look for them;
the other statuses are the gateway's own.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from urllib3 import encode_multipart_formdata

from marquee.gateway.backend import Call, Reply
from marquee.gateway.doors.explanation_scope import asks_explanation
from marquee.gateway.doors.in_order import in_order
from marquee.gateway.doors.rpc import Rpc, Visit, error_of
from marquee.gateway.errors import BAD_REQUEST, INTERNAL, NOT_FOUND, UNAUTHENTICATED, GatewayError
from marquee.gateway.gateway import Gateway
from marquee.serving.grpc_stubs import load_stubs

INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService"
OCTETS = "application/octet-stream"
_BODY_FIELDS = ("data", "body")
_EXCEPTIONS = "org.pytorch.serve.archive.model"
_ABSENT = replace(NOT_FOUND, grpc=INTERNAL.grpc)


def rpcs(gateway: Gateway) -> list[Rpc]:
    """Every method of ``InferenceAPIsService``.

    Raises:
        OperationError: TorchServe, whose .proto files are the messages', is not installed.
    """
    messages = load_stubs().inference
    door = InferenceDoor(gateway, messages)
    asked = {"scope": "predict", "request": messages.PredictionsRequest}
    return [
        Rpc(path=f"{INFERENCE}/Ping", scope=None, request=Empty, unary=door.ping),
        Rpc(path=f"{INFERENCE}/Predictions", unary=door.predictions, **asked),
        # The answer is a stream of one message, which on the wire is what one message is.
        Rpc(path=f"{INFERENCE}/StreamPredictions", unary=door.predictions, **asked),
        Rpc(path=f"{INFERENCE}/StreamPredictions2", streaming=door.stream_predictions, **asked),
    ]


class InferenceDoor:
    """What answers.

    Args:
        gateway: whose models.
        messages: the generated module.
    """

    def __init__(self, gateway: Gateway, messages: ModuleType) -> None:
        self._gateway = gateway
        self._messages = messages

    async def ping(self, request: Empty, visit: Visit) -> Any:
        """``Healthy`` where every model was proven."""
        health = "Healthy" if self._gateway.readiness.is_ready else "Unhealthy"
        return self._message("TorchServeHealthResponse", health=json.dumps({"status": health}, indent=2))

    async def predictions(self, request: Any, visit: Visit) -> Any:
        """The handler's answer, or its error, as the body.

        Raises:
            GatewayError: nothing was answered.
        """
        reply = await self._reply(request, visit)
        if reply.status >= 400 and not _is_of_handler(reply.body):
            raise error_of(reply)
        return self._message("PredictionResponse", prediction=reply.body)

    async def stream_predictions(self, requests: AsyncIterator[Any], visit: Visit) -> AsyncIterator[Message]:
        """One answer for each request, in their order, with its ``sequence_id``; what fails has a ``status``."""

        async def answer(request: Any) -> Any:
            try:
                response = await self.predictions(request, visit)
            except GatewayError as error:
                if error.kind is UNAUTHENTICATED:  # the key was revoked since
                    raise
                response = self._message("PredictionResponse")
                code, _ = grpc.StatusCode[error.kind.grpc].value
                response.status.code, response.status.message = code, error.message
            if request.HasField("sequence_id"):
                response.sequence_id = request.sequence_id
            return response

        async for message in in_order(requests, answer):
            yield message

    async def _reply(self, request: Any, visit: Visit) -> Reply:
        name, version = request.model_name, request.model_version or None
        if not name:
            raise GatewayError(BAD_REQUEST, "Parameter model_name is required.")
        body, content_type = encode_fields(request.input)
        if "explain" not in visit.caller.scopes and await asks_explanation(body, content_type):
            visit.demand("explain")
        call = Call(model=name, version=version, body=body, content_type=content_type, headers=visit.forwarded)
        try:
            return await self._gateway.ask(call, visit.caller, visit.seconds)
        except GatewayError as error:
            if error.kind is NOT_FOUND:
                raise GatewayError(_ABSENT, self._absent(name, version)) from error
            raise

    def _absent(self, name: str, version: str | None) -> str:
        """As TorchServe says it, with the name of its exception."""
        if version is None or all(entry.name != name for entry in self._gateway.readiness.versions):
            return f"Model not found: {name}\n{_EXCEPTIONS}.ModelNotFoundException"
        return f"Model version: {version} does not exist for model: {name}\n{_EXCEPTIONS}.ModelVersionNotFoundException"

    def _message(self, kind: str, **fields: Any) -> Any:
        return getattr(self._messages, kind)(**fields)


def encode_fields(fields: Mapping[str, bytes]) -> tuple[bytes, str]:
    """The input of a request as the body that brings the same fields to the handler over REST.

    Returns:
        The body, and its content type: the content of the only field as it is; several as a form of files, because text
        would be decoded on its way.
    """
    names = list(fields)
    if not names:
        return b"", OCTETS
    if len(names) == 1 and names[0] in _BODY_FIELDS:
        return fields[names[0]], OCTETS
    body, content_type = encode_multipart_formdata({name: (name, fields[name], OCTETS) for name in names})
    return body, content_type


def _is_of_handler(body: bytes) -> bool:
    """Whether an error is the handler's answer, and not the host's word that there is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and ("error" in document or "predictions" in document)
