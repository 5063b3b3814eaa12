"""Which TorchServe the gateway talks to. A restart makes a new one: other tokens, another process."""

from dataclasses import dataclass, field
from pathlib import Path

from marquee.serving.answers import largest_request
from marquee.serving.keys import KeyFile, Keys, StaticToken
from marquee.serving.processes import CONFIG_NAME
from marquee.serving.record import Server
from marquee.serving.settings import Addresses
from marquee.serving.trust import Trust


@dataclass(frozen=True, kw_only=True)
class Target:
    """A front end that runs, and how to reach it."""

    addresses: Addresses
    keys: Keys = field(default_factory=lambda: StaticToken(None))
    trust: Trust = field(default_factory=Trust)
    pid: int | None = None
    """Of the front end; None: it runs elsewhere."""
    largest: int | None = None
    """Bytes that a request may have; None: not known."""

    @classmethod
    def of(cls, server: Server) -> "Target":
        """A server that :mod:`marquee.serving.server` started."""
        return cls(
            addresses=server.addresses,
            keys=key_source(server.folder if server.authorized else None),
            trust=server.trust,
            pid=server.pid,
            largest=largest_request(server.folder / CONFIG_NAME),
        )


def key_source(folder: Path | None) -> Keys:
    """The tokens of a state folder; none are sent where there is no folder."""
    return StaticToken(None) if folder is None else KeyFile(folder / "key_file.json")
