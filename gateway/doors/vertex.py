"""Vertex AI's custom containers: one route of predictions and one of probes, both chosen by the platform."""

from typing import TYPE_CHECKING

from marquee.gateway.body import read_body
from marquee.gateway.doors.asking import OCTETS, ask, sent_type
from marquee.gateway.doors.health import READINESS, health
from marquee.gateway.doors.json_answer import JSON, forward
from marquee.gateway.doors.operation import Operation, protocol_error
from marquee.gateway.doors.predictions import as_predictions
from marquee.gateway.doors.schemas import INSTANCES, PREDICTIONS, TEXT_ERROR, replies
from marquee.gateway.doors.text_errors import text_error
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_TAG = "Vertex AI"


def operations(gateway: Gateway) -> list[Operation]:
    """Both routes (:class:`~marquee.gateway.config.Routes`)."""

    async def predict(request: "Request") -> "Response":
        body = await read_body(request, gateway.config)
        content_type = sent_type(request, body)
        is_json = content_type.partition(";")[0].strip().lower() == JSON
        model = gateway.unnamed_model()
        reply = await ask(gateway, request, model, body=body, content_type=OCTETS if is_json else content_type)
        if is_json:
            return forward(as_predictions(reply))
        return forward(text_error(reply) if reply.status >= 400 else reply)  # rawPredict: whatever the container gives

    async def ready(request: "Request") -> "Response":
        return health(gateway)

    routes = gateway.config.routes
    return [
        Operation(
            path=routes.predict,
            methods=("POST",),
            endpoint=predict,
            scope="predict",
            refusal=protocol_error,
            tag=_TAG,
            summary="Predictions for a list of instances",
            request={JSON: INSTANCES},
            responses=replies(PREDICTIONS, TEXT_ERROR),
        ),
        Operation(
            path=routes.health,
            methods=("GET",),
            endpoint=ready,
            scope=None,
            refusal=protocol_error,
            tag=_TAG,
            summary="Readiness",
            responses=READINESS,
        ),
    ]
