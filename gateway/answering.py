"""What happens around every operation, in one place: who may come in, the client that goes away, errors as answers."""

import asyncio
import logging
import math
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from marquee.gateway import metrics
from marquee.gateway.access.caller import Caller
from marquee.gateway.doors.json_answer import dump
from marquee.gateway.doors.operation import Operation, protocol_error
from marquee.gateway.errors import (
    BUSY,
    FORBIDDEN,
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NO_ANSWER,
    NOT_FOUND,
    NOT_READY,
    TOO_SLOW,
    UNAUTHENTICATED,
    GatewayError,
)
from marquee.gateway.gateway import Gateway
from marquee.gateway.incoming import Incoming, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
_SMALL = 1_048_576
"""Bytes of a refused body that are read first: most have arrived by then, and the connection can be kept."""
_SECONDS = 1.0
_LINGER_SECONDS = 5.0
"""How long the rest of a refused body is read after the answer was sent."""
_COUNTED_ELSEWHERE = frozenset({NOT_FOUND.code, BUSY.code, NOT_READY.code, NO_ANSWER.code})
"""By what delivers calls."""


class Answering:
    """Answers all requests to one path; an ASGI application.

    Args:
        gateway: whose access counts.
        operations: of this path, each with methods of its own.

    Raises:
        ValueError: two of them have the same method.
    """

    def __init__(self, gateway: Gateway, operations: Sequence[Operation]) -> None:
        self._gateway = gateway
        self._operations: dict[str, Operation] = {}
        for operation in operations:
            for method in operation.methods:
                if method in self._operations:
                    raise ValueError(f"{method} {operation.path}: is there twice")
                self._operations[method] = operation
        if "GET" in self._operations:
            self._operations.setdefault("HEAD", self._operations["GET"])
        self._is_public = any(operation.scope is None for operation in operations)

    @property
    def methods(self) -> tuple[str, ...]:
        """What is allowed."""
        return tuple(sorted(self._operations))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        incoming = Incoming(scope, receive)
        request = Request(scope, incoming.receive)
        operation = self._operations.get(scope["method"])
        try:
            try:
                response = await self._answer(request, operation)
            except GatewayError as error:
                response = self._refuse(error, operation)
                incoming.is_given_up = error.kind is TOO_SLOW
            finally:
                incoming.release()
            if incoming.is_complete:
                await response(scope, incoming.receive, send)
            else:
                await self._answer_early(response, incoming, send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            if not incoming.is_gone:
                raise

    async def _answer(self, request: Request, operation: Operation | None) -> Response:
        authorization = request.headers.get("authorization")
        if operation is None:
            self._ask_for_a_key(authorization)
            if not self._operations:
                raise GatewayError(NOT_FOUND, "there is nothing at this path; GET /docs lists what there is")
            allowed = ", ".join(self.methods)
            raise GatewayError(METHOD_NOT_ALLOWED, f"this path takes {allowed}")
        caller: Caller = self._gateway.access.caller(authorization, operation.scope)
        request.state.caller = caller
        try:
            return await operation.endpoint(request)
        except (GatewayError, ClientDisconnect):
            raise
        except Exception as error:
            logger.exception("%s %s failed", request.method, operation.path)
            raise GatewayError(INTERNAL, "the gateway could not answer this request") from error

    def _ask_for_a_key(self, authorization: str | None) -> None:
        """Any valid key is enough to learn what there is."""
        if self._is_public:
            return
        try:
            self._gateway.access.caller(authorization, "predict")
        except GatewayError as error:
            if error.kind is not FORBIDDEN:
                raise

    def _refuse(self, error: GatewayError, operation: Operation | None) -> Response:
        kind = error.kind
        if kind.code not in _COUNTED_ELSEWHERE:
            metrics.count_refused(kind.code)
        headers = {}
        if error.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
        if kind is UNAUTHENTICATED:
            headers["WWW-Authenticate"] = "Bearer"
        if kind is METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(self.methods)
        document = (protocol_error if operation is None else operation.refusal)(error)
        media_type = PROBLEM if operation is None else "application/json"
        return Response(dump(document), kind.status, headers, media_type)

    async def _answer_early(self, response: Response, incoming: Incoming, send: Send) -> None:
        """Sends an answer before the body has arrived."""
        await incoming.discard(_SMALL, _SECONDS)
        if incoming.is_gone:
            return
        headers = list(response.raw_headers)
        if not incoming.is_complete:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        body: Message = {"type": "http.response.body", "body": response.body}
        if not incoming.is_complete:
            await send({**body, "more_body": True})
            await incoming.discard(2 * self._gateway.config.max_request_bytes, _LINGER_SECONDS)
            body = {"type": "http.response.body", "body": b""}
        await send(body)


class Unknown(Answering):
    """Answers requests to paths that nobody serves.

    Args:
        gateway: whose access counts.
    """

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway, [])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
        else:
            await super().__call__(scope, receive, send)
