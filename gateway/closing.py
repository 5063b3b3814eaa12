"""The end of gRPC: new calls are refused for a moment before the server stops.

A server of gRPC that stops cancels the calls that have arrived and that it has not begun, and their clients cannot tell
that from their own cancelling. A refusal with ``UNAVAILABLE`` is what sends them elsewhere.
"""

import asyncio
import time

from marquee.gateway.access.caller import Caller
from marquee.gateway.access.scope import Scope
from marquee.gateway.backend import Reply
from marquee.gateway.errors import NOT_READY, GatewayError
from marquee.gateway.gateway import Access

_QUIET_SECONDS = 0.2
_MOST_SECONDS = 1.0
_TICK = 0.02


class ClosingAccess(Access):
    """Lets in whom another check lets in, and nobody after :meth:`close`.

    Args:
        access: the other check.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._is_closed = False
        self._last_refusal = 0.0

    async def close(self) -> None:
        """Refuses everybody, and returns when nobody has come for a moment."""
        self._is_closed = True
        self._last_refusal = began = time.monotonic()
        while time.monotonic() < min(self._last_refusal + _QUIET_SECONDS, began + _MOST_SECONDS):
            await asyncio.sleep(_TICK)

    def caller(self, authorization: str | None, scope: Scope | None) -> Caller:
        """See :meth:`Access.caller`.

        Raises:
            GatewayError: ``NOT_READY`` after the end.
        """
        if self._is_closed:
            self._last_refusal = time.monotonic()
            raise GatewayError(NOT_READY, "the gateway is ending", retry_after=_MOST_SECONDS)
        return self._access.caller(authorization, scope)

    async def admit(self, caller: Caller) -> None:
        """See :meth:`Access.admit`."""
        await self._access.admit(caller)

    async def charge(self, caller: Caller, reply: Reply) -> None:
        """See :meth:`Access.charge`."""
        await self._access.charge(caller, reply)
