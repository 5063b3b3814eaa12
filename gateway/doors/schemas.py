"""JSON schemas that the documents of several protocols share."""

from collections.abc import Mapping
from typing import Any

JSON = "application/json"
OCTETS = "application/octet-stream"
TEXT = "text/plain"

Schema = Mapping[str, Any]

STRING: Schema = {"type": "string"}
OBJECT: Schema = {"type": "object"}
BINARY: Schema = {"type": "string", "contentMediaType": "application/octet-stream"}

CODE_AND_MESSAGE: Schema = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {"code": STRING, "message": STRING},
}
PROBLEM: Mapping[str, Schema] = {
    "type": STRING,
    "title": STRING,
    "status": {"type": "integer"},
    "detail": STRING,
    "code": STRING,
}
"""Members of RFC 9457, and ``code``, which is stable and meant for programs."""


def an_object(*required: str, **properties: Schema) -> Schema:
    """An object with these members, and maybe others."""
    return {"type": "object", "required": list(required or properties), "properties": properties}


def a_list(items: Schema) -> Schema:
    """A list of any length."""
    return {"type": "array", "items": items}


TEXT_ERROR: Schema = an_object("error", error=STRING, **PROBLEM)
"""What the Open Inference Protocol, KServe and TF Serving expect."""
HANDLER_ERROR: Schema = {
    "anyOf": [
        an_object("error", error=CODE_AND_MESSAGE),
        an_object("predictions", predictions=a_list(an_object("error", error=CODE_AND_MESSAGE))),
    ]
}
"""Of the handler; the second where every item of a list failed. The gateway's own have RFC 9457's members, too."""

MODEL: Schema = an_object("name", "version", "bundle", name=STRING, version=STRING, bundle=STRING, variant=STRING)
PREDICTIONS: Schema = an_object("predictions", predictions=a_list({}))
"""One for each item, or its error."""
HANDLER_ANSWER: Schema = {"anyOf": [PREDICTIONS, an_object("model", model=MODEL)]}
"""A list for a list; otherwise the prediction's own members, and the model that made it."""

ANY_STATUS = 0
"""In the place of a status: whatever it is, as where a host of models decides."""
HANDLER_STATUSES = (400, 413, 500, 501, 503)
"""With which a handler refuses a request."""


def replies(answer: Schema, error: Schema, media_type: str = JSON) -> dict[int, dict[str, Schema]]:
    """What an operation that asks the handler answers.

    Args:
        answer: schema of a good answer.
        error: schema of the handler's refusals.
        media_type: of a good answer.
    """
    return {200: {media_type: answer}, **{status: {JSON: error} for status in HANDLER_STATUSES}}


def query(name: str, description: str, schema: Schema = STRING, required: bool = False) -> Schema:
    """OpenAPI's description of a parameter of the URL's query."""
    return {"name": name, "in": "query", "required": required, "description": description, "schema": schema}


IMAGE_OR_ROW: Schema = {"description": "an image or a row, in any form that docs/serving.md and docs/tables.md list"}
ANY_BODY: Mapping[str, Schema] = {
    OCTETS: BINARY,
    JSON: IMAGE_OR_ROW,
    "image/*": BINARY,
    "text/csv": STRING,
    "multipart/form-data": {"type": "object", "properties": {"data": BINARY}, "required": ["data"]},
}
"""What a handler takes under ``/predictions``, ``/invocations`` and ``/score``."""
INSTANCES: Schema = {
    "type": "object",
    "anyOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    "properties": {"instances": a_list({}), "inputs": {}, "signature_name": STRING, "parameters": {}},
}
