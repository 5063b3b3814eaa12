"""Logging, one line per message: to stderr for people at a terminal, to stdout for a service."""

import logging
import sys
from typing import TextIO


class _Formatter(logging.Formatter):
    """Plain lines up to level INFO, and the level in front of warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        line = super().format(record)
        return line if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {line}"


class _Timed(_Formatter):
    """The same with the time in front."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for a record."""
        return f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S%z')} {super().format(record)}"


class _ToStderr(logging.Handler):
    """Writes to the current ``sys.stderr``, which a progress bar or a notebook may have replaced."""

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
    logger = logging.getLogger("marquee")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    if not logger.hasHandlers():
        handler = _ToStderr()
        handler.setFormatter(_Formatter())
        logging.getLogger().addHandler(handler)


def log_to_stdout() -> None:
    """As :func:`log_to_stderr`, in its place, but to stdout and with the time: for what runs as a service."""
    logger = logging.getLogger("marquee")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _ToStderr)]:
        root.removeHandler(handler)
    to_stdout = logging.StreamHandler(sys.stdout)
    to_stdout.setFormatter(_Timed())
    root.addHandler(to_stdout)
