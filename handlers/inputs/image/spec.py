"""How the bytes of an image file become the pixels that an engine takes: that part of ``spec.json``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...core.input import Input, InputSpec
from ...core.oip.metadata import TensorSpec

if TYPE_CHECKING:  # a command line reads specs without numpy
    from ...core.arrays import Arrays
    from ...core.spec import ModelSpec

IMAGE = TensorSpec(name="image", datatype="BYTES")
"""The tensor of a request of the Open Inference Protocol (see :mod:`.tensors`)."""
PIXELS = "pixels"
"""Name of the array that an engine takes: uint8 (N, crop, crop, channels)."""


@dataclass(frozen=True, kw_only=True)
class ImageSpec(InputSpec):
    """How the bytes of a file become the uint8 array that an engine takes."""

    kind: Literal["image"] = "image"
    channels: int
    """1 (grey) or 3 (RGB)."""
    resize: int
    """Side in pixels of the resized image, before the centre crop: which side, ``fit`` says."""
    crop: int
    """Side in pixels of the square centre crop, which is the engine's input; at most ``resize``."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the (antialiased) resize."""
    mean: tuple[float, ...] = (0.0,)
    """Per channel, in 0..1; already applied inside the exported graph, kept here for the reader."""
    std: tuple[float, ...] = (1.0,)
    """Per channel, in 0..1; already applied inside the exported graph, kept here for the reader."""
    background: int = 255
    """Grey level, 0..255, that transparent pixels are composed over."""
    max_pixels: int = 50_000_000
    """Width x height above which an image is refused before it is decoded."""
    max_bytes: int = 20_000_000
    """Size of one encoded image above which it is refused."""
    decode: Literal["full", "scaled"] = "full"
    """How JPEG files are decoded: full: every pixel; scaled: at a half, a quarter or an eighth of their size, as long
    as both sides keep twice what the resize needs (see :func:`marquee.handlers.inputs.image.decode.decode`), which
    costs a fraction for photographs. Bundles that do not say it were measured with full."""
    reading: Literal["pillow", "file"] = "pillow"
    """Whose word counts for alpha, depth and photometric interpretation: file: the file's own; pillow: Pillow's mode,
    which is wrong for some files (see :mod:`marquee.handlers.inputs.image.meaning`). Bundles that do not say it were
    measured with pillow; training and imports write file."""
    window: tuple[float, ...] | None = None
    """Low and high, in the file's own sample values: what becomes black and white in files of more than 8 bits a
    sample. None: the range of the file's depth."""
    fit: Literal["crop", "squash", "pad"] = "crop"
    """How an image becomes a square: crop: the short side is resized to ``resize``; squash: both sides are; pad: the
    long side is, and the rest is filled with ``background``. The centre of ``crop`` pixels is then taken of it."""
    profile: Literal["ignore", "srgb"] = "ignore"
    """What an embedded ICC profile does: ignore: nothing; srgb: its colours are converted to sRGB."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels: expected 1 or 3, got {self.channels}")
        if self.crop < 1:
            raise ValueError(f"crop: expected at least 1, got {self.crop}")
        if self.resize < self.crop:
            raise ValueError(f"resize: expected at least crop ({self.crop}), got {self.resize}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name}: expected {self.channels} values, got {len(getattr(self, name))}")
        if min(self.std) <= 0:
            raise ValueError(f"std: expected positive values, got {list(self.std)}")
        for name in ("max_pixels", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        self._check_levels()

    def _check_levels(self) -> None:
        if not 0 <= self.background <= 255:
            raise ValueError(f"background: expected 0..255, got {self.background}")
        if self.window is not None and not (len(self.window) == 2 and self.window[0] < self.window[1]):
            raise ValueError(f"window: expected low < high, got {list(self.window)}")
        if self.reading == "pillow" and (self.window is not None or self.profile != "ignore"):
            raise ValueError(f"{'profile' if self.window is None else 'window'}: needs reading 'file'")

    @property
    def resizing(self) -> str:
        """What happens to an image before its centre is taken, for people."""
        if self.fit == "squash":
            return f"both sides to {self.resize} ({self.interpolation})"
        if self.fit == "pad":
            return f"long side to {self.resize} ({self.interpolation}), padded with grey level {self.background}"
        return f"short side to {self.resize} ({self.interpolation})"

    def create(self, threads: int = 1) -> Input:
        """See :class:`marquee.handlers.core.input.InputSpec`."""
        from .reader import ImageReader  # Pillow, which whoever only reads a spec does not need

        return ImageReader(self, threads)

    def example(self, items: int) -> "Arrays":
        """Black images."""
        import numpy as np

        return {PIXELS: np.zeros((items, self.crop, self.crop, self.channels), np.uint8)}

    def describe(self) -> dict[str, Any]:
        """The limits of what a client may send."""
        return {"max_bytes": self.max_bytes, "max_pixels": self.max_pixels}

    def tensors(self) -> Sequence[TensorSpec]:
        """Encoded images; pixels come under the same name."""
        return (IMAGE,)


def image_of(spec: "ModelSpec") -> ImageSpec:
    """The input of a model that takes images.

    Raises:
        TypeError: it takes something else.
    """
    if not isinstance(spec.input, ImageSpec):
        raise TypeError(f"expected a model of images, got one of kind {spec.input.kind!r}")
    return spec.input


SPEC = ImageSpec
