"""The gateway's addresses, taken before TorchServe is started, and closed to newcomers at the end.

A start that cannot succeed should not take minutes.
"""

import ctypes
import resource
import socket
import struct
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from marquee.gateway.config import GatewayConfig
from marquee.gateway.errors import StartError

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - where a client of this machine finds it
_SO_ATTACH_FILTER = 26
"""Linux's number, which Python's socket module does not name."""
_DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
"""Classic BPF, as (code, jump if true, jump if false, constant): loads byte 13 of the TCP header, which holds the
flags, drops the packet if SYN is among them, and lets any other pass."""
_OTHER_FILES = 512
"""Descriptors that are not for connections of clients: those to TorchServe, logs, sockets of gRPC."""


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Both addresses."""

    socket: socket.socket
    """For HTTP: bound, and not listening yet."""
    http: str
    """URL of the HTTP doors, for clients on this machine."""
    grpc_address: str
    """``HOST:PORT`` for gRPC to listen on."""
    grpc: str
    """``HOST:PORT`` of the gRPC door, for clients on this machine."""


def bind(config: GatewayConfig) -> Listeners:
    """Takes the address of HTTP, and makes sure that the one of gRPC is free.

    Raises:
        StartError: one of them is taken, or none of this machine's.
    """
    bound = _bound(config.host, config.port)
    try:
        port = bound.getsockname()[1]
        # gRPC makes its socket itself.
        wanted = config.grpc_port if config.grpc_port is not None else port + 1 if config.port else 0
        with closing(_bound(config.host, wanted)) as probe:
            probe.listen()  # only then the system says that somebody else listens
            grpc_port = probe.getsockname()[1]
    except BaseException:
        bound.close()
        raise
    near = _EVERYWHERE.get(config.host, config.host)
    return Listeners(
        socket=bound,
        http=f"{'https' if config.tls else 'http'}://{_join(near, port)}",
        grpc_address=_join(config.host, grpc_port),
        grpc=_join(near, grpc_port),
    )


def take_no_more(listener: socket.socket) -> None:
    """Lets a listening socket take no new connections, while those that wait in its queue can still be accepted.

    Who connects between the last accept and the close of the socket would be connected and then cut off, without
    knowing what became of the request. Here the first packet of such a connection is dropped; the client's system
    sends it again after a second, when the socket is closed, and is refused. Where the system has no such filters,
    as those other than Linux, nothing is done.

    Args:
        listener: of TCP.
    """
    if sys.platform == "linux":
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _DROP_SYN))
        program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(code))
        with suppress(OSError):  # in a sandbox that does not know them
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def raise_file_limit() -> int:
    """Lets this process open as many files as it may; returns how many connections of clients that is enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(hard - _OTHER_FILES, _OTHER_FILES) if hard != resource.RLIM_INFINITY else 1 << 30


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = _resolve(host, port)[0]
        created = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"--gateway-host {host}: {error.strerror}") from error
    try:
        created.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            created.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        created.bind(address)
    except OSError as error:
        created.close()
        raise StartError(
            f"the gateway cannot listen on {_join(host, port)}: {error.strerror}; choose another port with --gateway"
        ) from error
    return created


def _resolve(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
