"""The errors of this package."""


class OperationError(Exception):
    """Packaging, starting or asking a server failed; the message says what happened and what to do next."""
