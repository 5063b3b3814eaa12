"""``asyncio.timeout`` for every Python that the project supports: it limits a block without a task of its own."""

import sys

if sys.version_info >= (3, 11):
    from asyncio import Timeout, timeout, timeout_at
else:  # the package that aiohttp brings along there
    from async_timeout import Timeout, timeout, timeout_at

__all__ = ["Timeout", "timeout", "timeout_at"]
