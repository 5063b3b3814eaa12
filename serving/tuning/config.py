"""What tuning looks for, and how long."""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """What to look for, and how long."""

    p99_ms: Optional[float] = None
    """Milliseconds that 99 % of the answers may take; without it only the throughput counts."""
    max_accuracy_drop: Optional[float] = None
    """Accuracy that a variant may lose; without it, those that marquee optimize ranked are tried."""
    minutes: float = 10
    """Time to spend; a final that has begun finishes its round."""
    clients: int = 16
    """Requests that are under way at once."""
    seconds: float = 4
    """Of a short measurement; those of the final are twice as long."""

    def __post_init__(self) -> None:
        for name in ("p99_ms", "minutes", "clients", "seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name.replace('_', '-')}: expected a positive number, got {value}")
        if self.max_accuracy_drop is not None and not 0 <= self.max_accuracy_drop < 1:
            raise ValueError(f"max-accuracy-drop: expected a number from 0 to 1, got {self.max_accuracy_drop}")
