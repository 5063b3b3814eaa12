"""Every door is locked: each route over HTTP and each method over gRPC, as the running servers have them.

What is tried is read from the application and from the services, so that a new one is tried by itself; what is open is
listed here, and nothing else may be.
"""

import http.client
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from starlette.routing import Route
from tritonclient.grpc import service_pb2

from marquee.gateway.access.check import KeyAccess
from marquee.gateway.access.keys import KeyStore, id_of
from marquee.gateway.access.scope import SCOPES
from marquee.gateway.app import build_routes, operations
from marquee.gateway.config import CorsConfig
from marquee.gateway.gateway import Gateway
from marquee.gateway.grpc_server import rpcs
from marquee.serving.grpc_stubs import load_stubs
from tests.gateway_server import HttpGateway
from tests.grpc_gateway import GrpcGateway

PROBES = (
    "/",
    "/ping",
    "/ready",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{name}/ready",
    "/v2/models/{name}/versions/{version}/ready",
    "/vertex/health",
)
DOCUMENTATION = ("/api-description", "/docs", "/openapi.json")
OPEN_ROUTES = {(method, path) for path in (*PROBES, *DOCUMENTATION) for method in ("GET", "HEAD")}
OPEN_ROUTES |= {("OPTIONS", "/"), ("OPTIONS", "/api-description")}
"""Method and path of what everybody may ask over HTTP."""
OPEN_METHODS = {
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/inference.GRPCInferenceService/ModelReady",
    "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
}
"""The probes over gRPC."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
SECRET = "7" * 64


@dataclass
class Doors:
    """Both servers with keys, in front of no model at all: who gets past the check learns so, too."""

    http: HttpGateway
    rpc: GrpcGateway

    @property
    def gateway(self) -> Gateway:
        return self.http.gateway

    @property
    def routes(self) -> list[str]:
        """The paths that the application answers; anything but a plain route would need a look of its own."""
        routes = build_routes(self.gateway)
        assert all(type(route) is Route for route in routes)
        return [route.path for route in routes]

    def ask(self, method: str, path: str, key: str | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.http.address, timeout=60)
        try:
            authorization = {} if key is None else {"Authorization": f"Bearer {key}"}
            connection.request(method, path, headers=authorization | headers)
            response = connection.getresponse()
            response.content = response.read()
            return response
        finally:
            connection.close()

    def call(self, channel: grpc.Channel, method: str, key: str | None = None) -> str:
        """Name of the status; an empty message is one of every type."""
        metadata = [] if key is None else [("authorization", f"Bearer {key}")]
        try:
            list(channel.unary_stream(method)(b"", metadata=metadata, timeout=60))
        except grpc.RpcError as error:
            return error.code().name
        return "OK"


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict[str, str]:
    """One key for each scope, and one that is not known."""
    store = KeyStore(tmp_path_factory.mktemp("keys") / "keys.json")
    made = {scope: store.add(scope, (scope,)) for scope in SCOPES}
    revoked = store.add("revoked", SCOPES)
    store.revoke(id_of(revoked))
    expired = store.add("expired", SCOPES, days=1e-12)
    unknown = f"marquee_{id_of(made['predict'])}_{SECRET}"
    return {**made, "file": str(store.path), "revoked": revoked, "expired": expired, "unknown": unknown}


@pytest.fixture(scope="module")
def doors(keys) -> Iterator[Doors]:
    access = KeyAccess(Path(keys["file"]))
    cors = CorsConfig(origins=("https://example.org",))
    with HttpGateway({}, access, graphql=True, cors=cors) as http, GrpcGateway({}, access=access) as rpc:
        yield Doors(http, rpc)


@pytest.fixture(scope="module")
def channel(doors) -> Iterator[grpc.Channel]:
    with doors.rpc.channel() as channel:
        yield channel


BAD_KEYS = (None, "unknown", "revoked", "expired")


def filled(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "digits", path)


# HTTP


def test_every_operation_is_a_route_and_every_route_is_operations(doors):
    assert {operation.path for operation in operations(doors.gateway)} == set(doors.routes)
    assert "/graphql" in doors.routes
    assert len(doors.routes) > 20


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_no_route_answers_without_a_valid_key(bad, doors, keys):
    answered = {}
    for path in doors.routes:
        for method in METHODS:
            response = doors.ask(method, filled(path), bad and keys[bad])
            if (method, path) in OPEN_ROUTES or response.status == 401:
                assert (response.status != 401) or response.headers["WWW-Authenticate"] == "Bearer", (method, path)
                continue
            # Of a path that everybody may ask for, everybody may know which methods it has.
            if response.status == 405 and any(path == known for _, known in OPEN_ROUTES):
                continue
            answered[method, path] = response.status
    assert answered == {}


def test_the_open_routes_are_those_that_need_no_key(doors):
    """No more and no fewer; HEAD is open where GET is."""
    said = {
        (method, entry.path) for entry in operations(doors.gateway) if entry.scope is None for method in entry.methods
    }
    said |= {("HEAD", path) for method, path in said if method == "GET"}
    assert said == OPEN_ROUTES
    for method, path in sorted(OPEN_ROUTES):
        assert doors.ask(method, filled(path)).status not in (401, 403)


def test_a_key_of_another_scope_is_refused_at_every_route(doors, keys):
    wrong = []
    for operation in operations(doors.gateway):
        for method in operation.methods:
            for scope in SCOPES:
                status = doors.ask(method, filled(operation.path), keys[scope]).status
                needed = operation.scope
                if (status == 403) != (needed is not None and scope != needed) or status == 401:
                    wrong.append((method, operation.path, needed, scope, status))
    assert wrong == []


def test_the_scopes_of_routes_are_those_of_what_they_do(doors):
    wrong = []
    for operation in operations(doors.gateway):
        path, is_open = operation.path, operation.scope is None
        changes = path == "/metrics" or (path.startswith("/models") and not path.endswith("/invoke"))
        explains = path.startswith("/explanations") or path.endswith(":explain")
        expected = "manage" if changes else "explain" if explains else "predict"
        if not is_open and operation.scope != expected:
            wrong.append((operation.methods, path, operation.scope))
    assert wrong == []


@pytest.mark.parametrize(
    "path",
    [
        "/nothing", "//nothing", "/v2/../models", "/V2/models/digits/infer", "/models%2fdigits", "/models/digits/",
        "/models//digits", "/metrics/", "/metrics;x", "/metrics?x", "/%6detrics", "/./metrics",
        "/v2/health/live/../../models", "/graphql/", "/graphql?query={models{name}}",
        "/predictions/digits?authorization=KEY", "*",
    ],
)  # fmt: skip
def test_no_way_of_writing_a_path_opens_it(path, doors, keys):
    path = path.replace("KEY", keys["predict"])
    for method in ("GET", "POST", "OPTIONS", "DELETE"):
        assert doors.ask(method, path).status in (400, 401, 404, 405), (method, path)


def test_a_preflight_is_answered_and_opens_nothing(doors):
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    for path in doors.routes:
        response = doors.ask("OPTIONS", filled(path), **asked)
        assert (response.status, response.content) == (200, b"OK")
        assert doors.ask("OPTIONS", filled(path), **{**asked, "Origin": "https://example.com"}).status != 200
    post = doors.ask("POST", "/predictions/digits", Origin="https://example.org")
    assert post.status == 401


def test_other_headers_are_no_key(doors, keys):
    key = keys["predict"]
    for headers in (
        {"X-Api-Key": key}, {"Proxy-Authorization": f"Bearer {key}"}, {"Cookie": f"authorization=Bearer {key}"},
        {"token": key}, {"X-Forwarded-For": "127.0.0.1"}, {"Authorization": f"Basic {key}"}, {"Authorization": key},
        {"X-HTTP-Method-Override": "GET"},
    ):  # fmt: skip
        assert doors.ask("POST", "/predictions/digits", **headers).status == 401


def test_a_refusal_has_the_protocols_words(doors, keys):
    for path in doors.routes:
        operation = next(entry for entry in operations(doors.gateway) if entry.path == path)
        if operation.scope is None or "POST" not in operation.methods:
            continue
        document = json.loads(doors.ask("POST", filled(path)).content)
        assert (document["status"], document["code"]) == (401, "unauthenticated")
        assert "detail" in document
        assert "error" in document or "errors" in document


# gRPC


def grpc_methods(doors: Doors) -> list[str]:
    """What the server has, and all that the services of its protocols have."""
    stubs = load_stubs()
    files = (service_pb2, stubs.inference, stubs.management)
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    described = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    return sorted(described | {rpc.path for rpc in rpcs(doors.rpc.gateway)} | OPEN_METHODS)


def test_every_method_of_every_service_is_there(doors):
    assert {rpc.path for rpc in rpcs(doors.rpc.gateway)} == set(grpc_methods(doors))
    assert len(grpc_methods(doors)) > 30


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_no_grpc_method_answers_without_a_valid_key(bad, doors, channel, keys):
    statuses = {method: doors.call(channel, method, bad and keys[bad]) for method in grpc_methods(doors)}
    assert {method for method, status in statuses.items() if status != "UNAUTHENTICATED"} == OPEN_METHODS


def test_a_key_of_another_scope_is_refused_by_every_grpc_method(doors, channel, keys):
    wrong = []
    for rpc in rpcs(doors.rpc.gateway):
        managing = ("/org.pytorch.serve.grpc.management", "/inference.GRPCInferenceService/Repository")
        settings = ("TraceSetting", "LogSettings", "RepositoryModelLoad", "RepositoryModelUnload")
        is_managing = rpc.path.startswith(managing[0]) or rpc.path.endswith(settings)
        needed = None if rpc.path in OPEN_METHODS else "manage" if is_managing else "predict"
        if rpc.scope != needed:
            wrong.append((rpc.path, rpc.scope))
        for scope in SCOPES:
            status = doors.call(channel, rpc.path, keys[scope])
            if (status == "PERMISSION_DENIED") != (needed not in (None, scope)) or status == "UNAUTHENTICATED":
                wrong.append((rpc.path, scope, status))
    assert wrong == []


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/inference.GRPCInferenceService/",
        "/inference.GRPCInferenceService/modelinfer",
        "//ModelInfer",
        "/nothing",
        "/",
    ],
)
def test_a_grpc_method_that_is_not_there_asks_for_a_key_first(method, doors, channel, keys):
    assert doors.call(channel, method) == "UNAUTHENTICATED"
    assert doors.call(channel, method, keys["predict"]) == "UNIMPLEMENTED"


# Logs


def test_no_key_is_in_any_log(doors, channel, keys, caplog):
    caplog.set_level(logging.DEBUG)
    bearers = [keys[name] for name in (*SCOPES, "unknown", "revoked", "expired")]
    for key in bearers:
        doors.ask("POST", f"/predictions/{key}?key={key}", key, **{"X-Request-ID": key, "Cookie": key})
        doors.ask("GET", f"/{key}", key)
        doors.call(channel, "/inference.GRPCInferenceService/ModelInfer", key)
        doors.call(channel, f"/inference.GRPCInferenceService/{key}", key)
    # uvicorn's own access log is off; pytest attaches itself to loggers that do not propagate, and so switches it on.
    said = [record.getMessage() for record in caplog.records if record.name != "uvicorn.access"]
    assert sum("protocol=" in line for line in said) >= 3 * len(bearers)
    assert not [line for line in said for key in bearers if key.rpartition("_")[2] in line]
    assert "Bearer" not in "".join(said)
