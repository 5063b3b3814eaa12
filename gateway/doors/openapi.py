"""The OpenAPI document of all operations."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from marquee.gateway import errors
from marquee.gateway.doors.operation import Operation
from marquee.gateway.doors.schemas import ANY_STATUS, JSON, STRING
from marquee.gateway.errors import GatewayError, Kind

VERSION = "3.1.0"
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_KEY, _SCHEME = "key", {"type": "http", "scheme": "bearer"}
_TITLE = "Marquee gateway"
_DESCRIPTION = (
    "One door to the models for the protocols that clients already speak. Operations that need a key take it as "
    "`Authorization: Bearer KEY`. HEAD is there wherever GET is. Over gRPC, the port after this one has "
    "`inference.GRPCInferenceService`, which is the Open Inference Protocol's, and TorchServe's own services."
)
_WHAT = {"name": "name of the model", "version": "version of the model", "endpoint": "name of the endpoint"}

_OF_KEYS = (errors.UNAUTHENTICATED, errors.FORBIDDEN)
_OF_BODIES = (errors.BAD_REQUEST, errors.TOO_SLOW, errors.TOO_LARGE)
_OF_MODELS = (errors.NOT_FOUND, errors.RATE_LIMITED, errors.INTERNAL, errors.NOT_READY, errors.NO_ANSWER)


def document(operations: Sequence[Operation], needs_keys: bool, version: str = "") -> dict[str, Any]:
    """OpenAPI 3.1.

    Args:
        operations: all that are served.
        needs_keys: whether keys are asked for at all.
        version: of this software.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = _PARAMETER.sub(r"{\1}", operation.path)
        for method in operation.methods:
            paths.setdefault(path, {})[method.lower()] = _describe(
                operation, method, needs_keys and operation.scope is not None
            )
    whole = {
        "openapi": VERSION,
        "info": {"title": _TITLE, "description": _DESCRIPTION, "version": version or "0"},
        "paths": dict(sorted(paths.items())),
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
    }
    return {**whole, "components": {"securitySchemes": {_KEY: _SCHEME}}} if needs_keys else whole


def _describe(operation: Operation, method: str, needs_key: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _identifier(operation, method),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation.path), *operation.parameters],
        "responses": dict(sorted(_responses(operation, needs_key).items())),
        "security": [{_KEY: []}] if needs_key else [],
    }
    if needs_key:
        described["description"] = f"The key needs the scope `{operation.scope}`."
    if operation.request and method not in ("GET", "DELETE"):  # which have no body by HTTP's own words
        described["requestBody"] = {"content": _content(operation.request), "required": operation.is_body_required}
    return described


def _identifier(operation: Operation, method: str) -> str:
    return f"{method.lower()}_{re.sub(r'[^A-Za-z0-9]+', '_', operation.path).strip('_') or 'root'}"


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in _PARAMETER.findall(path):
        schema = {**STRING, "minLength": 1, "pattern": "^[^/]+$"}
        yield {"name": name, "in": "path", "required": True, "description": _WHAT.get(name, name), "schema": schema}


def _responses(operation: Operation, needs_key: bool) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for kind in _refusals(operation, needs_key):
        content = {JSON: _schema_of(operation.refusal(GatewayError(kind, "why")))}
        responses[str(kind.status)] = {"description": kind.title, "content": _content(content)}
    for status, answered in operation.responses.items():
        name = "default" if status == ANY_STATUS else str(status)
        refused = responses.get(name)
        described = {"description": _meaning(status), "content": _content(answered)}
        responses[name] = described if refused is None else _either(refused, described)
    return responses


def _refusals(operation: Operation, needs_key: bool) -> list[Kind]:
    kinds: list[Kind] = [errors.INTERNAL]
    if needs_key:
        kinds += _OF_KEYS
    if operation.request or operation.scope == "manage":
        kinds += _OF_BODIES
    if operation.scope is not None or "{" in operation.path:
        kinds += _OF_MODELS
    return kinds


def _either(refused: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """A status that both the gateway and the handler have."""
    content = dict(refused["content"])
    for media_type, entry in described["content"].items():
        if media_type in content:
            content[media_type] = {"schema": {"anyOf": [entry["schema"], content[media_type]["schema"]]}}
        else:
            content[media_type] = entry
    return {"description": refused["description"], "content": content}


def _meaning(status: int) -> str:
    if status == ANY_STATUS:
        return "What the host of the models answers"
    return "The answer" if status < 400 else "The handler's refusal"


def _content(media_types: Mapping[str, Any]) -> dict[str, Any]:
    return {media_type: {"schema": schema} for media_type, schema in media_types.items()}


def _schema_of(example: Any) -> dict[str, Any]:
    """The schema that a refusal has by its own example: objects with exactly these kinds of members."""
    if isinstance(example, Mapping):
        members = {name: _schema_of(value) for name, value in example.items()}
        return {"type": "object", "required": list(members), "properties": members}
    if isinstance(example, list):
        return {"type": "array", "items": _schema_of(example[0]) if example else {}}
    if isinstance(example, bool):
        return {"type": "boolean"}
    return {"type": "integer"} if isinstance(example, int) else {"type": "string"}
