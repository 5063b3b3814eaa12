"""What a load generator says about one load."""

import json
from dataclasses import dataclass

from benchmarks.serving.errors import ContenderError
from marquee.handlers.schema import from_dict


@dataclass(frozen=True, kw_only=True)
class Load:
    """Clients that send the next request when the last one is answered."""

    requests: int
    """Answered ones, whatever the answer."""
    seconds: float
    refused: int
    """Answers with a status of 400 or more."""
    socket_errors: int
    timeouts: int
    p50_ms: float
    """Median latency; of all answers."""
    p90_ms: float
    p99_ms: float

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"seconds: expected more than 0, got {self.seconds}")

    @property
    def good(self) -> int:
        """Requests that were answered as they should be."""
        return max(0, self.requests - self.refused)

    @property
    def errors(self) -> int:
        """Requests that were not."""
        return self.refused + self.socket_errors + self.timeouts


def parse_load(output: str) -> Load:
    """Reads the last line of a load generator.

    Raises:
        ContenderError: it is no such line.
    """
    lines = output.strip().splitlines()
    try:
        return from_dict(Load, json.loads(lines[-1]))
    except (IndexError, ValueError) as error:  # JSON's and the schema's errors are ValueErrors
        raise ContenderError(f"the load generator's last line is not its result: {lines[-1:]} ({error})") from error
