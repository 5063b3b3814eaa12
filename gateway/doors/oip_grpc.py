"""The Open Inference Protocol over gRPC, ``inference.GRPCInferenceService``, for Triton's and KServe's clients."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from marquee.gateway.access.scope import Scope
from marquee.gateway.backend import Call
from marquee.gateway.doors.in_order import in_order
from marquee.gateway.doors.oip_messages import decode, encode
from marquee.gateway.doors.oip_metadata import (
    is_model_ready,
    model_config,
    model_metadata,
    repository_index,
    server_metadata,
)
from marquee.gateway.doors.rpc import Rpc, Unary, Visit, error_of
from marquee.gateway.errors import BAD_REQUEST, NOT_SUPPORTED, UNAUTHENTICATED, GatewayError
from marquee.gateway.gateway import Gateway

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
FINAL = "triton_final_response"
"""Parameter of a stream's answer: no other follows to the same request."""
_LARGE = 1 << 20
"""Bytes of a message whose conversion would hold up others for milliseconds: it is done in a thread."""
_SHARED_MEMORY = "shared memory is not supported: send the contents of tensors"
_ABSENT: dict[str, tuple[Scope, str]] = {
    "ModelStatistics": ("predict", "statistics are metrics here: GET /metrics"),
    "RepositoryModelLoad": ("manage", "models are registered by the management API: POST /models"),
    "RepositoryModelUnload": ("manage", "models are unregistered by the management API: DELETE /models/NAME"),
    "SystemSharedMemoryStatus": ("predict", _SHARED_MEMORY),
    "SystemSharedMemoryRegister": ("predict", _SHARED_MEMORY),
    "SystemSharedMemoryUnregister": ("predict", _SHARED_MEMORY),
    "CudaSharedMemoryStatus": ("predict", _SHARED_MEMORY),
    "CudaSharedMemoryRegister": ("predict", _SHARED_MEMORY),
    "CudaSharedMemoryUnregister": ("predict", _SHARED_MEMORY),
    "TraceSetting": ("manage", "requests are not traced here"),
    "LogSettings": ("manage", "the log is set when the gateway is started"),
}
"""Methods of the service that have no meaning here, whose keys could call them, and why not."""


def rpcs(gateway: Gateway) -> list[Rpc]:
    """Every method of the service."""
    door = OipDoor(gateway)
    answered: list[tuple[str, Scope | None, Unary]] = [
        ("ServerLive", None, door.server_live),
        ("ServerReady", None, door.server_ready),
        ("ModelReady", None, door.model_ready),
        ("ServerMetadata", "predict", door.server_metadata),
        ("ModelMetadata", "predict", door.model_metadata),
        ("ModelConfig", "predict", door.model_config),
        ("RepositoryIndex", "predict", door.repository_index),
        ("ModelInfer", "predict", door.model_infer),
    ]
    absent = [_rpc(name, scope, unary=partial(_refuse, reason)) for name, (scope, reason) in _ABSENT.items()]
    return [
        *(_rpc(name, scope, unary=endpoint) for name, scope, endpoint in answered),
        _rpc("ModelStreamInfer", "predict", streaming=door.model_stream_infer),
        *absent,
    ]


class OipDoor:
    """What answers.

    Args:
        gateway: whose models.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def server_live(self, request: pb.ServerLiveRequest, visit: Visit) -> pb.ServerLiveResponse:
        """Whoever answers is live."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: pb.ServerReadyRequest, visit: Visit) -> pb.ServerReadyResponse:
        """Whether every model was proven."""
        return pb.ServerReadyResponse(ready=self._gateway.readiness.is_ready)

    async def model_ready(self, request: pb.ModelReadyRequest, visit: Visit) -> pb.ModelReadyResponse:
        """Whether one version was proven; False where there is none, as Triton says."""
        return pb.ModelReadyResponse(ready=is_model_ready(self._gateway, request.name, request.version or None))

    async def server_metadata(self, request: pb.ServerMetadataRequest, visit: Visit) -> Message:
        """Name, version, extensions."""
        return _message(server_metadata(), pb.ServerMetadataResponse)

    async def model_metadata(self, request: pb.ModelMetadataRequest, visit: Visit) -> Message:
        """Name, versions, tensors."""
        document = await model_metadata(self._gateway, request.name, request.version or None)
        return _message(document, pb.ModelMetadataResponse)

    async def model_config(self, request: pb.ModelConfigRequest, visit: Visit) -> Message:
        """As Triton's clients read it."""
        document = await model_config(self._gateway, request.name, request.version or None)
        return _message({"config": document}, pb.ModelConfigResponse)

    async def repository_index(self, request: pb.RepositoryIndexRequest, visit: Visit) -> Message:
        """Every version; with ``ready`` those that answer."""
        return _message({"models": repository_index(self._gateway, request.ready)}, pb.RepositoryIndexResponse)

    async def model_infer(self, request: pb.ModelInferRequest, visit: Visit) -> pb.ModelInferResponse:
        """One answer.

        Raises:
            GatewayError: of the gateway or, by its status, of the handler.
        """
        if not request.model_name:
            raise GatewayError(BAD_REQUEST, "model_name: expected the name of a model")
        is_large = sum(map(len, request.raw_input_contents)) > _LARGE or request.ByteSize() > _LARGE
        body, headers = await _convert(is_large, encode, request)
        call = Call(
            model=request.model_name,
            version=request.model_version or None,
            body=body,
            headers={**visit.forwarded, **headers},
        )
        reply = await self._gateway.ask(call, visit.caller, visit.seconds)
        if reply.status >= 400:
            raise error_of(reply)
        return await _convert(len(reply.body) > _LARGE, decode, request, reply.body, reply.headers)

    async def model_stream_infer(
        self, requests: AsyncIterator[pb.ModelInferRequest], visit: Visit
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """One answer for each request, in their order; an error is an answer, and the stream goes on.

        Raises:
            GatewayError: ``UNAUTHENTICATED``: the caller's key is no longer valid.
        """

        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                response = await self.model_infer(request, visit)
            except GatewayError as error:
                if error.kind is UNAUTHENTICATED:  # the key was revoked since
                    raise
                named = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
                return pb.ModelStreamInferResponse(error_message=error.message, infer_response=named)
            response.parameters[FINAL].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=response)

        async for message in in_order(requests, answer):
            yield message


def _message(document: dict[str, Any], kind: type[Message]) -> Message:
    message: Message = ParseDict(document, kind(), ignore_unknown_fields=True)
    return message


async def _convert(is_large: bool, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments) if is_large else function(*arguments)


async def _refuse(reason: str, request: Message, visit: Visit) -> Message:
    raise GatewayError(NOT_SUPPORTED, reason)


def _rpc(name: str, scope: Scope | None, **endpoint: Any) -> Rpc:
    request = getattr(pb, SERVICE.methods_by_name[name].input_type.name)
    return Rpc(path=f"/{SERVICE.full_name}/{name}", scope=scope, request=request, **endpoint)
