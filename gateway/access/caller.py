"""Who sent a request."""

from dataclasses import dataclass, field

from marquee.gateway.access.scope import SCOPES, Scope


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The owner of a key; everybody where no keys are asked for."""

    name: str
    """As the key was named when it was made; ``anonymous`` without one."""
    key_id: str | None = None
    """The key's public part, for logs and for its rate."""
    scopes: frozenset[Scope] = field(default_factory=frozenset)
    rate: str | None = None
    """Items that it may send, such as ``100/second``; None: any number."""


ANYBODY = Caller(name="anonymous", scopes=frozenset(SCOPES))
"""Where the gateway was started without keys."""
NOBODY = Caller(name="anonymous")
"""Somebody without a key, at an operation that needs none."""
