"""FastAPI on uvicorn. It has no batching of its own, so it gets the smallest one that works."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from benchmarks.serving.peers.place import MAX_BATCH, WAIT_SECONDS, Model, load_model, read_place

place = read_place()
Waiting = tuple[bytes, "asyncio.Future[dict[str, Any]]"]
waiting: "asyncio.Queue[Waiting]" = asyncio.Queue()


async def answer_batches(model: Model) -> None:
    """Takes what waits, at most a batch, and answers it in a thread while the loop reads further requests."""
    while True:
        batch = [await waiting.get()]
        if waiting.empty():
            await asyncio.sleep(WAIT_SECONDS)
        while len(batch) < MAX_BATCH and not waiting.empty():
            batch.append(waiting.get_nowait())
        try:
            answers = await asyncio.to_thread(model.answer, [image for image, _ in batch])
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            continue
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.cancelled():
                future.set_result(answer)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Loads the model before the first request."""
    task = asyncio.create_task(answer_batches(load_model(place.variant, place.material)))
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """The content of an image file -> an answer."""
    future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    await waiting.put((await request.body(), future))
    return await future


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=place.port, log_level="warning")
