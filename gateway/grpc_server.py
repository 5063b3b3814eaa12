"""gRPC: one server for all services, and one check for all methods."""

import logging
from collections.abc import Sequence
from typing import Any

import grpc

from marquee.gateway.access_log import LINES, Lines
from marquee.gateway.config import GatewayConfig
from marquee.gateway.doors import grpc_health, oip_grpc, torchserve_grpc, torchserve_management_grpc
from marquee.gateway.doors.rpc import Rpc
from marquee.gateway.errors import INTERNAL, NOT_SUPPORTED, GatewayError, StartError
from marquee.gateway.gateway import Access, Gateway
from marquee.gateway.grpc_methods import CALLER, Methods
from marquee.serving.errors import OperationError

AUTHORIZATION = "authorization"
_PING_MILLISECONDS = 500
"""Clients may ping as often, also without a call under way; TorchServe cuts those that ping every 10 s."""
_SILENT_SECONDS = 60
"""A connection that was silent for so long is asked whether its client is still there."""
_LEAST_STREAMS = 100
"""Calls at a time on one connection, where fewer may wait for a model: probes and streams need places, too."""

logger = logging.getLogger(__name__)


def rpcs(gateway: Gateway) -> list[Rpc]:
    """Every method of every service; TorchServe's own only where it is installed, which has their messages."""
    methods = oip_grpc.rpcs(gateway) + grpc_health.rpcs(gateway)
    try:
        return methods + torchserve_grpc.rpcs(gateway) + torchserve_management_grpc.rpcs(gateway)
    except OperationError as error:
        logger.warning("gRPC without TorchServe's services: %s", error)
        return methods


async def start_grpc(
    gateway: Gateway, address: str, credentials: grpc.ServerCredentials | None, lines: Lines = LINES
) -> "GrpcServer":
    """Starts the server; its caller stops it.

    Args:
        gateway: what answers.
        address: ``HOST:PORT``.
        credentials: certificate and key; None: without TLS.
        lines: the access log.

    Raises:
        StartError: it cannot listen there.
    """
    methods = rpcs(gateway)
    answering = Methods(methods, gateway.config, lines)
    server = grpc.aio.server(
        handlers=[answering],
        interceptors=[Guard(methods, gateway.access, answering)],
        options=_options(gateway.config),
        maximum_concurrent_rpcs=gateway.config.max_connections,
    )
    try:
        if credentials is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartError(f"gRPC cannot listen on {address}: is the port in use?") from error
    await server.start()
    return GrpcServer(server, answering)


class GrpcServer:
    """A server that runs."""

    def __init__(self, server: grpc.aio.Server, answering: Methods) -> None:
        self._server = server
        self._answering = answering

    async def stop(self, seconds: float | None) -> None:
        """Takes no more calls, and returns when those under way have their answers.

        Args:
            seconds: after which they are given up; None: at once.
        """
        self._answering.close_streams()
        await self._server.stop(seconds)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets a call of a method in only where the key in its metadata allows it, before a message is read.

    A method that is not in the table is refused, whoever calls it, and without a key as if it were there.

    Args:
        methods: the table.
        access: the check.
        answering: says no.
    """

    def __init__(self, methods: Sequence[Rpc], access: Access, answering: Methods) -> None:
        self._scopes = {rpc.path: rpc.scope for rpc in methods}
        self._access = access
        self._answering = answering

    async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of one call."""
        path = handler_call_details.method
        try:
            CALLER.set(self._access.caller(_authorization(handler_call_details), self._scopes.get(path, "predict")))
            if path not in self._scopes:
                raise GatewayError(NOT_SUPPORTED, f"{path}: there is no such method")
            return await continuation(handler_call_details)
        except GatewayError as error:
            return self._answering.refusal(path, error)
        except Exception:
            logger.exception("the check of a call failed")
            return self._answering.refusal(path, GatewayError(INTERNAL, "the gateway could not check the request"))


def _authorization(details: grpc.HandlerCallDetails) -> str | None:
    """The first value of the metadata ``authorization``."""
    for name, value in details.invocation_metadata or ():
        if name == AUTHORIZATION:
            return str(value)
    return None


def _options(config: GatewayConfig) -> list[tuple[str, int]]:
    milliseconds = 1_000
    return [
        ("grpc.max_receive_message_length", config.max_request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", max(config.max_waiting, _LEAST_STREAMS)),
        # Two servers that share a port would take each other's clients.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_MILLISECONDS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_time_ms", _SILENT_SECONDS * milliseconds),
        ("grpc.max_connection_idle_ms", int(config.idle_seconds * milliseconds)),
    ]
