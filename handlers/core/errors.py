"""The errors of this package.

::

    ServingError
    ├── InputError     one item of a request is at fault: it gets a 4xx of its own, its batch-mates succeed
    └── BundleError    a bundle (spec, weights, golden samples) is not what it says: the model is not served
"""

from collections.abc import Mapping
from typing import ClassVar

STATUS_BY_CODE = {
    "empty": 400,
    "bad_request": 400,
    "too_large": 413,
    "too_many_instances": 413,
    "internal_error": 500,
    "not_supported": 501,
    "inference_failed": 503,
    "busy": 503,
    "too_slow": 503,
}
"""Error code of an item -> HTTP status; a kind of input has further ones (:attr:`Input.codes`)."""


class ServingError(Exception):
    """Base of every error that this package raises on purpose."""


class BundleError(ServingError):
    """A bundle is incomplete, altered or answers differently from training's evaluation."""


class InputError(ServingError):
    """One input cannot be used; ``code`` is stable and meant for programs.

    Args:
        code: a key of :attr:`statuses`.
        message: one sentence for people, free of file system paths.
    """

    statuses: ClassVar[Mapping[str, int]] = STATUS_BY_CODE

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status that this error gets over REST."""
        return self.statuses[self.code]
