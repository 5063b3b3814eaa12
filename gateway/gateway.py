"""The gateway as its doors see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from marquee.gateway.access.caller import Caller
from marquee.gateway.access.scope import Scope
from marquee.gateway.backend import Backend, Call, Reply, Version
from marquee.gateway.config import GatewayConfig
from marquee.gateway.errors import NOT_FOUND, GatewayError


class Access(Protocol):
    """The one check of who may come in (:mod:`marquee.gateway.access.check`)."""

    def caller(self, authorization: str | None, scope: Scope | None) -> Caller:
        """Who a request is from.

        Args:
            authorization: the value of the header or the metadata ``authorization``, such as ``Bearer KEY``.
            scope: what the key must allow; None: everybody may.

        Raises:
            GatewayError: ``UNAUTHENTICATED`` or ``FORBIDDEN``.
        """

    async def admit(self, caller: Caller) -> None:
        """Raises GatewayError ``RATE_LIMITED``, with ``retry_after``, where the caller has used up its rate."""

    async def charge(self, caller: Caller, reply: Reply) -> None:
        """Counts the items of an answer, of which :meth:`admit` has counted one, against the caller's rate."""


class Delivery(Protocol):
    """One call -> one reply, whatever happens to the workers in between (:mod:`marquee.gateway.delivery`)."""

    async def deliver(self, call: Call, seconds: float) -> Reply:
        """The answer; cancelling it gives the request up.

        Args:
            call: what is asked.
            seconds: until the client's deadline.

        Raises:
            GatewayError: ``NOT_FOUND``, ``BUSY`` and ``NOT_READY`` at once, ``NO_ANSWER`` at the deadline.
        """


class Readiness(Protocol):
    """What is known of the host (:mod:`marquee.gateway.readiness`)."""

    @property
    def is_ready(self) -> bool:
        """Whether every default version has a READY worker that was proven; False for no model, and while draining."""

    @property
    def versions(self) -> Sequence[Version]:
        """As last seen, at most a second ago; the state of a worker that was not proven is ``UNPROVEN``."""


@dataclass(kw_only=True)
class Gateway:
    """What doors need, and all that they need."""

    config: GatewayConfig
    backend: Backend
    access: Access
    delivery: Delivery
    readiness: Readiness

    async def ask(self, call: Call, caller: Caller, seconds: float | None = None) -> Reply:
        """The reply to one call, within the caller's rate.

        Args:
            call: what is asked.
            caller: as ``access.caller`` gave it.
            seconds: until the client's deadline; None: ``config.request_seconds``.

        Raises:
            GatewayError: see :class:`Access` and :class:`Delivery`.
        """
        await self.access.admit(caller)
        longest = self.config.request_seconds
        reply = await self.delivery.deliver(call, longest if seconds is None else min(seconds, longest))
        await self.access.charge(caller, reply)
        return reply

    def version(self, name: str, version: str | None = None) -> Version:
        """A version as last seen.

        Args:
            name: of the model.
            version: of the model; None: the default version.

        Raises:
            GatewayError: ``NOT_FOUND``.
        """
        found = [entry for entry in self.readiness.versions if entry.name == name]
        if not found:
            raise GatewayError(NOT_FOUND, f"unknown model {name!r}")
        chosen = [entry for entry in found if (entry.is_default if version is None else entry.version == version)]
        if not chosen:
            known = ", ".join(entry.version for entry in found)
            raise GatewayError(NOT_FOUND, f"model {name!r} has no version {version!r}; it has {known}")
        return chosen[0]

    def unnamed_model(self) -> str:
        """The model of routes that name none.

        Raises:
            GatewayError: ``NOT_FOUND``: there is no model.
        """
        names = list(dict.fromkeys(entry.name for entry in self.readiness.versions))
        if self.config.model is not None:
            return self.config.model
        if not names:
            raise GatewayError(NOT_FOUND, "no model is registered")
        return names[0]
