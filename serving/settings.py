"""TorchServe's addresses, as a ``config.properties`` names them."""

import secrets
import socket
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlsplit

from marquee.serving.errors import OperationError
from marquee.serving.properties import read_properties

__all__ = ["PORT_KEYS", "Addresses", "read_addresses", "read_properties"]

PORT_KEYS = ("inference", "management", "metrics", "grpc_inference", "grpc_management")


@dataclass(frozen=True)
class Addresses:
    """Where a server listens: URLs for REST, ``host:port`` for gRPC."""

    inference: str = "http://127.0.0.1:8080"
    management: str = "http://127.0.0.1:8081"
    metrics: str = "http://127.0.0.1:8082"
    grpc_inference: str = "127.0.0.1:7070"
    grpc_management: str = "127.0.0.1:7071"

    def shifted(self, base: int) -> "Addresses":
        """The same hosts on five consecutive ports from ``base``."""
        addresses = {}
        for offset, (name, address) in enumerate(asdict(self).items()):
            prefix, _, _ = address.rpartition(":")
            addresses[name] = f"{prefix}:{base + offset}"
        return replace(self, **addresses)

    @classmethod
    def beside(cls, inference: str, management: str | None = None, grpc: str | None = None) -> "Addresses":
        """The addresses of a server whose inference API is known.

        Args:
            inference: URL of the inference API.
            management: URL of the management API; None: the port after that of ``inference``.
            grpc: ``HOST:PORT`` of the gRPC inference API; None: TorchServe's default, 7070, if the port of
                ``inference`` is 8080, else the third port after it, as in :meth:`shifted`.

        Raises:
            OperationError: ``inference`` is not a URL.
        """
        scheme, url, host, port = _split(inference)
        first_grpc = 7070 if port == 8080 else port + 3
        return cls(
            inference=url,
            management=(management or f"{scheme}://{host}:{port + 1}").rstrip("/"),
            metrics=f"{scheme}://{host}:{port + 2}",
            grpc_inference=grpc or f"{host}:{first_grpc}",
            grpc_management=f"{host}:{first_grpc + 1}",
        )

    @classmethod
    def of_gateway(cls, url: str, grpc: str | None = None) -> "Addresses":
        """The addresses of a gateway, which has everything over HTTP at one port.

        Args:
            url: of the gateway.
            grpc: its ``HOST:PORT`` of gRPC; None: the port after that of ``url``.

        Raises:
            OperationError: ``url`` is not a URL.
        """
        _, url, host, port = _split(url)
        grpc = grpc or f"{host}:{port + 1}"
        return cls(inference=url, management=url, metrics=url, grpc_inference=grpc, grpc_management=grpc)

    @classmethod
    def free(cls, start: int | None = None) -> "Addresses":
        """Loopback addresses on which nothing listens.

        Args:
            start: the first port to try; None: a random one, so that two processes that search at the same time
                hardly ever find the same.

        Raises:
            OperationError: there are none between ``start`` and 65,000.
        """
        if start is None:
            start = 18_080 + len(PORT_KEYS) * secrets.randbelow(1_000)
        for base in range(start, 65_000, len(PORT_KEYS)):
            if not (addresses := cls().shifted(base)).taken():
                return addresses
        raise OperationError(f"no five free ports in a row from {start}")

    @property
    def base_port(self) -> int:
        """The port of ``inference``, the first of the five ports that :meth:`shifted` gives."""
        return int(self.inference.rpartition(":")[2])

    def as_properties(self) -> dict[str, str]:
        """These addresses as keys of ``config.properties``."""
        properties = {f"{name}_address": getattr(self, name) for name in ("inference", "management", "metrics")}
        for name in ("grpc_inference", "grpc_management"):
            host, _, port = getattr(self, name).rpartition(":")
            properties |= {f"{name}_address": host, f"{name}_port": port}
        return properties

    def taken(self) -> list[str]:
        """The addresses on which something already listens."""
        return [address for address in asdict(self).values() if _is_taken(address)]


def read_addresses(properties: dict[str, str]) -> Addresses:
    """The addresses that TorchServe reads from ``properties``, with its defaults for absent keys."""
    default = Addresses()
    grpc = {}
    for name in ("grpc_inference", "grpc_management"):
        host, _, port = getattr(default, name).rpartition(":")
        grpc[name] = f"{properties.get(f'{name}_address', host)}:{properties.get(f'{name}_port', port)}"
    urls = {
        name: properties.get(f"{name}_address", getattr(default, name)).rstrip("/")
        for name in ("inference", "management", "metrics")
    }
    return Addresses(**urls, **grpc)


def _split(url: str) -> tuple[str, str, str, int]:
    """Scheme, the whole URL, the host as in it, and the port."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host = None
    if parts.scheme not in ("http", "https") or not host:
        raise OperationError(f"{url}: expected the URL of a server, such as http://127.0.0.1:8080")
    whole = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    return parts.scheme, whole, f"[{host}]" if ":" in host else host, port


def _is_taken(address: str) -> bool:
    parts = urlsplit(address if "://" in address else f"//{address}")
    # A server that listens on all interfaces is reachable at the loopback address.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname or "", parts.hostname or "127.0.0.1")  # noqa: S104
    try:
        with socket.create_connection((host, parts.port or 80), timeout=1):
            return True
    except OSError:
        return False
