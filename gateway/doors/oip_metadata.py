"""What the Open Inference Protocol says about the server and its models, alike over REST and gRPC: JSON documents."""

import functools
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

from marquee.gateway.backend import AbsentError, LostError, Version
from marquee.gateway.errors import NOT_FOUND, NOT_READY, GatewayError
from marquee.gateway.gateway import Gateway

SERVER = "marquee"
PLATFORM = "marquee_bundle"
"""``<project>_<format>``, as the protocol names platforms."""
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository(index)")
"""Of Triton's names, those whose parts are all here."""
_ANY = -1
_TRITON_TYPES = {"BYTES": "TYPE_STRING"}


def server_metadata() -> dict[str, Any]:
    """Name, version and extensions of the server."""
    return {"name": SERVER, "version": _own_version(), "extensions": list(EXTENSIONS)}


async def model_metadata(gateway: Gateway, name: str, version: str | None = None) -> dict[str, Any]:
    """Name, versions, platform and tensors of a model.

    Raises:
        GatewayError: ``NOT_FOUND``; ``NOT_READY``: no worker says what the model takes.
    """
    inputs, outputs = await _tensors(gateway, gateway.version(name, version))
    return {
        "name": name,
        "versions": [entry.version for entry in gateway.readiness.versions if entry.name == name],
        "platform": PLATFORM,
        "inputs": inputs,
        "outputs": outputs,
    }


async def model_config(gateway: Gateway, name: str, version: str | None = None) -> dict[str, Any]:
    """A model's configuration as Triton's clients read it; what has no meaning here is left out.

    Raises:
        GatewayError: as :func:`model_metadata`.
    """
    inputs, outputs = await _tensors(gateway, gateway.version(name, version))
    return {
        "name": name,
        "platform": PLATFORM,
        "backend": SERVER,
        # Items of a request have an axis of their own, the first of each tensor, which is part of the dims.
        "max_batch_size": 0,
        "input": [_config_of(tensor) for tensor in inputs],
        "output": [_config_of(tensor) for tensor in outputs],
    }


def is_model_ready(gateway: Gateway, name: str, version: str | None = None) -> bool:
    """Whether a worker of this version can answer; False for a model or a version that is not there."""
    try:
        return gateway.version(name, version).ready_workers > 0
    except GatewayError:
        return False


def repository_index(gateway: Gateway, ready_only: bool = False) -> list[dict[str, Any]]:
    """Every version of every model, with its state.

    Args:
        gateway: whose models.
        ready_only: leaves out those of which no worker can answer.
    """
    index = [
        {"name": entry.name, "version": entry.version, "state": "READY", "reason": ""}
        if entry.ready_workers
        else {"name": entry.name, "version": entry.version, "state": "UNAVAILABLE", "reason": _reason(entry)}
        for entry in gateway.readiness.versions
    ]
    return [entry for entry in index if entry["state"] == "READY" or not ready_only]


async def _tensors(gateway: Gateway, version: Version) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs; none of an archive that does not name them."""
    try:
        described = await gateway.backend.describe(version.name, None if version.is_default else version.version)
    except AbsentError as error:
        raise GatewayError(NOT_FOUND, str(error)) from error
    except LostError as error:
        message = f"no worker of model {version.name!r} answers"
        raise GatewayError(NOT_READY, message, retry_after=1.0) from error
    tensors: Mapping[str, Sequence[Any]] = described.get("tensors") or {}
    return list(tensors.get("inputs", ())), list(tensors.get("outputs", ()))


def _reason(version: Version) -> str:
    if not version.workers:
        return "it has no worker"
    return "its workers are " + ", ".join(sorted({worker.state for worker in version.workers}))


def _config_of(tensor: Mapping[str, Any]) -> dict[str, Any]:
    datatype = tensor["datatype"]
    return {
        "name": tensor["name"],
        "data_type": _TRITON_TYPES.get(datatype, f"TYPE_{datatype}"),
        "dims": list(tensor["shape"]),
    }


@functools.cache
def _own_version() -> str:
    try:
        return version_of("marquee")
    except PackageNotFoundError:  # a checkout that is not installed
        return ""
