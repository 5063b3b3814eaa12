"""The handler's own settings: the section ``handler`` of ``model-config.yaml``, beside TorchServe's keys."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .schema import SchemaError, from_dict

CONFIG_FILE = "model-config.yaml"
SECTION = "handler"
"""The key under which TorchServe's own handlers, too, keep what the front end does not read."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Settings of one worker."""

    variant: str = "auto"
    """Name of the only variant to serve; ``auto``: the fastest that was measured and runs here."""
    threads: int = 0
    """Threads of the engine; 0: an equal share of the cores for each worker."""
    threads_alone: int = 0
    """Threads for a batch of one image; 0: twice ``threads``, up to the cores: such a batch comes when there is little
    to do, so that other workers' cores are free."""
    decode_threads: int = 0
    """Images of a batch that are decoded at once; 0: as many as ``threads``, which rest meanwhile."""
    explain: bool = True
    """Whether explanations are answered; False: each gets 501."""
    explain_seconds: float = 2.0
    """What the explanations of one batch may take together, loading not counted."""

    def __post_init__(self) -> None:
        for name in ("threads", "threads_alone", "decode_threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected a number from 0, got {getattr(self, name)}")
        if not 0 < self.explain_seconds <= 600:
            raise ValueError(f"explain_seconds: expected seconds, above 0 and at most 600, got {self.explain_seconds}")

    def resolve(self, workers: int, cores: int) -> "WorkerConfig":
        """With numbers in place of the zeros.

        Args:
            workers: that share the cores. More threads in all of them together than there are cores would make each
                many times slower.
            cores: that this process may use.
        """
        threads = self.threads or max(1, cores // max(1, workers))
        return replace(
            self,
            threads=threads,
            threads_alone=self.threads_alone or min(2 * threads, cores),
            decode_threads=self.decode_threads or threads,
        )


NAMES = tuple(field.name for field in fields(WorkerConfig))
"""The keys of the section."""


def read_worker_config(document: Mapping[str, Any]) -> WorkerConfig:
    """Reads the section of a whole ``model-config.yaml``; an absent section, or key, has its default.

    Raises:
        SchemaError: a key is unknown, has a wrong value, or lies outside the section, where nobody would read it; or
            the front end would end the worker (``responseTimeout``) before its explanations are due.
    """
    if misplaced := [name for name in NAMES if name in document]:
        raise SchemaError(f"{CONFIG_FILE}: {misplaced[0]}: belongs under the key {SECTION}")
    section = document.get(SECTION)
    try:
        config = from_dict(WorkerConfig, {} if section is None else section, SECTION)
    except SchemaError as error:
        raise SchemaError(f"{CONFIG_FILE}: {error}") from error
    patience = document.get("responseTimeout")
    if config.explain and isinstance(patience, (int, float)) and config.explain_seconds >= patience:
        raise SchemaError(
            f"{CONFIG_FILE}: {SECTION}.explain_seconds: expected less than responseTimeout ({patience}), "
            f"got {config.explain_seconds}"
        )
    return config
