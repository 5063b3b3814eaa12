"""``asyncio.timeout`` for every Python that the project supports: it limits a block without a task of its own."""

import asyncio
import sys

if sys.version_info >= (3, 11):
    from asyncio import Timeout, timeout, timeout_at
else:
    # The package async_timeout has no way to end a block from outside of its task: it would cancel the caller's.
    from types import TracebackType

    class Timeout:
        """What :func:`timeout` gives, as in later versions of Python.

        Args:
            when: the event loop's time at which the block ends.
        """

        def __init__(self, when: float) -> None:
            self._when, self._expired = when, False
            self._task: asyncio.Task[object] | None = None
            self._handle: asyncio.Handle | None = None

        def expired(self) -> bool:
            """Whether the block was ended."""
            return self._expired

        def reschedule(self, when: float) -> None:
            """Ends the block at another time, which may have passed."""
            if self._handle is not None:
                self._handle.cancel()
            self._handle = asyncio.get_running_loop().call_at(when, self._end)

        def _end(self) -> None:
            if self._task is not None:
                self._expired = True
                self._task.cancel()

        async def __aenter__(self) -> "Timeout":
            self._task = asyncio.current_task()
            self.reschedule(self._when)
            return self

        async def __aexit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            self._task = None
            if self._handle is not None:
                self._handle.cancel()
            if self._expired and kind is asyncio.CancelledError:
                raise asyncio.TimeoutError from error

    def timeout_at(when: float) -> Timeout:
        """Ends a block at a time of the event loop, with ``asyncio.TimeoutError``."""
        return Timeout(when)

    def timeout(seconds: float) -> Timeout:
        """Ends a block after so many seconds, with ``asyncio.TimeoutError``."""
        return Timeout(asyncio.get_running_loop().time() + seconds)


def end_now(scope: Timeout) -> None:
    """Ends a block that is under way, as if its time were over; from any task of the event loop.

    Args:
        scope: what ``async with timeout(...)`` gave.
    """
    if not scope.expired():
        scope.reschedule(asyncio.get_running_loop().time())


__all__ = ["Timeout", "end_now", "timeout", "timeout_at"]
