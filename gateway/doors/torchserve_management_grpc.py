"""TorchServe's management API over gRPC: each method is a request of the one over REST, which the host answers."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.message import Message

from marquee.gateway.backend import LostError, Reply
from marquee.gateway.doors.rpc import Rpc, Visit, error_of
from marquee.gateway.errors import BAD_REQUEST, FORBIDDEN, NOT_READY, GatewayError
from marquee.gateway.gateway import Gateway
from marquee.serving.grpc_stubs import load_stubs

MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService"
_REFUSED_METHOD = 405
"""What TorchServe's REST API answers where the management of models is switched off."""

Rest = tuple[str, str, Mapping[str, str]]
"""HTTP method, path and parameters."""


def rpcs(gateway: Gateway) -> list[Rpc]:
    """Every method of ``ManagementAPIsService``.

    Raises:
        OperationError: TorchServe, whose .proto files are the messages', is not installed.
    """
    messages = load_stubs().management

    async def manage(as_rest: Callable[[Any], Rest], request: Any, visit: Visit) -> Message:
        method, path, parameters = as_rest(request)
        try:
            reply = await gateway.backend.manage(method, path, parameters)
        except LostError as error:
            raise GatewayError(NOT_READY, "the models' host does not answer", retry_after=1.0) from error
        if reply.status == _REFUSED_METHOD:
            raise GatewayError(FORBIDDEN, "Model API disabled")
        if reply.status >= 400:
            raise error_of(reply)
        response: Message = messages.ManagementResponse(msg=_text(reply))
        return response

    return [
        Rpc(
            path=f"{MANAGEMENT}/{name}",
            scope="manage",
            request=getattr(messages, f"{name}Request"),
            unary=partial(manage, as_rest),
        )
        for name, as_rest in _AS_REST.items()
    ]


def _describe(request: Any) -> Rest:
    return "GET", _path(request), {"customized": "true"} if request.customized else {}


def _list(request: Any) -> Rest:
    return "GET", "/models", _given(request, "limit", "next_page_token")


def _register(request: Any) -> Rest:
    if not request.url:
        raise GatewayError(BAD_REQUEST, "Parameter url is required.")
    return "POST", "/models", _given(request, *(field.name for field in request.DESCRIPTOR.fields))


def _scale(request: Any) -> Rest:
    names = ("min_worker", "max_worker", "number_gpu", "synchronous", "timeout")
    return "PUT", _path(request), _given(request, *names)


def _set_default(request: Any) -> Rest:
    if not request.model_version:
        raise GatewayError(BAD_REQUEST, "Parameter model_version is required.")
    return "PUT", f"{_path(request)}/set-default", {}


def _unregister(request: Any) -> Rest:
    return "DELETE", _path(request), {}


_AS_REST: dict[str, Callable[[Any], Rest]] = {
    "DescribeModel": _describe,
    "ListModels": _list,
    "RegisterModel": _register,
    "ScaleWorker": _scale,
    "SetDefault": _set_default,
    "UnregisterModel": _unregister,
}


def _path(request: Any) -> str:
    """Of a model, or of one of its versions.

    Raises:
        GatewayError: ``BAD_REQUEST``: a name would lead to another path.
    """
    name, version = request.model_name, request.model_version
    if not name:
        raise GatewayError(BAD_REQUEST, "Parameter model_name is required.")
    for part in (name, version):
        if "/" in part or part in (".", ".."):
            raise GatewayError(BAD_REQUEST, f"{part!r} is not the name of a model or a version")
    return f"/models/{name}" + (f"/{version}" if version else "")


def _given(request: Any, *names: str) -> dict[str, str]:
    """The fields that differ from their default, as parameters of a URL: the messages cannot say 0 or false."""
    values = {name: getattr(request, name) for name in names}
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items() if value
    }


def _text(reply: Reply) -> str:
    """TorchServe's word, which over REST is ``{"status": ...}``; its documents as they are."""
    text = reply.body.decode("utf-8", "replace")
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if isinstance(document, dict) and list(document) == ["status"]:
        return str(document["status"])
    return text
