"""A program with KServe's client: ``python kserve_client.py URL IMAGE``; prints one line of JSON.

It runs in an environment of its own, because kserve asks for other versions of libraries.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


def label_of(response) -> str:
    output = next(output for output in response.outputs if output.name == "label")
    value = output.as_numpy()[0]
    return value.decode() if isinstance(value, bytes) else str(value)


async def main() -> None:
    url, content = sys.argv[1], Path(sys.argv[2]).read_bytes()
    text = base64.b64encode(content).decode()
    said = {}
    async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
        answer = await client.infer(url, {"instances": [{"b64": text}]}, model_name="digits")
        try:
            await client.is_model_ready(url, "nothing")
            absent = None
        except httpx.HTTPStatusError as error:
            absent = error.response.status_code
        said["v1"] = {
            "live": await client.is_server_live(url),
            "ready": await client.is_model_ready(url, "digits"),
            "label": answer["predictions"][0]["label"],
            "absent": absent,
        }
        try:
            await client.infer(url, {"instances": [{"b64": "YWJj"}]}, model_name="digits")
        except httpx.HTTPStatusError as error:
            said["error"] = str(error)
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        tensor = InferInput("image", [1], "BYTES", data=[text], parameters={"content_type": "base64"})
        answer = await client.infer(url, InferRequest("digits", [tensor], request_id="1"), model_name="digits")
        raw = InferInput("image", [1], "BYTES")
        raw.set_data_from_numpy(np.array([content], dtype=np.object_), binary_data=True)
        binary = await client.infer(url, InferRequest("digits", [raw], request_id="2"), model_name="digits")
        said["v2"] = {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model": await client.is_model_ready(url, "digits"),
            "label": label_of(answer),
            "binary": label_of(binary),
            "absent": await client.is_model_ready(url, "nothing"),
        }
    print(json.dumps(said))


asyncio.run(main())
