"""The gateway's settings, checked when they are made."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """TLS 1.3 for all doors."""

    certificate: Path
    """PEM file: the gateway's certificate, followed by those that sign it."""
    key: Path
    """PEM file: its private key."""
    client_authority: Path | None = None
    """PEM file: only clients with a certificate of this authority may connect. None: clients need none."""

    def __post_init__(self) -> None:
        for name in ("certificate", "key", "client_authority"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise ValueError(f"{name}: {path}: no such file")


@dataclass(frozen=True, kw_only=True)
class CorsConfig:
    """Which web pages may call the gateway from a browser."""

    origins: tuple[str, ...] = ()
    """Such as ``https://example.org``; none: no page of another origin."""

    def __post_init__(self) -> None:
        for origin in self.origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise ValueError(
                    f"origins: {origin!r}: expected a scheme and a host, such as https://example.org, or *"
                )


@dataclass(frozen=True, kw_only=True)
class Routes:
    """Paths that a platform chooses; see :meth:`from_environment`."""

    predict: str = "/vertex/predict"
    """Vertex AI's route of predictions; without the name of a model."""
    health: str = "/vertex/health"
    """Vertex AI's route of probes."""

    def __post_init__(self) -> None:
        for name in ("predict", "health"):
            path = getattr(self, name)
            if not path.startswith("/") or any(mark in path for mark in "{}?# "):
                raise ValueError(f"{name}: {path!r}: expected an absolute path, such as /predict")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Routes":
        """As ``AIP_PREDICT_ROUTE`` and ``AIP_HEALTH_ROUTE`` name them, which Vertex AI sets in a container."""
        variables = os.environ if environment is None else environment
        named = {"predict": variables.get("AIP_PREDICT_ROUTE"), "health": variables.get("AIP_HEALTH_ROUTE")}
        return cls(**{name: path for name, path in named.items() if path})


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """One gateway."""

    host: str = "127.0.0.1"
    port: int = 8090
    """REST, probes, documentation and GraphQL."""
    grpc_port: int | None = None
    """gRPC; None: the port after ``port``. 0 with ``port`` 0: a free one."""
    model: str | None = None
    """Whose answers the routes without a model's name give (``/invocations``, ``/score``, Vertex AI's); None: the
    only one, else the first that was named at the start."""
    keys: Path | None = None
    """The file of keys; None: everyone may do everything, which is for tests on a machine of one's own only."""
    routes: Routes = field(default_factory=Routes)
    tls: TlsConfig | None = None
    cors: CorsConfig = field(default_factory=CorsConfig)
    graphql: bool = False
    max_request_bytes: int = 33_554_432
    """As in ``config.properties``."""
    request_seconds: float = 60.0
    """Until when a request is answered, where the client names no deadline of its own."""
    body_seconds: float = 30.0
    """Until when a request's body has arrived."""
    idle_seconds: float = 75.0
    """How long a connection without a request is kept."""
    max_connections: int = 4_096
    """HTTP connections at a time; more are closed."""
    max_waiting: int = 256
    """Requests under way to one version; more are refused at once with 503 and Retry-After."""
    lame_duck_seconds: float = 0.0
    """How long requests are still taken after SIGTERM, while the probes say that the gateway is not ready."""
    drain_seconds: float = 30.0
    """How long requests under way may take after SIGTERM; the process ends then in any case."""

    def __post_init__(self) -> None:
        for name in ("port", "grpc_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port <= 65_535:
                raise ValueError(f"{name}: expected 0 to 65535, got {port}")
        for name in ("max_request_bytes", "request_seconds", "body_seconds", "idle_seconds", "max_connections"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        for name in ("lame_duck_seconds", "drain_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {getattr(self, name)}")
        if self.max_waiting < 1:
            raise ValueError(f"max_waiting: expected at least 1, got {self.max_waiting}")
