"""The errors of this package.

::

    ServingError
    ├── InputError     one item of a request is at fault: it gets a 4xx of its own, its batch-mates succeed
    └── BundleError    a bundle (spec, weights, golden samples) is not what it says: the model is not served
"""


class ServingError(Exception):
    """Base of every error that this package raises on purpose."""


class BundleError(ServingError):
    """A bundle is incomplete, altered or answers differently from training's evaluation."""


class InputError(ServingError):
    """One input cannot be turned into an image; ``code`` is stable and meant for programs.

    Args:
        code: a key of :data:`STATUS_BY_CODE`.
        message: one sentence for people, free of file system paths.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def status(self) -> int:
        """The HTTP status that this error gets over REST."""
        return STATUS_BY_CODE[self.code]


STATUS_BY_CODE = {
    "empty": 400,
    "not_an_image": 400,
    "corrupt_image": 400,
    "unsupported_image": 400,
    "bad_request": 400,
    "bad_image_data": 400,
    "too_large": 413,
    "too_many_pixels": 413,
    "too_many_instances": 413,
    "internal_error": 500,
    "not_supported": 501,
    "inference_failed": 503,
    "busy": 503,
    "too_slow": 503,
}
"""Error code of an item -> HTTP status."""
