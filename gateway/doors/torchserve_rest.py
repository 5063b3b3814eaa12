"""TorchServe's inference API, so that its clients need no change.

Any method asks for a prediction, as TorchServe has it. Two things differ: an answer is never a stack trace, and a file
that curl calls a form is read as a file. What the URL's query says reaches no handler, there as here.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from marquee.gateway.backend import Verb
from marquee.gateway.doors.asking import pass_on
from marquee.gateway.doors.operation import Operation, torchserve_error
from marquee.gateway.doors.schemas import ANY_BODY, HANDLER_ANSWER, HANDLER_ERROR, OBJECT, Schema, an_object, replies
from marquee.gateway.errors import GatewayError
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

TAG = "TorchServe"
METHODS = ("POST", "PUT", "GET", "PATCH", "DELETE")
"""With which TorchServe 0.12.0 runs the handler; OPTIONS describes the path."""


def operations(gateway: Gateway) -> list[Operation]:
    """``/predictions`` and ``/explanations``."""
    explained = {"allOf": [HANDLER_ANSWER, an_object("explanation", explanation=OBJECT)]}
    predicting = partial(_operation, gateway, "predictions", HANDLER_ANSWER)
    explaining = partial(_operation, gateway, "explanations", explained)
    return [
        predicting("/predictions/{name}", "Predictions of the default version"),
        predicting("/predictions/{name}/{version}", "Predictions of one version"),
        explaining("/explanations/{name}", "A prediction of the default version, explained"),
        explaining("/explanations/{name}/{version}", "A prediction of one version, explained"),
    ]


def legacy_operations(gateway: Gateway) -> list[Operation]:
    """The older form of the path."""
    predicting = partial(_operation, gateway, "predictions", HANDLER_ANSWER)
    return [
        predicting("/{name}/predict", "Predictions of the default version, by an older path"),
        predicting("/{name}/{version}/predict", "Predictions of one version, by an older path"),
    ]


def error_of(error: GatewayError) -> dict[str, Any]:
    """With ``message`` beside ``error``, where TorchServe's own refusals have it."""
    return {**torchserve_error(error), "message": error.message}


def _operation(gateway: Gateway, verb: Verb, schema: Schema, path: str, summary: str) -> Operation:
    async def endpoint(request: "Request") -> "Response":
        place = request.path_params
        return await pass_on(gateway, request, place["name"], place.get("version"), verb)

    return Operation(
        path=path,
        methods=METHODS,
        endpoint=endpoint,
        scope="explain" if verb == "explanations" else "predict",
        refusal=error_of,
        tag=TAG,
        summary=summary,
        request=ANY_BODY,
        responses=replies(schema, HANDLER_ERROR),
    )
