"""Goal and limits of tuning."""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Goal and limits of tuning."""

    p99_ms: Optional[float] = None
    """Latency limit in milliseconds for 99 % of the answers; without it, only throughput counts."""
    max_accuracy_drop: Optional[float] = None
    """Accuracy that a variant may lose; without it, the variants that marquee optimize ranked are tried."""
    minutes: float = 10
    """Total time in minutes; a round of the final that has begun is completed."""
    clients: int = 16
    """Concurrent requests."""
    seconds: float = 4
    """Length of a short measurement in seconds; those of the final are twice as long."""

    def __post_init__(self) -> None:
        for name in ("p99_ms", "minutes", "clients", "seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name.replace('_', '-')}: expected a positive number, got {value}")
        if self.max_accuracy_drop is not None and not 0 <= self.max_accuracy_drop < 1:
            raise ValueError(f"max-accuracy-drop: expected a number from 0 to 1, got {self.max_accuracy_drop}")
