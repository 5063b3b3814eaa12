"""How many items a client may send in which time.

A rate is written as in the library ``limits``: ``100/second``, ``5000 per hour``, ``10/2 hours``. A client that was
quiet may send one period's items at once, and then as many as its rate lets through: of 100/second the first 100 at
once, then one every 10 ms. How many items a request holds is known when it is answered, so a client may send more than
it has left, and then waits until that is paid off: after one request of 1,000 rows about 9 seconds.

This is the generic cell rate algorithm: it keeps, for each client, the one moment at which everything that it sent
would have been sent at its rate. The windows of ``limits`` (seen with 5.8) do not fit: they refuse a request that is
larger than the rate, forget what was sent beyond it, and go by the wall clock, so that after the clock was set back by
an hour a moving window lets nothing through for an hour.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache

from marquee.serving.errors import OperationError

_MOST = 1_000_000_000
_MANY = 4_096


@dataclass(frozen=True)
class Rate:
    """So many items in so many seconds."""

    items: int
    seconds: int

    def __post_init__(self) -> None:
        if not 1 <= self.items <= _MOST:
            raise ValueError(f"rate: expected 1 to {_MOST:,} items")
        if self.seconds < 1:
            raise ValueError(f"rate: expected at least a second, got {self.seconds}")


@lru_cache(maxsize=1_024)
def parse_rate(text: str) -> Rate:
    """Reads a rate.

    Raises:
        ValueError: it is none.
        OperationError: the library that reads it is not installed.
    """
    try:
        import limits
    except ModuleNotFoundError as error:
        raise OperationError("a rate needs the package limits; pip install 'marquee[gateway]'") from error
    try:
        (found,) = limits.parse_many(text)  # it takes lists of rates, too
    except ValueError as error:
        raise ValueError(f"rate: expected items and a time, such as 100/second, got {text[:80]!r}") from error
    return Rate(found.amount, found.get_expiry())


class Rates:
    """What each client has sent. It is kept in memory: after a restart everybody may send a period's items.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paid_off: dict[Hashable, float] = {}
        """When what a client has sent would have been sent at its rate; in the past for one that was quiet."""

    def admit(self, client: Hashable, rate: Rate) -> float | None:
        """Counts one item, if there is one left.

        Args:
            client: whose it is.
            rate: the client's.

        Returns:
            None where it was counted; else the seconds after which it would be.
        """
        now = self._clock()
        after = max(self._paid_off.get(client, now), now) + rate.seconds / rate.items
        # The last of a period's items must not fail by the rounding of a sum.
        wait = after - now - rate.seconds * (1 + 1e-9)
        if wait > 0:
            return wait
        self._set(client, after, now)
        return None

    def charge(self, client: Hashable, rate: Rate, items: int) -> None:
        """Counts items that were sent, whether any were left or not.

        Args:
            client: whose they are.
            rate: the client's.
            items: how many.
        """
        now = self._clock()
        self._set(client, max(self._paid_off.get(client, now), now) + items * rate.seconds / rate.items, now)

    def _set(self, client: Hashable, moment: float, now: float) -> None:
        if len(self._paid_off) >= _MANY and client not in self._paid_off:
            # One that has paid off is like one that was never seen.
            self._paid_off = {name: until for name, until in self._paid_off.items() if until > now}
        self._paid_off[client] = moment
