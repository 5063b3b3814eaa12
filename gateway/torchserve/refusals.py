"""What TorchServe itself answers, in place of the handler, in the words of the gateway.

Its refusals are ``{"code": 503, "type": "...Exception", "message": "..."}``. Their types tell more than their statuses:
503 with one type is a full queue, with another a worker that failed. Seen with TorchServe 0.12.0.
"""

import json
from dataclasses import dataclass
from typing import Any

from marquee.gateway.backend import AbsentError, FullError, LostError, Reply, UnreachedError

ABSENT = frozenset({"ModelNotFoundException", "ModelVersionNotFoundException"})
TOKEN = frozenset({"InvalidKeyException"})
FULL = frozenset({"ServiceUnavailableException"})
"""``Model "x" Version 1.0 has no worker to serve inference request``: this is what a full queue is told, too."""
FAILED = frozenset({"InternalServerException"})
"""The worker died or was scaled down, its answer was none, or the handler raised."""
OUT_OF_MEMORY = 507
TOO_LARGE = 413


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One of TorchServe's own."""

    status: int
    type: str
    """Name of a Java class."""
    message: str


def read_refusal(status: int, body: bytes) -> Refusal | None:
    """A refusal of the front end; None where the body is the handler's.

    Args:
        status: of the answer.
        body: of the answer.
    """
    if status < 400 or b'"type"' not in body[:4096]:
        return None
    try:
        document: Any = json.loads(body)
    except ValueError:
        return None
    if not isinstance(document, dict) or set(document) != {"code", "type", "message"}:
        return None
    return Refusal(status=status, type=str(document["type"]), message=str(document["message"]).partition("\n")[0])


def translate(refusal: Refusal, has_workers: bool) -> Reply:
    """The refusal as a reply of the handler's form.

    Args:
        refusal: of the front end.
        has_workers: whether the version has workers, of whatever state: if so, "no worker" means a full queue.

    Raises:
        AbsentError: the model or the version is not there.
        FullError: the queue is full.
        LostError: nothing was answered, and the request may be sent again.
    """
    if refusal.type in ABSENT:
        raise AbsentError(refusal.message)
    if refusal.type in FULL:
        if has_workers:
            raise FullError("the queue is full")
        raise UnreachedError(refusal.message)
    if refusal.type in FAILED or refusal.status == OUT_OF_MEMORY:
        raise LostError(f"{refusal.status}: {refusal.message}")
    return refuse(refusal.status, f"http_{refusal.status}", refusal.message)


def too_large(size: int, largest: int) -> Reply:
    """The reply to a request that TorchServe would reset the connection for."""
    message = f"the request has {size} bytes; the server takes at most {largest} (its max_request_size)"
    return refuse(TOO_LARGE, "too_large", message)


def refuse(status: int, code: str, message: str) -> Reply:
    """A reply of the handler's form."""
    body = json.dumps({"error": {"code": code, "message": message}}, ensure_ascii=False).encode()
    return Reply(status=status, body=body)
