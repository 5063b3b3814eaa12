"""Starts a server and verifies it: every golden sample is sent over REST and gRPC before it counts as started."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from marquee.serving.client import Client
from marquee.serving.errors import OperationError
from marquee.serving.launch import Launch
from marquee.serving.prepare import prepare
from marquee.serving.replay import replay_over_wire
from marquee.serving.server import Server, exclusive, start_prepared, stop
from marquee.serving.store import Reference


class AnswersDifferError(OperationError):
    """The server answers differently from evaluation; it has been stopped.

    Args:
        server: the server.
        checked: number of answers that were compared.
        differences: one line for each difference.
    """

    def __init__(self, server: Server, checked: int, differences: list[str]) -> None:
        super().__init__(f"{len(differences)} of {checked} golden answers differ; the server is stopped")
        self.server, self.checked, self.differences = server, checked, differences


@dataclass(frozen=True)
class Service:
    """A running server that answers as evaluation did; it is stopped at the end of a ``with`` block."""

    server: Server
    checked: int
    """Number of golden answers that were compared, over REST and over gRPC; all of them are equal."""

    @property
    def url(self) -> str:
        """URL of the inference API."""
        return self.server.addresses.inference

    def client(self, timeout: float = 120) -> Client:
        """A client with its addresses and tokens."""
        return self.server.client(timeout)

    def stop(self) -> None:
        """Stops the server and its workers."""
        stop(self.server)

    def __enter__(self) -> "Service":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_verified(models: Sequence[str], **options: Any) -> Service:
    """Starts TorchServe as :func:`marquee.serving.server.start` does, and replays the golden samples of each model.

    Args:
        models: names of archives in the store.
        options: of :func:`marquee.serving.server.start`.

    Raises:
        AnswersDifferError: an answer differs; nothing is left running.
        OperationError: the server cannot start, or a model is refused; nothing is left running.
    """
    timeout = options.pop("timeout", 300)
    return start_prepared_verified(prepare(models, **options), timeout)


def start_prepared_verified(
    wanted: Launch,
    timeout: float = 300,
    doing: str = "marquee serve start",
    then: Callable[[Server], None] | None = None,
) -> Service:
    """Starts what :func:`marquee.serving.prepare.prepare` gave, and replays the golden samples of each model.

    Args:
        wanted: what to start.
        timeout: seconds until all models must be ready.
        doing: what others are told who want to work in the state folder.
        then: what else has to succeed before the server counts as started.

    Raises:
        AnswersDifferError: an answer differs; nothing is left running.
        OperationError: the server cannot start, or a model is refused; nothing is left running.
    """
    with exclusive(wanted.folder, doing):
        server = start_prepared(wanted, timeout, doing)
        try:
            checked = _verify(server, wanted.models)
            if then is not None:
                then(server)
        except BaseException:
            stop(server)
            raise
    return Service(server, checked)


def _verify(server: Server, models: Sequence[Reference]) -> int:
    """Replays the golden samples of each model; the number of answers that were compared."""
    client = server.client()
    replays = [replay_over_wire(client, model.name, model.find(server.store), model.version) for model in models]
    checked = sum(replay.checked for replay in replays)
    if differences := [line for replay in replays for line in replay.differences]:
        raise AnswersDifferError(server, checked, differences)
    return checked
