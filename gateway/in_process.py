"""A host of models inside this process: the archives' own handler, without TorchServe.

For tests of the doors, and for programs that serve a few models without another process. Inference runs in threads,
one call of a version at a time, so the event loop stays free; nothing is batched.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from marquee.gateway.backend import AbsentError, Call, FullError, LostError, Reply, Version, Worker
from marquee.gateway.config import GatewayConfig
from marquee.gateway.errors import BUSY, NO_ANSWER, NOT_FOUND, GatewayError
from marquee.gateway.gateway import Access, Gateway
from marquee.gateway.loaded import LoadedArchive

T = TypeVar("T")

_NO_MANAGEMENT = b'{"code": 501, "type": "NotSupported", "message": "this host has no management API"}'


class InProcess:
    """See :class:`~marquee.gateway.backend.Backend`.

    >>> backend = InProcess({"digits": Path("model_store/digits.mar")})
    >>> await backend.open()
    >>> await backend.ask(Call(model="digits", body=Path("three.png").read_bytes()), timeout=10)

    Args:
        archives: name -> its archive, or the archives of several versions, the default one first.
        queue: calls of one version that may wait; more raise FullError.

    Raises:
        OperationError: a file is no archive.
    """

    def __init__(self, archives: Mapping[str, Path | Sequence[Path]], queue: int = 100) -> None:
        self._models: dict[str, dict[str, _Serving]] = {}
        for name, paths in archives.items():
            loaded = [LoadedArchive(name, path) for path in ([paths] if isinstance(paths, Path) else paths)]
            self._models[name] = {model.version: _Serving(model) for model in loaded}
        self._queue = queue

    async def open(self) -> None:
        """Loads every archive.

        Raises:
            OperationError: one cannot be served.
        """
        for serving in self._all():
            await serving.run(serving.model.load)
            serving.is_ready = True

    async def close(self) -> None:
        """Frees the models."""
        for serving in self._all():
            serving.is_ready = False
            serving.executor.shutdown(wait=False, cancel_futures=True)
            serving.model.close()

    async def ask(self, call: Call, timeout: float) -> Reply:
        """See :meth:`~marquee.gateway.backend.Backend.ask`."""
        serving = self._find(call.model, call.version)
        if serving.pending >= self._queue:
            raise FullError(f"{serving.pending} calls wait for {call.model}")
        serving.pending += 1
        try:
            return await asyncio.wait_for(serving.run(serving.model.answer, call), timeout)
        except asyncio.TimeoutError as error:
            raise LostError(f"{call.model} gave no answer in {timeout:g} s") from error
        finally:
            serving.pending -= 1

    async def versions(self) -> Sequence[Version]:
        """Every version, with one worker: the thread that answers."""
        return [
            Version(
                name=name,
                version=version,
                is_default=number == 0,
                workers=(Worker(id="thread", pid=None, state="READY" if serving.is_ready else "UNLOADING"),),
                pending=serving.pending,
                archive=serving.model.archive.name,
            )
            for name, found in self._models.items()
            for number, (version, serving) in enumerate(found.items())
        ]

    async def describe(self, name: str, version: str | None = None) -> Mapping[str, Any]:
        """See :meth:`~marquee.gateway.backend.Backend.describe`."""
        serving = self._find(name, version)
        return await serving.run(serving.model.describe)

    async def manage(self, method: str, path: str, query: Mapping[str, str], body: bytes = b"") -> Reply:
        """There is no management API here."""
        return Reply(status=501, body=_NO_MANAGEMENT)

    async def metrics(self) -> str:
        """None are counted here."""
        return ""

    async def gateway(self, config: GatewayConfig, access: Access) -> Gateway:
        """A gateway with nothing but this host behind it, after :meth:`open`."""
        return Gateway(
            config=config,
            backend=self,
            access=access,
            delivery=DirectDelivery(self),
            readiness=FixedReadiness(await self.versions()),
        )

    def _all(self) -> "list[_Serving]":
        return [serving for versions in self._models.values() for serving in versions.values()]

    def _find(self, name: str, version: str | None) -> "_Serving":
        found = self._models.get(name)
        if not found:
            raise AbsentError(f"unknown model {name!r}")
        if version is None:
            return next(iter(found.values()))
        if version not in found:
            raise AbsentError(f"model {name!r} has no version {version!r}; it has {', '.join(found)}")
        return found[version]


class _Serving:
    """A version and the one thread that answers for it."""

    def __init__(self, model: LoadedArchive) -> None:
        self.model = model
        self.executor = ThreadPoolExecutor(1, f"model-{model.name}")
        self.pending = 0
        self.is_ready = False

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """``function(*arguments)`` in the thread; cancelling the wait leaves out a call that has not begun."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.executor, function, *arguments)
        except RuntimeError as error:
            if "shutdown" not in str(error):
                raise
            raise LostError(f"{self.model.name} is closed") from error


class FixedReadiness:
    """See :class:`~marquee.gateway.gateway.Readiness`: what never changes.

    Args:
        versions: all of them.
    """

    def __init__(self, versions: Sequence[Version]) -> None:
        self._versions = tuple(versions)
        self.draining = False

    @property
    def is_ready(self) -> bool:
        """Whether every default version has a READY worker."""
        defaults = [version for version in self._versions if version.is_default]
        return bool(defaults) and not self.draining and all(version.ready_workers for version in defaults)

    @property
    def versions(self) -> Sequence[Version]:
        """As they were given."""
        return self._versions


class DirectDelivery:
    """See :class:`~marquee.gateway.gateway.Delivery`: one attempt, for a host that cannot die on its own.

    Args:
        backend: the host.
    """

    def __init__(self, backend: InProcess) -> None:
        self._backend = backend

    async def deliver(self, call: Call, seconds: float) -> Reply:
        """See :meth:`~marquee.gateway.gateway.Delivery.deliver`."""
        try:
            return await self._backend.ask(call, seconds)
        except AbsentError as error:
            raise GatewayError(NOT_FOUND, str(error)) from error
        except FullError as error:
            raise GatewayError(BUSY, str(error), retry_after=1.0) from error
        except LostError as error:
            raise GatewayError(NO_ANSWER, str(error), retry_after=1.0) from error
