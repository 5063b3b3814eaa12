"""What TorchServe was last seen to serve, and the start that brings it back."""

from dataclasses import dataclass
from pathlib import Path

from marquee.serving.client import Client
from marquee.serving.errors import OperationError
from marquee.serving.store import Reference, identity


@dataclass(frozen=True, kw_only=True)
class SeenVersion:
    """One version of a model."""

    name: str
    version: str
    is_default: bool
    archive: str
    """File name in the store, as it was registered. The file may be another version's by now."""
    workers: int
    """How many it should have, whether or not they live."""

    def reference(self, store: Path) -> Reference:
        """Where the store has this version today.

        Raises:
            OperationError: it has it no longer.
        """
        reference = Reference(name=self.name, version=self.version)
        try:
            reference.find(store)
        except OperationError:
            found = identity(store / self.archive)
            if found is None or found[1] != self.version:
                raise
            return Reference(name=self.name, version=self.version, archive=self.archive)  # under a name of its own
        return reference


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All of them."""

    versions: tuple[SeenVersion, ...]

    @classmethod
    def of(cls, client: Client) -> "Seen":
        """What the management API says now.

        Raises:
            OperationError: it does not answer, or a model went away in between.
        """
        versions = []
        for entry in client.list_models():
            name = entry["modelName"]
            (default,) = client.describe(name)
            for described in client.describe(name, "all"):
                versions.append(
                    SeenVersion(
                        name=name,
                        version=described["modelVersion"],
                        is_default=described["modelVersion"] == default["modelVersion"],
                        archive=described["modelUrl"],
                        workers=described["minWorkers"],
                    )
                )
        return cls(versions=tuple(versions))

    def references(self, store: Path) -> list[Reference]:
        """What to start with; of each model the default comes first, which is what makes it the default.

        Raises:
            OperationError: the store has one of them no longer.
        """
        return [entry.reference(store) for entry in sorted(self.versions, key=lambda entry: not entry.is_default)]

    def restore_workers(self, client: Client) -> None:
        """Gives each version the number of workers that it had; does not wait for them, since one is READY already.

        Args:
            client: of the server that was started again.

        Raises:
            OperationError: it refuses.
        """
        now = {(entry.name, entry.version): entry.workers for entry in Seen.of(client).versions}
        for entry in self.versions:
            if now.get((entry.name, entry.version)) != entry.workers:
                client.scale(entry.name, entry.workers, entry.version, wait=False)

    def __str__(self) -> str:
        """``digits 1.0 (2 workers)``, for a log."""
        words = [
            f"{entry.name} {entry.version} ({entry.workers} worker{'' if entry.workers == 1 else 's'})"
            for entry in self.versions
        ]
        return ", ".join(words) or "no model"
