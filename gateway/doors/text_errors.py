"""The handler's refusals in the words of protocols whose errors are a text."""

import json
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from marquee.gateway.backend import Reply
from marquee.gateway.doors.json_answer import JSON, dump


def text_error(reply: Reply) -> Reply:
    """A refusal with ``error`` as a text, beside RFC 9457's members; ``predictions`` stay, with each item's error.

    Args:
        reply: with a status of at least 400.
    """
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        document = None
    document = document if isinstance(document, dict) else {}
    code, message = _find(document)
    error = message or f"the model's host answered with the status {reply.status}"
    answer: dict[str, Any] = {
        "error": error,
        "type": "about:blank",
        "title": HTTPStatus(reply.status).phrase,
        "status": reply.status,
        "detail": error,
        "code": code or f"http_{reply.status}",
    }
    if isinstance(document.get("predictions"), list):
        answer["predictions"] = document["predictions"]
    return replace(reply, body=dump(answer), content_type=JSON)


def _find(document: dict[str, Any]) -> tuple[str | None, str | None]:
    """Code and message of the handler's error, of the first item's, or of the host itself."""
    error = document.get("error")
    if isinstance(error, str):
        return None, error
    predictions = document.get("predictions")
    if error is None and isinstance(predictions, list):
        failed = [entry["error"] for entry in predictions if isinstance(entry, dict) and "error" in entry]
        error = failed[0] if failed else None
    if isinstance(error, dict):
        return error.get("code"), error.get("message")
    message = document.get("message")
    return None, message if isinstance(message, str) else None
