"""Where the project's log goes: to stderr, a line a message, for people."""

import logging
import sys
from typing import TextIO


class _Formatter(logging.Formatter):
    """Plain lines for what happens, and the level in front of what should not."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = super().format(record)
        return line if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {line}"


class _ToStderr(logging.Handler):
    """Writes to what stderr is at that moment: a progress bar puts itself in its place, and a notebook, too."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line."""
        try:
            stream: TextIO = sys.stderr
            stream.write(self.format(record) + "\n")
            stream.flush()
        except Exception:
            self.handleError(record)


def log_to_stderr() -> None:
    """Shows what Marquee does, and other libraries' warnings, unless logging is configured already."""
    ours = logging.getLogger("marquee")
    if ours.level == logging.NOTSET:
        ours.setLevel(logging.INFO)
    if not ours.hasHandlers():
        handler = _ToStderr()
        handler.setFormatter(_Formatter())
        logging.getLogger().addHandler(handler)
