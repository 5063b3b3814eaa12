"""The options of marquee serve start and run: of TorchServe, and of the gateway in front of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import tyro

from marquee import hints
from marquee.gateway.config import CorsConfig, GatewayConfig, Routes, TlsConfig
from marquee.serving.defaults import DEFAULT_CONFIG, DEFAULT_STATE

_LAST_PORT = 65_535
Flag = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """TorchServe's."""

    config: Path = DEFAULT_CONFIG
    """TorchServe settings."""
    store: Optional[Path] = None
    """Folder of archives (default: model_store of --config)."""
    state: Path = DEFAULT_STATE
    """Folder for the process record, tokens and logs."""
    port: Optional[int] = None
    """First of five consecutive ports of TorchServe, instead of those of --config."""
    enable_model_api: Flag = False
    """Allow marquee models register and unregister while serving."""
    timeout: float = 300
    """Seconds within which the models must be READY."""

    def check(self, names: Sequence[str], subcommand: str) -> None:
        """Raises ValueError for what is wrong with them, or with the names of the models."""
        if not names:
            raise ValueError(f"no model named; example: {hints.command('serve', subcommand, 'photos')}")
        if self.port is not None and not 1 <= self.port <= _LAST_PORT - 4:
            raise ValueError(f"--port {self.port}: expected 1 to {_LAST_PORT - 4}, the first of five ports")
        if not self.timeout > 0:
            raise ValueError(f"--timeout {self.timeout}: expected seconds above 0")

    def settings(self) -> dict[str, Any]:
        """Arguments of :func:`marquee.serving.prepare.prepare`."""
        return {
            "config": self.config,
            "store": self.store,
            "folder": self.state,
            "port": self.port,
            "settings": {"enable_model_api": "true"} if self.enable_model_api else None,
        }


@dataclass(frozen=True, kw_only=True)
class GatewayOptions:
    """The gateway's; they need --gateway."""

    gateway: Annotated[Optional[int], tyro.conf.arg(metavar="PORT")] = None
    """Put the gateway in front of TorchServe, and keep TorchServe alive: Open Inference Protocol, KServe, TF Serving,
    SageMaker, Azure ML, Vertex AI and TorchServe's own API at this port (0: a free one), gRPC at the port after it."""
    gateway_grpc: Annotated[Optional[int], tyro.conf.arg(metavar="PORT")] = None
    """Port of gRPC, instead of the one after --gateway."""
    gateway_host: str = GatewayConfig.host
    """Address to listen on; 0.0.0.0 for all of this machine's."""
    tls_certificate: Optional[Path] = None
    """PEM file with the certificate of the gateway: TLS 1.3 for all doors."""
    tls_key: Optional[Path] = None
    """PEM file with its private key."""
    tls_client_authority: Optional[Path] = None
    """PEM file with the authority whose certificates clients must have."""
    cors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ORIGIN")] = ()
    """Web pages that may call the gateway from a browser, such as https://example.org."""
    graphql: Flag = False
    """Open /graphql, too."""
    keys: Optional[Path] = None
    """File of the clients' keys (default: keys.json in --state); marquee keys changes it at any time."""
    no_keys: Flag = False
    """Ask for no key: everybody who reaches the gateway may do everything."""
    access_log: Literal["logfmt", "json", "none"] = "logfmt"
    """A line for each request, without secrets: its notation, or none."""
    drain: float = GatewayConfig.drain_seconds
    """Seconds that requests under way may take after SIGTERM."""
    lame_duck: float = GatewayConfig.lame_duck_seconds
    """Seconds for which new requests are still taken after SIGTERM, while the probes say not ready."""

    def to_config(self, state: Path, names: Sequence[str]) -> GatewayConfig | None:
        """The configuration; None without --gateway.

        Args:
            state: the state folder.
            names: of the models, as they were named.

        Raises:
            ValueError: options contradict each other, or have values that cannot be used.
        """
        if self.gateway is None:
            for option in fields(self):
                if getattr(self, option.name) != option.default:
                    raise ValueError(f"--{option.name.replace('_', '-')} is the gateway's; add --gateway PORT")
            return None
        if self.gateway == _LAST_PORT and self.gateway_grpc is None:
            raise ValueError(f"--gateway {self.gateway}: there is no port after it for gRPC; name it: --gateway-grpc")
        if self.keys is not None and self.no_keys:
            raise ValueError("--keys and --no-keys: choose one")
        from marquee.gateway.access.keys import KEYS_FILE

        return GatewayConfig(
            host=self.gateway_host,
            port=self.gateway,
            grpc_port=self.gateway_grpc,
            model=names[0].partition("=")[0].removesuffix(".mar") if len(names) > 1 else None,
            keys=None if self.no_keys else (self.keys or state / KEYS_FILE).absolute(),
            routes=Routes.from_environment(),
            tls=self._tls(),
            cors=CorsConfig(origins=self.cors),
            graphql=self.graphql,
            drain_seconds=self.drain,
            lame_duck_seconds=self.lame_duck,
        )

    def _tls(self) -> TlsConfig | None:
        if self.tls_certificate is None and self.tls_key is None:
            if self.tls_client_authority is not None:
                raise ValueError("--tls-client-authority: needs --tls-certificate and --tls-key, too")
            return None
        if self.tls_certificate is None or self.tls_key is None:
            raise ValueError("--tls-certificate and --tls-key: name both, or none")
        return TlsConfig(certificate=self.tls_certificate, key=self.tls_key, client_authority=self.tls_client_authority)


def port_of_platform() -> int | None:
    """The port that Vertex AI sets in a container, ``AIP_HTTP_PORT``; None elsewhere.

    Raises:
        ValueError: it is no port.
    """
    text = os.environ.get("AIP_HTTP_PORT")
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= _LAST_PORT:
        raise ValueError(f"AIP_HTTP_PORT={text}: expected a port")
    return int(text)
