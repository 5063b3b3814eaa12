"""The answer to a request, the same over REST and gRPC, also where the front end itself refuses.

Its refusals have another shape than the handler's answers, and over gRPC other codes than over REST; over neither do
they say how large a request may be.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from marquee.serving.errors import OperationError
from marquee.serving.properties import read_properties

DEFAULT_LARGEST = 6_553_500
"""Bytes of a request that TorchServe takes where ``max_request_size`` is not set."""

_ABSENT = re.compile(r"Model not found: |Model version: .* does not exist for model: ")
_EXCEEDS = re.compile("gRPC message exceeds maximum size|message larger than max")  # of Java, of Python
_NOT_FOUND, _TOO_LARGE, _UNAVAILABLE = 404, 413, 503
_OF_GATEWAY = {
    "rate_limited": 429,
    "bad_request": 400,
    "not_found": _NOT_FOUND,
    "too_large": _TOO_LARGE,
    "request_too_slow": 408,
    "not_supported": 501,
    "busy": _UNAVAILABLE,
    "not_ready": _UNAVAILABLE,
    "no_answer": 504,
    "internal_error": 500,
}
"""A gateway's refusals by their code, with their status over REST."""


@dataclass(frozen=True)
class Answer:
    """The server's answer to one request."""

    status: int
    """HTTP status; over gRPC 200, or the status of the same failure over REST."""
    body: dict[str, Any]
    """The JSON body: the result, or ``{"error": {"code", "message"}}``."""

    @property
    def error(self) -> str | None:
        """``code: message``; None when the request succeeded."""
        if self.status == requests.codes.ok and "error" not in self.body:
            return None
        # A list is a failure only where none of its items succeeded; the first says why.
        first: dict[str, Any] = next(iter(self.body.get("predictions", [])), {})
        error = self.body.get("error") or first.get("error")
        return f"{error.get('code')}: {error.get('message')}" if error else f"{self.status}: {self.body}"


def largest_request(properties: Path) -> int | None:
    """The bytes that a request to a server may have, by its configuration file; None where it cannot be read."""
    try:
        return int(read_properties(properties).get("max_request_size", DEFAULT_LARGEST))
    except (OperationError, ValueError):
        return None


def rest_answer(response: requests.Response, largest: int | None) -> Answer:
    """What came over REST; a refusal gets the shape of the handler's.

    Args:
        response: as it came.
        largest: see :func:`largest_request`.
    """
    status = response.status_code
    try:
        body = response.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and ("error" in body or "predictions" in body or status == requests.codes.ok):
        return Answer(status, body)
    if status == _TOO_LARGE:
        return _too_large(len(response.request.body or b""), largest)
    return _refusal(status, f"http_{status}", message_of(response))


def message_of(response: requests.Response) -> str:
    """What the front end says about a request that it refuses."""
    try:
        body = response.json()
        return str(body.get("message") or body.get("detail") or body.get("status") or body)
    except (ValueError, AttributeError):
        return response.text.strip() or response.reason


def grpc_refusal(code: str, details: str, sent: int, largest: int | None) -> Answer:
    """What came over gRPC in place of an answer, as it would be over REST.

    Args:
        code: name of the gRPC status, such as ``INTERNAL``.
        details: its message.
        sent: bytes of the request.
        largest: see :func:`largest_request`.
    """
    if _ABSENT.match(details):
        return _refusal(_NOT_FOUND, f"http_{_NOT_FOUND}", details)
    # The server resets the stream of a request that is too large, and does not say why.
    is_reset = code == "CANCELLED" and "RST_STREAM" in details
    if (is_reset and sent > (largest or DEFAULT_LARGEST)) or _EXCEEDS.search(details):
        return _too_large(sent, largest)
    return _refusal(_UNAVAILABLE, code.lower(), details)


def gateway_refusal(trailing: Iterable[tuple[str, Any]] | None, details: str) -> Answer | None:
    """What a gateway refused over gRPC, as it would be over REST; None where it was not a gateway.

    Args:
        trailing: the call's trailing metadata.
        details: its message.
    """
    code = next((str(value) for name, value in trailing or () if name == "error-code"), None)
    return None if code not in _OF_GATEWAY else _refusal(_OF_GATEWAY[code], code, details)


def _too_large(sent: int, largest: int | None) -> Answer:
    most = "less" if largest is None else f"at most {largest}"
    message = f"the request has {sent} bytes; the server takes {most} (its max_request_size)"
    return _refusal(_TOO_LARGE, "too_large", message)


def _refusal(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message.partition("\n")[0]}})
