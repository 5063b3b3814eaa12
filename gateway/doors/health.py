"""Probes that several platforms share; they need no key.

``/ping`` is TorchServe's and SageMaker's, ``/`` is Azure ML's and that of KServe's first protocol, so each has one
answer that suits both. A server is healthy when its models were proven: SageMaker sends requests from then on.
"""

from typing import TYPE_CHECKING

from marquee.gateway.doors.json_answer import answer
from marquee.gateway.doors.operation import Operation, torchserve_error
from marquee.gateway.doors.schemas import JSON, STRING, an_object
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_STATUS = {JSON: an_object(status=STRING)}
READINESS = {200: _STATUS, 503: _STATUS}


def operations(gateway: Gateway) -> list[Operation]:
    """The probes."""

    async def ping(request: "Request") -> "Response":
        return health(gateway)

    async def alive(request: "Request") -> "Response":
        return answer({"status": "alive"})

    return [
        Operation(
            path="/ping",
            methods=("GET",),
            endpoint=ping,
            scope=None,
            refusal=torchserve_error,
            tag="Health",
            summary="Readiness, as TorchServe and SageMaker ask for it",
            responses=READINESS,
        ),
        Operation(
            path="/",
            methods=("GET",),
            endpoint=alive,
            scope=None,
            refusal=torchserve_error,
            tag="Health",
            summary="Liveness, as Azure ML and KServe ask for it",
            responses={200: _STATUS},
        ),
    ]


def health(gateway: Gateway) -> "Response":
    """200 where every default version has a worker that was proven, else 503."""
    if gateway.readiness.is_ready:
        return answer({"status": "Healthy"})
    return answer({"status": "Unhealthy"}, 503, {"Retry-After": "1"})
