"""``grpc.health.v1.Health``, which Kubernetes' gRPC probes, Envoy and load balancers ask.

Its messages have one field each and are, on the wire, the well-known wrappers of a text and of a number.
"""

from google.protobuf.wrappers_pb2 import StringValue, UInt32Value

from marquee.gateway.doors.oip_grpc import SERVICE as OIP
from marquee.gateway.doors.rpc import Rpc, Visit
from marquee.gateway.errors import NOT_FOUND, NOT_SUPPORTED, GatewayError
from marquee.gateway.gateway import Gateway

SERVING, NOT_SERVING = 1, 2
"""Of the enumeration ``HealthCheckResponse.ServingStatus``."""
_PATH = "/grpc.health.v1.Health"


def rpcs(gateway: Gateway) -> list[Rpc]:
    """Both methods; ``Watch`` is refused, which clients take for an answer to be asked no more."""

    async def check(request: StringValue, visit: Visit) -> UInt32Value:
        """``service``: empty for the server; the Open Inference Protocol's service, or the name of a model."""
        if request.value in ("", OIP.full_name):
            is_ready = gateway.readiness.is_ready
        elif any(version.name == request.value for version in gateway.readiness.versions):
            is_ready = gateway.version(request.value).ready_workers > 0
        else:
            raise GatewayError(NOT_FOUND, f"there is no service {request.value!r}")
        return UInt32Value(value=SERVING if is_ready else NOT_SERVING)

    async def watch(request: StringValue, visit: Visit) -> UInt32Value:
        raise GatewayError(NOT_SUPPORTED, "ask again by Check")

    return [
        Rpc(path=f"{_PATH}/Check", scope=None, request=StringValue, unary=check),
        Rpc(path=f"{_PATH}/Watch", scope=None, request=StringValue, unary=watch),
    ]
