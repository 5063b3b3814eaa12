"""The time that an explanation may take, as a number of passes of the model."""

import math
import time
from collections.abc import Callable

from ..core.errors import InputError

SHARE = 0.75
"""Of the time left that is planned for: the passes of a busy machine differ in length, and pictures take time too."""
CHUNK_SECONDS = 0.2
"""Length of the model's calls where many images go through it: what a deadline can be overrun by."""


class Budget:
    """Seconds from now on, and the passes that fit into them.

    Args:
        seconds: until the deadline.
        clock: seconds, rising; another one in tests.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.seconds = seconds
        self._deadline = clock() + seconds

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._deadline - self._clock()

    def check(self) -> None:
        """Called between two calls of the model.

        Raises:
            InputError: ``too_slow``, the deadline has passed.
        """
        if self.left <= 0:
            raise InputError("too_slow", f"the explanation took more than its {self.seconds:g} s; {_ADVICE}")

    def measure(self, call: Callable[[], object]) -> float:
        """Seconds that ``call`` takes, the faster of two: the first one may still be making things ready."""
        durations = []
        for _ in range(2):
            self.check()
            begin = self._clock()
            call()
            durations.append(self._clock() - begin)
        return max(min(durations), 1e-6)

    def passes(self, seconds_each: float, least: int) -> int:
        """How many passes of ``seconds_each`` fit.

        Raises:
            InputError: ``too_slow``, fewer than ``least``.
        """
        fitting = int(max(self.left, 0) * SHARE / seconds_each)
        if fitting < least:
            milliseconds = 1000 * seconds_each
            raise InputError(
                "too_slow",
                f"it takes {least} passes of the model, {milliseconds:.{0 if milliseconds >= 1 else 4}f} ms each here, "
                f"and {max(self.left, 0):.1f} s are left for {fitting}; {_ADVICE}",
            )
        return fitting


def chunk(seconds_each: float, most: int) -> int:
    """Images that go through the model at once."""
    return max(1, min(most, math.floor(CHUNK_SECONDS / seconds_each)))


_ADVICE = "ask for coarser settings or another method, or raise handler.explain_seconds in model-config.yaml"
