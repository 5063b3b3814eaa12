"""Where the project's log goes: to stderr, a line a message, for people."""

import logging


class _Formatter(logging.Formatter):
    """Plain lines for what happens, and the level in front of what should not."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = super().format(record)
        return line if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {line}"


def log_to_stderr() -> None:
    """Shows what Marquee does, and other libraries' warnings, unless logging is configured already."""
    logging.getLogger("marquee").setLevel(logging.INFO)
    if not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter())
        logging.getLogger().addHandler(handler)
