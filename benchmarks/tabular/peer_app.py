"""The peer of serving: scikit-learn's ColumnTransformer and Ridge behind FastAPI on uvicorn.

POST /predict takes {"instances": [{column: value}, ...]} and answers {"predictions": [number, ...]}. The body is read
as a plain dictionary, without validation.
"""

import asyncio
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from benchmarks.tabular.place import Model, read_place

_SMALL = 64
"""Rows that are answered in the event loop; more go to a thread, so that other requests do not wait for them."""

place = read_place()
model = Model(place)


async def predict(request: Request) -> dict[str, Any]:
    """Rows -> numbers."""
    rows = (await request.json())["instances"]
    if len(rows) <= _SMALL:
        return {"predictions": model.answer(rows)}
    return {"predictions": await asyncio.to_thread(model.answer, rows)}


app = FastAPI()
app.add_api_route("/predict", predict, methods=["POST"])


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.tabular.peer_app:app",  # by name, for several processes
        host="127.0.0.1",
        port=place.port,
        workers=place.workers,
        timeout_worker_healthcheck=60,  # a busy process is not restarted within a load
        log_level="warning",
    )
