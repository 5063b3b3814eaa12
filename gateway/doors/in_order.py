"""The requests of a stream: several are answered at a time, and each gets its answer in its turn."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")

AT_ONCE = 16
"""Requests of one stream that are under way; more are not read, which makes the client wait."""


async def in_order(
    requests: AsyncIterator[Request], answer: Callable[[Request], Awaitable[Answer]], at_once: int = AT_ONCE
) -> AsyncIterator[Answer]:
    """The answers to requests, in the order of the requests.

    Whoever stops listening cancels what is under way.

    Args:
        requests: as they arrive; what reading them raises is raised after the answers to those before.
        answer: answers one; what it raises ends the stream.
        at_once: how many are answered at a time.
    """
    room = asyncio.Semaphore(at_once)
    begun: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()
    tasks: set[asyncio.Task[Answer]] = set()

    async def read() -> None:
        async for request in requests:
            await room.acquire()
            task = asyncio.ensure_future(answer(request))
            tasks.add(task)
            begun.put_nowait(task)

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: begun.put_nowait(None))
    try:
        while (task := await begun.get()) is not None:
            yield await task
            tasks.discard(task)
            room.release()
        await reader
    finally:
        reader.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(reader, *tasks, return_exceptions=True)
