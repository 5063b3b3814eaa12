"""How much memory the batch size finder may use."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """How much memory a training process may take."""

    fraction: float = 0.8
    """Share of the memory that is available now. The rest is for loader processes and file caches."""
    size: int = 0
    """The limit itself, in bytes; 0: by the fraction."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"memory-fraction: expected more than 0 and at most 1, got {self.fraction:g}")
        if self.size < 0:
            raise ValueError(f"memory-bytes: expected at least 0, got {self.size}")


def mib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**20:.0f} MiB"
