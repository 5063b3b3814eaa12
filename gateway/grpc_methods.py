"""What happens around every call over gRPC: reading within limits, errors as statuses, and the access log."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message

from marquee.gateway import metrics
from marquee.gateway.access.caller import Caller
from marquee.gateway.access_log import Lines
from marquee.gateway.config import GatewayConfig
from marquee.gateway.deadline import timeout
from marquee.gateway.doors.rpc import Rpc, Visit
from marquee.gateway.errors import BAD_REQUEST, INTERNAL, NOT_READY, TOO_LARGE, TOO_SLOW, GatewayError

RETRY_AFTER = "retry-after"
"""Trailing metadata of a refused call that may be sent again: after so many whole seconds."""
CODE = "error-code"
"""Trailing metadata of a refused call: :attr:`marquee.gateway.errors.Kind.code`."""
LONGEST_WORDS = 600
"""Characters of a status's message: in UTF-8, with each byte written as three, they fit into the 8 KiB of metadata that
clients take."""
CALLER: ContextVar[Caller] = ContextVar("caller")
"""Who the call that runs is from: set by the check, and by nothing else; a call without it is not answered."""

logger = logging.getLogger(__name__)

Context = Any
"""``grpc.aio.ServicerContext``."""


class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers the methods that it is given, and no others.

    Messages arrive here as bytes, one by one: so the time that a body may take is limited for methods of one message,
    too, and a message that cannot be read gets a status that says so. On the wire nothing differs.

    Args:
        rpcs: the methods.
        config: limits.
        lines: the access log.
    """

    def __init__(self, rpcs: Sequence[Rpc], config: GatewayConfig, lines: Lines) -> None:
        self._rpcs: Mapping[str, Rpc] = {rpc.path: rpc for rpc in rpcs}
        self._config = config
        self._lines = lines
        self._closing = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of one call; None for a method that is not here."""
        rpc = self._rpcs.get(handler_call_details.method)
        if rpc is None:
            return None
        if rpc.unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._unary(rpc))
        return grpc.stream_stream_rpc_method_handler(self._streaming(rpc))

    def close_streams(self) -> None:
        """Streams answer what they have read, and end: one that waits for its client would hold the process up."""
        self._closing.set()

    def refusal(self, path: str, error: GatewayError) -> Any:
        """A handler that refuses a call of any method, before any of its messages is read."""

        async def answer(messages: AsyncIterator[bytes], context: Context) -> bytes:
            metrics.count_refused(error.kind.code)
            with self._logged(path, context) as traffic:
                await _refuse(context, error, traffic)

        return grpc.stream_unary_rpc_method_handler(answer)

    def _unary(self, rpc: Rpc) -> Callable[[AsyncIterator[bytes], Context], Any]:
        assert rpc.unary is not None  # noqa: S101
        endpoint = rpc.unary

        async def answer(messages: AsyncIterator[bytes], context: Context) -> bytes:
            with self._logged(rpc.path, context) as traffic:
                try:
                    request = await self._only_message(rpc, messages, context, traffic)
                    return traffic.send(await endpoint(request, Visit(caller=CALLER.get(), context=context)))
                except GatewayError as error:
                    await _refuse(context, error, traffic)
                except Exception:
                    logger.exception("%s failed", rpc.path)
                    await _refuse(context, _failed(), traffic)

        return answer

    def _streaming(self, rpc: Rpc) -> Callable[[AsyncIterator[bytes], Context], Any]:
        assert rpc.streaming is not None  # noqa: S101
        endpoint = rpc.streaming

        async def answer(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            with self._logged(rpc.path, context) as traffic:
                try:
                    requests = self._messages(rpc, messages, traffic)
                    async for message in endpoint(requests, Visit(caller=CALLER.get(), context=context)):
                        yield traffic.send(message)
                except GatewayError as error:
                    await _refuse(context, error, traffic)
                except Exception:
                    logger.exception("%s failed", rpc.path)
                    await _refuse(context, _failed(), traffic)

        return answer

    async def _only_message(
        self, rpc: Rpc, messages: AsyncIterator[bytes], context: Context, traffic: "_Traffic"
    ) -> Message:
        """The message of a call that has one."""
        try:
            return _parse(rpc, await _first(messages, context, self._config), traffic)
        except GatewayError as error:
            metrics.count_refused(error.kind.code)
            raise

    async def _messages(self, rpc: Rpc, messages: AsyncIterator[bytes], traffic: "_Traffic") -> AsyncIterator[Message]:
        """The messages of a stream, until its client has sent them all, or :meth:`close_streams`."""
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            while True:
                reading = asyncio.ensure_future(anext(messages))
                try:
                    await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not reading.done():
                        reading.cancel()
                if closing.done():
                    raise GatewayError(NOT_READY, "the gateway is about to stop", retry_after=1.0)
                try:
                    content = reading.result()
                except StopAsyncIteration:
                    return
                yield _parse(rpc, content, traffic)
        finally:
            closing.cancel()

    @contextmanager
    def _logged(self, path: str, context: Context) -> Iterator["_Traffic"]:
        """Logs a call when it has ended."""
        traffic, begin, peer = _Traffic(), time.perf_counter(), context.peer()
        try:
            yield traffic
        except asyncio.CancelledError:
            traffic.status = "-"
            raise
        finally:
            self._lines.write_rpc(
                path,
                traffic.status,
                peer=peer,
                received=traffic.received,
                sent=traffic.sent,
                seconds=time.perf_counter() - begin,
                caller=CALLER.get(None),
                request_id=_request_id(context),
            )


class _Traffic:
    """What went over the wire in one call."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.status = "OK"

    def send(self, message: Message) -> bytes:
        content = message.SerializeToString()
        self.sent += len(content)
        return content


def _request_id(context: Context) -> str | None:
    return next((str(value) for name, value in context.invocation_metadata() or () if name == "x-request-id"), None)


def _parse(rpc: Rpc, content: bytes, traffic: _Traffic) -> Message:
    traffic.received += len(content)
    try:
        return rpc.request.FromString(content)
    except DecodeError as error:
        raise GatewayError(BAD_REQUEST, f"not a message of the type {rpc.request.DESCRIPTOR.full_name}") from error


async def _first(messages: AsyncIterator[bytes], context: Context, config: GatewayConfig) -> bytes:
    """The message of a call that has one."""
    try:
        async with timeout(config.body_seconds):
            return await anext(messages)
    except asyncio.TimeoutError as error:
        raise GatewayError(TOO_SLOW, f"the request did not arrive within {config.body_seconds:g} s") from error
    except StopAsyncIteration as error:
        if not context.peer():  # gRPC has ended the call itself, and told the client: the message is too large
            raise GatewayError(TOO_LARGE, f"at most {config.max_request_bytes} bytes") from error
        raise GatewayError(BAD_REQUEST, "the call has no message") from error


async def _refuse(context: Context, error: GatewayError, traffic: _Traffic) -> NoReturn:
    """Ends a call with the status that belongs to an error."""
    traffic.status = error.kind.grpc
    trailing = [(CODE, error.kind.code)]
    if error.retry_after is not None:
        trailing.append((RETRY_AFTER, str(math.ceil(error.retry_after))))
    await context.abort(grpc.StatusCode[error.kind.grpc], words_of(error), tuple(trailing))
    raise AssertionError("abort always raises")


def words_of(error: GatewayError) -> str:
    """An error's message as a status has it: short, whatever a client's names are, and text that UTF-8 can write."""
    text = error.message.encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST_WORDS else text[: LONGEST_WORDS - 3] + "..."


def _failed() -> GatewayError:
    return GatewayError(INTERNAL, "the gateway could not answer the request")
