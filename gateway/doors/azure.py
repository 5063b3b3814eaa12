"""Azure Machine Learning's inference server: ``POST /score``; ``/`` is its liveness, ``/ready`` its readiness.

A deployment names these routes in its ``inference_config``.
"""

from typing import TYPE_CHECKING

from marquee.gateway.doors.asking import pass_on
from marquee.gateway.doors.health import READINESS, health
from marquee.gateway.doors.operation import Operation, torchserve_error
from marquee.gateway.doors.schemas import ANY_BODY, HANDLER_ANSWER, HANDLER_ERROR, replies
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_TAG = "Azure ML"


def operations(gateway: Gateway) -> list[Operation]:
    """The routes."""

    async def score(request: "Request") -> "Response":
        return await pass_on(gateway, request, gateway.unnamed_model())

    async def ready(request: "Request") -> "Response":
        return health(gateway)

    return [
        Operation(
            path="/score",
            methods=("POST",),
            endpoint=score,
            scope="predict",
            refusal=torchserve_error,
            tag=_TAG,
            summary="Predictions of the model that answers where none is named",
            request=ANY_BODY,
            responses=replies(HANDLER_ANSWER, HANDLER_ERROR),
        ),
        Operation(
            path="/ready",
            methods=("GET",),
            endpoint=ready,
            scope=None,
            refusal=torchserve_error,
            tag=_TAG,
            summary="Readiness",
            responses=READINESS,
        ),
    ]
