"""The one owner of SIGTERM, SIGINT and SIGHUP, whoever else would like to have them."""

import asyncio
import logging
import os
import signal

logger = logging.getLogger(__name__)


class Signals:
    """The first signal asks for an end in good order, the second for one at once, the third does it.

    A terminal that is closed sends SIGHUP twice, so it counts once. Under nohup it stays ignored.
    """

    def __init__(self) -> None:
        self.stop, self.hurry = asyncio.Event(), asyncio.Event()

    def own(self) -> None:
        """From now on, in the loop that runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._receive, number)

    def _receive(self, number: signal.Signals) -> None:
        if not self.stop.is_set():
            logger.info(f"{number.name}: ending; once more ends at once")
            self.stop.set()
        elif number == signal.SIGHUP:
            return
        elif not self.hurry.is_set():
            logger.warning(f"{number.name} again: ending at once")
            self.hurry.set()
        else:
            os._exit(1)
