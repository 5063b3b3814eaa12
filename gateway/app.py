"""The doors over HTTP as one ASGI application."""

from collections.abc import Callable

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router

from marquee.gateway.access_log import AccessLog
from marquee.gateway.answering import Answering, Unknown
from marquee.gateway.doors import (
    azure,
    documentation,
    graphql,
    health,
    oip_rest,
    sagemaker,
    torchserve_management,
    torchserve_rest,
    v1,
    vertex,
)
from marquee.gateway.doors.operation import Operation
from marquee.gateway.gateway import Gateway
from marquee.gateway.headers import Headers
from marquee.gateway.incoming import App, Receive, Scope, Send

Door = Callable[[Gateway], list[Operation]]

# Routes are tried in this order: what a platform chose comes first, what takes nearly everything comes last.
_DOORS: tuple[Door, ...] = (
    vertex.operations,
    torchserve_rest.operations,
    oip_rest.operations,
    sagemaker.operations,
    v1.operations,
    azure.operations,
    health.operations,
    graphql.operations,
    torchserve_management.operations,
    documentation.operations,
    torchserve_rest.legacy_operations,
)

_CLIENT_HEADERS = (
    "Accept",
    "Authorization",
    "Content-Encoding",
    "Content-Type",
    "Inference-Header-Content-Length",
    "traceparent",
    "tracestate",
    "X-Request-ID",
)
_READABLE_HEADERS = ("Inference-Header-Content-Length", "Retry-After", "WWW-Authenticate", "X-Request-ID")


def operations(gateway: Gateway) -> list[Operation]:
    """Every operation of every door.

    A platform may choose a path that another protocol has, such as ``/ping``: then its own is answered there.
    """
    routes = gateway.config.routes
    found: list[Operation] = []
    for door in _DOORS:
        for operation in door(gateway):
            is_chosen = operation.path in (routes.predict, routes.health)
            if not (is_chosen and any(_is_same(operation, other) for other in found)):
                found.append(operation)
    return found


def _is_same(operation: Operation, other: Operation) -> bool:
    return operation.path == other.path and not set(operation.methods).isdisjoint(other.methods)


def build_routes(gateway: Gateway) -> list[Route]:
    """One route for each path, with its operations."""
    by_path: dict[str, list[Operation]] = {}
    for operation in operations(gateway):
        by_path.setdefault(operation.path, []).append(operation)
    return [Route(path, Answering(gateway, found)) for path, found in by_path.items()]


def build_app(gateway: Gateway) -> App:
    """The application, which serves nothing but operations.

    Its host, its backend and what watches them are opened and closed by who runs it. There is no
    :class:`starlette.applications.Starlette` around the router: :class:`Answering` answers the errors of operations,
    uvicorn those of what is around them, and another layer takes a twentieth of the time of a request.

    Args:
        gateway: whose models are served.
    """
    unknown = Unknown(gateway)
    app: App = Paths(Router(build_routes(gateway), redirect_slashes=False, default=unknown), unknown=unknown)
    origins = gateway.config.cors.origins
    if origins:
        # Preflights come without a key, so they are answered before anybody asks for one.
        app = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"),
            allow_headers=_CLIENT_HEADERS,
            expose_headers=_READABLE_HEADERS,
        )
    return AccessLog(Headers(app, shared=bool(origins)))


class Paths:
    """An ASGI middleware: a slash at the end does not matter, and one that is written as ``%2F`` is refused.

    The server has decoded the path, so that it would look like the end of a name.

    Args:
        app: what answers.
        unknown: what answers to a path that nobody serves.
    """

    def __init__(self, app: App, unknown: App) -> None:
        self._app = app
        self._unknown = unknown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] == "http":
            if b"%2f" in (scope.get("raw_path") or b"").lower():
                await self._unknown(scope, receive, send)
                return
            path = scope["path"]
            if len(path) > 1 and path.endswith("/"):
                scope = {**scope, "path": path[:-1]}
        await self._app(scope, receive, send)
