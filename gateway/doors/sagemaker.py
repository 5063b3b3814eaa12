"""SageMaker: ``POST /invocations`` with any body; ``/ping`` is in :mod:`.health`.

With several models, SageMaker invokes one at ``/models/NAME/invoke``; the rest of ``/models`` is TorchServe's
management API, which had this path before. boto3 calls ``/endpoints/NAME/invocations`` at whatever address it is given:
there, a model of that name answers, else the one that answers where none is named.
"""

from typing import TYPE_CHECKING

from marquee.gateway.doors.asking import pass_on
from marquee.gateway.doors.operation import Operation, torchserve_error
from marquee.gateway.doors.schemas import ANY_BODY, HANDLER_ANSWER, HANDLER_ERROR, query, replies
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_MODEL_NAME = query("model_name", "name of the model, as TorchServe's own route takes it")


def operations(gateway: Gateway) -> list[Operation]:
    """The routes."""

    async def invocations(request: "Request") -> "Response":
        return await pass_on(gateway, request, request.query_params.get("model_name") or gateway.unnamed_model())

    async def invoke(request: "Request") -> "Response":
        return await pass_on(gateway, request, request.path_params["name"])

    async def invoke_endpoint(request: "Request") -> "Response":
        name = request.path_params["endpoint"]
        is_model = any(version.name == name for version in gateway.readiness.versions)
        return await pass_on(gateway, request, name if is_model else gateway.unnamed_model())

    return [
        Operation(
            path=path,
            methods=("POST",),
            endpoint=endpoint,
            scope="predict",
            refusal=torchserve_error,
            tag="SageMaker",
            summary=summary,
            request=ANY_BODY,
            responses=replies(HANDLER_ANSWER, HANDLER_ERROR),
            parameters=parameters,
        )
        for path, endpoint, summary, parameters in (
            ("/invocations", invocations, "Predictions of the model that answers where none is named", (_MODEL_NAME,)),
            ("/models/{name}/invoke", invoke, "Predictions of one of several models", ()),
            ("/endpoints/{endpoint}/invocations", invoke_endpoint, "Predictions, as boto3 asks for them", ()),
        )
    ]
