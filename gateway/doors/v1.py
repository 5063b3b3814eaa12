"""KServe's first protocol and TensorFlow Serving's REST API, which share their paths.

The state of a model is one document with the members of both. KServe's client wants 503 of a model that is not ready;
TF Serving's looks at ``state``.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from marquee.gateway.backend import Reply, Version
from marquee.gateway.body import read_body
from marquee.gateway.doors.asking import ask
from marquee.gateway.doors.json_answer import JSON, answer, dump, forward
from marquee.gateway.doors.oip_metadata import model_metadata
from marquee.gateway.doors.operation import Operation, protocol_error
from marquee.gateway.doors.predictions import as_predictions
from marquee.gateway.doors.schemas import INSTANCES, PREDICTIONS, STRING, TEXT_ERROR, a_list, an_object, replies
from marquee.gateway.gateway import Gateway

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_TAG = "KServe v1 and TF Serving"
_IMAGE_KEYS = frozenset({"b64", "image_data", "data", "body", "content", "image", "image_bytes"})
_TYPES = {"BYTES": "DT_STRING", "BOOL": "DT_BOOL", "FP64": "DT_DOUBLE", "FP32": "DT_FLOAT"}

_STATE = an_object(
    name=STRING,
    ready={"type": "boolean"},
    model_version_status=a_list(an_object("version", "state", version=STRING, state=STRING, status={"type": "object"})),
)


def operations(gateway: Gateway) -> list[Operation]:
    """All routes."""
    door = _Door(gateway)
    shared = partial(Operation, refusal=protocol_error, tag=_TAG)
    asking = partial(shared, methods=("POST",), request={JSON: INSTANCES}, responses=replies(PREDICTIONS, TEXT_ERROR))
    reading = partial(shared, methods=("GET",), scope="predict")
    found = [
        reading(
            path="/v1/models",
            endpoint=door.models,
            summary="Names of all models",
            responses={200: {JSON: an_object(models=a_list(STRING))}},
        )
    ]
    model, version = "/v1/models/{name}", "/v1/models/{name}/versions/{version}"
    for path, where in ((model, "the default version"), (version, "one version")):
        found += [
            asking(
                path=f"{path}:predict",
                endpoint=door.predict,
                scope="predict",
                summary=f"Predictions of {where}",
            ),
            asking(
                path=f"{path}:explain",
                endpoint=door.explain,
                scope="explain",
                summary=f"A prediction of {where}, explained",
            ),
            reading(
                path=f"{path}/metadata",
                endpoint=door.metadata,
                summary=f"Inputs and outputs of {where}, as TF Serving describes them",
                responses={200: {JSON: an_object("model_spec", "metadata")}},
            ),
            reading(
                path=path,
                endpoint=door.state,
                summary=f"Whether {where} is ready",
                responses={200: {JSON: _STATE}, 503: {JSON: _STATE}},
            ),
        ]
    return found


class _Door:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def models(self, request: "Request") -> "Response":
        names = dict.fromkeys(version.name for version in self._gateway.readiness.versions)
        return answer({"models": list(names)})

    async def state(self, request: "Request") -> "Response":
        name, version = _place(request)
        chosen = self._gateway.version(name, version)
        versions = [entry for entry in self._gateway.readiness.versions if entry.name == name]
        ready = chosen.ready_workers > 0
        document = {
            "name": name,
            "ready": ready,
            "model_version_status": [_version_status(entry) for entry in (versions if version is None else [chosen])],
        }
        return answer(document) if ready else answer(document, 503, {"Retry-After": "1"})

    async def metadata(self, request: "Request") -> "Response":
        name, version = _place(request)
        chosen = self._gateway.version(name, version)
        document = await model_metadata(self._gateway, name, version)
        signature = {
            "inputs": _tensors(document["inputs"]),
            "outputs": _tensors(document["outputs"]),
            "method_name": "tensorflow/serving/predict",
        }
        signatures = {"signature_def": {"signature_def": {"serving_default": signature}}}
        spec = {"name": name, "signature_name": "", "version": chosen.version}
        return answer({"model_spec": spec, "metadata": signatures})

    async def predict(self, request: "Request") -> "Response":
        return forward(as_predictions(await ask(self._gateway, request, *_place(request))))

    async def explain(self, request: "Request") -> "Response":
        body = _single(await read_body(request, self._gateway.config))
        reply = await ask(self._gateway, request, *_place(request), verb="explanations", body=body)
        return forward(_with_its_item(as_predictions(reply)))


def _place(request: "Request") -> tuple[str, str | None]:
    return request.path_params["name"], request.path_params.get("version")


def _version_status(version: Version) -> dict[str, Any]:
    if version.ready_workers:
        return {"version": version.version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    reason = ", ".join(sorted({worker.state for worker in version.workers})) or "it has no worker"
    status = {"error_code": "UNAVAILABLE", "error_message": reason}
    return {"version": version.version, "state": "LOADING", "status": status}


def _tensors(tensors: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        tensor["name"]: {
            "name": tensor["name"],
            "dtype": _TYPES.get(tensor["datatype"], f"DT_{tensor['datatype']}"),
            "tensor_shape": {
                "dim": [{"size": str(size), "name": ""} for size in tensor["shape"]],
                "unknown_rank": False,
            },
        }
        for tensor in tensors
    }


def _single(body: bytes) -> bytes:
    """The only instance of a list by itself, where it is an image: an explanation is of one."""
    try:
        document = json.loads(body)
        (instance,) = document.pop("instances")
        return dump({**document, **instance}) if _IMAGE_KEYS & instance.keys() else body
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return body


def _with_its_item(reply: Reply) -> Reply:
    """The explanation of a list of one beside its prediction, where that of a single item is."""
    document = json.loads(reply.body)
    if "explanation" not in document:
        return reply
    (item,) = document["predictions"]
    item["explanation"] = document.pop("explanation")
    return replace(reply, body=dump(document))
