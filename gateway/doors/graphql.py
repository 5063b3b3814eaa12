"""GraphQL at ``/graphql``: models, versions and predictions. Off by default (``GatewayConfig.graphql``).

One POST is one operation: no batches, no subscriptions, no page with an editor. GET is refused: images do not belong in
URLs, and URLs end up in logs. Nothing can be changed: there are no mutations, and ``predict`` is a query. Introspection
is allowed: the schema is the same for everybody who may predict, and clients check their queries with it.

Statuses follow GraphQL over HTTP: a request that cannot be run is 400 for clients that accept
``application/graphql-response+json``, and 200 with ``errors`` for those that only know ``application/json``. What the
gateway refuses before it reads the query (no key, too large a body) has the status that the other doors give it.
"""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from marquee.gateway.access.caller import Caller
from marquee.gateway.body import read_body
from marquee.gateway.doors.json_answer import dump
from marquee.gateway.doors.operation import Operation
from marquee.gateway.errors import BAD_REQUEST, GatewayError, StartError
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

PATH = "/graphql"
JSON_TYPE = "application/json"
RESPONSE_TYPE = "application/graphql-response+json"

_ERRORS = {
    "type": "array",
    "items": {"type": "object", "required": ["message"], "properties": {"message": {"type": "string"}}},
}
_ANSWER = {"type": "object", "properties": {"data": {"type": ["object", "null"]}, "errors": _ERRORS}}
_QUESTION = {
    "type": "object",
    "required": ["query"],
    "properties": {
        "query": {"type": "string"},
        "variables": {"type": ["object", "null"]},
        "operationName": {"type": ["string", "null"]},
        "extensions": {"type": ["object", "null"]},
    },
}


def operations(gateway: Gateway) -> list[Operation]:
    """The door, where it was asked for.

    Raises:
        StartError: Strawberry is not installed.
    """
    if not gateway.config.graphql:
        return []
    try:
        from marquee.gateway.doors.graphql_execution import Executor
    except ImportError as error:
        raise StartError(f"GraphQL needs the extra graphql: pip install 'marquee[graphql]' ({error})") from error
    executor = Executor(gateway)

    async def endpoint(request: "Request") -> "Response":
        question = read_question(await read_body(request, gateway.config), request.headers.get("content-type", ""))
        caller: Caller = request.state.caller
        outcome = await executor.execute(question, caller, request.headers)
        return _respond(outcome.document, outcome.is_request_error, request.headers.get("accept", ""), outcome.headers)

    return [
        Operation(
            path=PATH,
            methods=("POST",),
            endpoint=endpoint,
            scope="predict",
            refusal=graphql_error,
            tag="GraphQL",
            summary="Models, versions and predictions as one GraphQL operation",
            request={JSON_TYPE: _QUESTION},
            responses={status: {JSON_TYPE: _ANSWER, RESPONSE_TYPE: _ANSWER} for status in (200, 400)},
        )
    ]


def graphql_error(error: GatewayError) -> Mapping[str, Any]:
    """``errors`` as GraphQL has them, beside RFC 9457's members."""
    return {"errors": [{"message": error.message, "extensions": extensions(error)}], **error.problem()}


def extensions(error: GatewayError) -> dict[str, Any]:
    """What a program may want to know of an error."""
    known: dict[str, Any] = {"code": error.kind.code, "status": error.kind.status}
    return known if error.retry_after is None else {**known, "retry_after": error.retry_after}


def read_question(body: bytes, content_type: str) -> Mapping[str, Any]:
    """The JSON object of one operation, with the types that its members must have.

    Args:
        body: of the request.
        content_type: of the request. Only JSON is taken, which a page of another origin cannot send unasked.

    Raises:
        GatewayError: ``BAD_REQUEST``.
    """
    if content_type.partition(";")[0].strip().lower() != JSON_TYPE:
        raise GatewayError(BAD_REQUEST, f"expected the content type {JSON_TYPE}")
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise GatewayError(BAD_REQUEST, f"the body is not valid JSON: {_reason(error)}") from error
    if isinstance(document, list):
        raise GatewayError(BAD_REQUEST, "expected one operation, got a list: batches are not taken")
    if not isinstance(document, dict):
        raise GatewayError(BAD_REQUEST, 'expected a JSON object with the member "query"')
    if not isinstance(document.get("query"), str) or not document["query"].strip():
        raise GatewayError(BAD_REQUEST, "query: expected a text with a GraphQL operation")
    for name, kind, text in (("variables", dict, "an object"), ("operationName", str, "a text")):
        if not isinstance(document.get(name), (kind, type(None))):
            raise GatewayError(BAD_REQUEST, f"{name}: expected {text} or null")
    return document


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]


def _respond(
    document: Mapping[str, Any], is_request_error: bool, accept: str, headers: Mapping[str, str]
) -> "Response":
    from starlette.responses import Response

    is_new = RESPONSE_TYPE in accept.lower()
    return Response(
        dump(document),
        status_code=400 if is_new and is_request_error else 200,
        media_type=RESPONSE_TYPE if is_new else JSON_TYPE,
        headers=dict(headers),
    )


def retry_after(seconds: float) -> Mapping[str, str]:
    """The header of an answer in which a part may be asked for again."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
