"""How much memory the batch size finder may use."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    """How much memory a training process may use."""

    fraction: float = 0.8
    """Share of the currently available memory. The rest is left for loader processes and file caches."""
    size: int = 0
    """Limit in bytes; 0: determined by the fraction."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"memory-fraction: expected more than 0 and at most 1, got {self.fraction:g}")
        if self.size < 0:
            raise ValueError(f"memory-bytes: expected at least 0, got {self.size}")


def mib(size: int) -> str:
    """Formats a number of bytes in MiB."""
    return f"{size / 2**20:.0f} MiB"
