"""Tells the operator that somebody is refused, without letting whoever tries keys out fill the log."""

import logging
import time
from collections.abc import Callable

from marquee.gateway.access.rates import Rate, Rates

log = logging.getLogger("marquee.gateway.keys")

_QUIET = 10.0
"""Seconds between two lines about one address."""
_LINES = Rate(10, 1)
"""Lines about all addresses together."""
_MANY = 1_024


class Failures:
    """Logs refusals for want of a key or a scope: one line an address in ten seconds, ten lines a second in all.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rates = Rates(clock)
        self._logged: dict[str, float] = {}
        self._left_out = 0

    def note(self, host: str, what: str) -> None:
        """Logs one refusal, or counts it for the next line.

        Args:
            host: the address that the request came from, without the port.
            what: the refusal, without secrets and control characters.
        """
        now = self._clock()
        if now - self._logged.get(host, -_QUIET) < _QUIET or self._rates.admit("", _LINES) is not None:
            self._left_out += 1
            return
        if len(self._logged) >= _MANY:
            self._logged = {name: at for name, at in self._logged.items() if now - at < _QUIET}
        self._logged[host] = now
        more = f"; {self._left_out} others were refused since the last such line" if self._left_out else ""
        self._left_out = 0
        log.warning("refused %s: %s%s", host, what, more)
