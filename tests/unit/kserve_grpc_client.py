"""A program with KServe's gRPC client: ``python kserve_grpc_client.py HOST:PORT IMAGE``; prints one line of JSON.

It runs in an environment of its own: kserve has its own copy of the protocol's messages, and one process takes one.
"""

import asyncio
import json
import sys
from pathlib import Path

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


def label_of(response) -> str:
    output = next(output for output in response.outputs if output.name == "label")
    return output.as_numpy().ravel()[0].decode()


async def main() -> None:
    address, content = sys.argv[1], Path(sys.argv[2]).read_bytes()
    said = {}
    async with InferenceGRPCClient(address) as client:
        said["probes"] = [
            await client.is_server_live(),
            await client.is_server_ready(),
            await client.is_model_ready("digits"),
            await client.is_model_ready("absent"),
        ]
        for name, shape in (("typed", [1]), ("scalar", [])):
            tensor = InferInput("image", shape, "BYTES", data=[content])
            answer = await client.infer(InferRequest("digits", [tensor], request_id=name))
            said[name] = label_of(answer)
            assert answer.id == name
        raw = InferInput("image", [1], "BYTES")
        raw.set_data_from_numpy(np.array([content], dtype=np.object_), binary_data=True)
        answer = await client.infer(InferRequest("digits", [raw]))
        said["raw"] = label_of(answer)
        probabilities = next(output for output in answer.outputs if output.name == "probabilities").as_numpy()
        said["probabilities"] = probabilities[0].tolist()
        try:
            await client.infer(InferRequest("absent", [tensor]))
        except grpc.RpcError as error:
            said["absent"] = [error.code().name, error.details()]
    print(json.dumps(said))


asyncio.run(main())
