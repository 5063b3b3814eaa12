"""What is known about a model that comes from elsewhere; the fields are the command line of marquee import."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from marquee.handlers.spec import ImageSpec
from marquee.training.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """The model and everything that its file does not tell."""

    model: Path
    """Weights (.safetensors, or a .pth or .pt with nothing but tensors), an ONNX file, a TensorFlow SavedModel folder,
    an OpenVINO IR (.xml), or a Keras file (.keras, .h5)."""
    labels: Path
    """Class names in the order of the model's outputs: one a line, or a JSON list."""
    images: Path
    """Real images: class folders, or a folder of files whose classes are not known. They become golden samples."""
    arch: Optional[str] = None
    """Architecture that weights belong to, such as resnet50."""
    library: Literal["timm", "torchvision"] = "timm"
    """Where the architecture comes from."""
    size: Optional[int] = None
    """Side of the model's square input; None: the architecture's or the file's own, else 224."""
    resize: Optional[int] = None
    """Length of the image's short side before the centre crop; None: as the architecture's authors have it, else
    size / 0.875."""
    mean: Optional[tuple[float, ...]] = None
    """Subtracted from each channel, in the units of --input-range; None: the architecture's, else 0."""
    std: Optional[tuple[float, ...]] = None
    """What each channel is then divided by; None: the architecture's, else 1."""
    interpolation: Optional[Literal["bicubic", "bilinear"]] = None
    """Filter of the resize; None: the architecture's, else bilinear."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: RGB."""
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    """Order of the dimensions that a converted model takes; auto: as its input's shape tells."""
    input_range: Literal[1, 255] = 1
    """White, before --mean and --std: 1 for models that take 0..1, 255 for those that take 0..255."""
    output: Literal["logits", "probabilities"] = "logits"
    """What the model gives: probabilities when it ends in a softmax."""
    top_k: int = 5
    """Labels that a served answer ranks."""
    background: int = 255
    """Grey level that transparent pixels are composed over."""
    decode: Literal["scaled", "full"] = "scaled"
    """scaled: large JPEG files are decoded at a fraction of their size, never below twice what the resize needs; full:
    every pixel is decoded."""
    licence: str = ""
    """Licence of the weights, kept in the bundle."""

    def __post_init__(self) -> None:
        for name in ("size", "resize", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if self.size and self.resize and self.resize < self.size:
            raise ValueError(f"resize: expected at least --size ({self.size}), got {self.resize}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, self.channels):
                raise ValueError(f"{name}: expected 1 or {self.channels} numbers, got {len(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std: expected positive numbers, got {list(self.std)}")
        if not 0 <= self.background <= 255:
            raise ValueError(f"background: expected 0 to 255, got {self.background}")


@dataclass(frozen=True, kw_only=True)
class InputDefaults:
    """The input that a model was made for, as far as it tells; what the command line leaves open is taken from here."""

    size: int = 224
    crop_pct: float = 0.875
    """Size divided by the length of the resized short side."""
    mean: tuple[float, ...] = (0.0,)
    """Per channel, for white = 1."""
    std: tuple[float, ...] = (1.0,)
    """Per channel, for white = 1."""
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One number for each channel; a single one holds for all, and those of colours are averaged for grey."""
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (sum(values) / len(values),) * channels


def image_spec(config: ImportConfig, defaults: InputDefaults) -> ImageSpec:
    """The preprocessing, in the bundle's units (white = 1).

    Raises:
        TrainingError: ``--resize`` is smaller than the model's input.
    """
    size = config.size or defaults.size
    resize = config.resize or max(size, round(size / defaults.crop_pct))
    if resize < size:
        raise TrainingError(f"--resize {resize}: {config.model} takes {size} pixels; give at least that")
    # An architecture's own numbers are for white = 1.
    fallback = defaults if config.input_range == 1 else InputDefaults()
    mean, std = (
        per_channel(fallback_values if values is None else values, config.channels)
        for values, fallback_values in ((config.mean, fallback.mean), (config.std, fallback.std))
    )
    return ImageSpec(
        channels=config.channels,
        resize=resize,
        crop=size,
        interpolation=config.interpolation or defaults.interpolation,
        mean=tuple(value / config.input_range for value in mean),
        std=tuple(value / config.input_range for value in std),
        background=config.background,
        decode=config.decode,
    )
