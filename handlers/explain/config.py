"""What ``model-config.yaml`` says about explanations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DEFAULT_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Whether a worker explains, and how long that may hold it."""

    enabled: bool = True
    """``explain``: False answers every explanation with 501."""
    seconds: float = DEFAULT_SECONDS
    """``explain_seconds``: what the explanations of one batch may take together, loading not counted."""

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise ValueError(f"explain: expected true or false, got {self.enabled!r}")
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, (int, float)) or not 0 < self.seconds <= 600:
            raise ValueError(f"explain_seconds: expected seconds, above 0 and at most 600, got {self.seconds!r}")

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "ExplainConfig":
        """The keys ``explain`` and ``explain_seconds``, with defaults for absent ones.

        Raises:
            ValueError: one of them is wrong, or the front end would end the worker first (``responseTimeout``).
        """
        read = cls(enabled=config.get("explain", True), seconds=config.get("explain_seconds", DEFAULT_SECONDS))
        patience = config.get("responseTimeout")
        if isinstance(patience, (int, float)) and read.seconds >= patience:
            raise ValueError(f"explain_seconds: expected less than responseTimeout ({patience}), got {read.seconds}")
        return read
