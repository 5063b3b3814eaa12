"""What there is: ``/openapi.json`` for programs, ``/docs`` for people; generated from the operations that are served.

TorchServe describes its API at ``OPTIONS /`` and ``/api-description``, and that of a model at
``OPTIONS /predictions/NAME``.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from marquee.gateway.doors import openapi, page
from marquee.gateway.doors.json_answer import JSON, dump
from marquee.gateway.doors.oip_metadata import server_metadata
from marquee.gateway.doors.operation import Operation, protocol_error
from marquee.gateway.doors.schemas import OBJECT, STRING
from marquee.gateway.errors import GatewayError
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_TAG = "Documentation"
_HTML = "text/html"
_BRIEFLY = "max-age=60"


def operations(gateway: Gateway) -> list[Operation]:
    """Nobody needs a key to read what everybody may know; the names of models are not in it."""
    made: dict[str, Any] = {}

    def whole() -> Mapping[str, Any]:
        if not made:
            from marquee.gateway.app import operations as all_operations  # which has this door among others

            version = server_metadata()["version"]
            made.update(openapi.document(all_operations(gateway), _needs_keys(gateway), version))
        return made

    async def describe(request: "Request") -> "Response":
        return _respond(dump(whole()), JSON)

    async def docs(request: "Request") -> "Response":
        return _respond(page.render(whole()).encode(), _HTML, **{"content-security-policy": page.POLICY})

    async def describe_model(request: "Request") -> "Response":
        gateway.version(request.path_params["name"], request.path_params.get("version"))
        paths = {path: entry for path, entry in whole()["paths"].items() if path.startswith(_base(request))}
        return _respond(dump({**whole(), "paths": paths}), JSON)

    public = partial(Operation, scope=None, refusal=protocol_error, tag=_TAG)
    described = {200: {JSON: OBJECT}}
    of_model = partial(
        Operation,
        methods=("OPTIONS",),
        scope="predict",
        endpoint=describe_model,
        refusal=protocol_error,
        tag=_TAG,
        summary="How a model is asked",
        responses=described,
    )
    return [
        public(
            path="/openapi.json",
            methods=("GET",),
            endpoint=describe,
            summary="This API, in OpenAPI",
            responses=described,
        ),
        public(
            path="/docs",
            methods=("GET",),
            endpoint=docs,
            summary="This API, as a page",
            responses={200: {_HTML: STRING}},
        ),
        public(path="/", methods=("OPTIONS",), endpoint=describe, summary="This API, in OpenAPI", responses=described),
        public(
            path="/api-description",
            methods=("GET", "OPTIONS"),
            endpoint=describe,
            summary="This API, in OpenAPI",
            responses=described,
        ),
        of_model(path="/predictions/{name}"),
        of_model(path="/predictions/{name}/{version}"),
    ]


def _needs_keys(gateway: Gateway) -> bool:
    try:
        gateway.access.caller(None, "predict")
    except GatewayError:
        return True
    return False


def _base(request: "Request") -> tuple[str, ...]:
    depth = "/{name}/{version}" if "version" in request.path_params else "/{name}"
    return (f"/predictions{depth}", f"/explanations{depth}")


def _respond(body: bytes, media_type: str, **headers: str) -> "Response":
    from starlette.responses import Response

    return Response(body, headers={"cache-control": _BRIEFLY, **headers}, media_type=media_type)
