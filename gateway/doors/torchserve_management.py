"""TorchServe's management API and the metrics, for keys with the scope ``manage``; passed on to the host."""

from functools import partial
from typing import TYPE_CHECKING

from marquee.gateway import metrics
from marquee.gateway.backend import AbsentError, LostError
from marquee.gateway.body import read_body
from marquee.gateway.doors.json_answer import JSON, forward
from marquee.gateway.doors.operation import Operation
from marquee.gateway.doors.schemas import ANY_STATUS, OBJECT, STRING, query
from marquee.gateway.doors.torchserve_rest import error_of
from marquee.gateway.errors import NOT_FOUND, NOT_READY, GatewayError
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_TAG = "TorchServe management"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_INTEGER, _BOOLEAN = {"type": "string", "pattern": "^[0-9]+$"}, {"enum": ["true", "false"]}
_SCALE = (
    query("min_worker", "least number of workers", _INTEGER),
    query("max_worker", "most workers", _INTEGER),
    query("synchronous", "whether to wait for the workers", _BOOLEAN),
    query("timeout", "seconds to wait for a worker", _INTEGER),
)
_DESCRIBE = (query("customized", "whether the handler describes itself, too", _BOOLEAN),)
_LIST = (query("limit", "most models of an answer", _INTEGER), query("next_page_token", "where to go on", _INTEGER))
_REGISTER = (
    query("url", "file name of an archive in the store"),
    query("model_name", "name on the server"),
    query("initial_workers", "workers to start", _INTEGER),
    query("synchronous", "whether to wait for the workers", _BOOLEAN),
    query("batch_size", "most requests of a batch", _INTEGER),
    query("max_batch_delay", "milliseconds to wait for more of them", _INTEGER),
    query("response_timeout", "seconds", _INTEGER),
)


def operations(gateway: Gateway) -> list[Operation]:
    """All of it."""

    async def manage(request: "Request") -> "Response":
        body = await read_body(request, gateway.config)
        method = "GET" if request.method == "HEAD" else request.method
        try:
            reply = await gateway.backend.manage(method, request.scope["path"], dict(request.query_params), body)
        except AbsentError as error:
            raise GatewayError(NOT_FOUND, str(error)) from error
        except LostError as error:
            raise GatewayError(NOT_READY, "the model's host does not answer", retry_after=1.0) from error
        return forward(reply)

    async def all_metrics(request: "Request") -> "Response":
        from starlette.responses import Response

        try:
            of_host = await gateway.backend.metrics()
        except LostError:
            of_host = ""  # while it starts again, what the gateway counts is worth knowing
        return Response(metrics.text() + of_host, headers={"content-type": PROMETHEUS})

    shared = partial(Operation, scope="manage", refusal=error_of, tag=_TAG)
    managing = partial(shared, endpoint=manage, responses={ANY_STATUS: {JSON: {}}})
    model, version = "/models/{name}", "/models/{name}/{version}"
    of_models = [
        managing(path="/models", methods=("GET",), summary="Names of all models", parameters=_LIST),
        managing(
            path="/models",
            methods=("POST",),
            summary="Registers an archive of the store",
            parameters=_REGISTER,
            request={JSON: OBJECT},
            is_body_required=False,
        ),
        managing(
            path=f"{version}/set-default", methods=("PUT",), summary="Makes a version the one that answers by default"
        ),
    ]
    for path, where in ((model, "the default version"), (version, "one version")):
        of_models += [
            managing(path=path, methods=("GET",), summary=f"State of {where}", parameters=_DESCRIBE),
            managing(path=path, methods=("PUT",), summary=f"Scales {where}", parameters=_SCALE),
            managing(path=path, methods=("DELETE",), summary=f"Unregisters {where}"),
        ]
    return [
        *of_models,
        shared(
            path="/metrics",
            methods=("GET",),
            endpoint=all_metrics,
            summary="Metrics of the gateway and of its host, for Prometheus",
            responses={200: {"text/plain": STRING}},
        ),
    ]
