"""The errors of this package."""


class OperationError(Exception):
    """Packaging, starting a server or a request to it failed; the message says what happened and what to do next."""
