"""Settings of an import; the fields are the command-line options of marquee import."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Optional

from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import TrainingError
from marquee.training.importing.units import check_units
from marquee.training.tasks.image_classification.config import window_of


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """The model to import, and everything that its file does not specify."""

    model: Path
    """Weights (.safetensors, or a .pth, .pt, .ckpt, .bin or .pth.tar that holds no code), an ONNX file, a TensorFlow
    SavedModel folder, an OpenVINO IR (.xml), or a Keras file (.keras, .h5)."""
    labels: Path
    """File with the class names in the order of the model's outputs, one per line or as a JSON list; or with their
    indices: "0 cat" lines, a CSV of index and name, id2label or class_indices in JSON."""
    images: Path
    """Folder of real images, either in class folders or unlabelled. Some of them become golden samples."""
    arch: Optional[str] = None
    """Architecture of a weights file, such as resnet50."""
    library: Literal["timm", "torchvision"] = "timm"
    """Library that provides the architecture."""
    weights_key: Optional[str] = None
    """Which weights to take of a file that has several sets, such as ema or state_dict/teacher; None: there is one."""
    size: Optional[int] = None
    """Side length of the model's square input in pixels; None: that of the architecture or the file, else 224."""
    resize: Optional[int] = None
    """Side of the resized image before the centre crop, in pixels; None: with fit crop as for the architecture's
    pretrained weights, else size / 0.875; with squash and pad the size."""
    fit: Optional[Literal["crop", "squash", "pad"]] = None
    """How an image becomes a square: crop: its short side is resized and the centre is taken; squash: both sides are
    resized, as Keras does by default; pad: its long side is resized and the rest filled with background. None: squash
    for a Keras file, else crop."""
    mean: Optional[tuple[float, ...]] = None
    """Mean to subtract from each channel, in the units of --input-range and the order of --channel-order; None: that of
    the architecture, else 0."""
    std: Optional[tuple[float, ...]] = None
    """Standard deviation to divide each channel by, likewise; None: that of the architecture, else 1."""
    interpolation: Optional[Literal["bicubic", "bilinear"]] = None
    """Interpolation of the resize; None: that of the architecture, else bilinear."""
    channels: Literal[1, 3] = 3
    """Input channels: 1 for greyscale, 3 for RGB."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order of the model's channels: bgr for models that were trained on images as OpenCV or Caffe read them."""
    layout: Literal["auto", "nchw", "nhwc"] = "auto"
    """Order of the input dimensions of a converted model; auto: inferred from the shape of its input."""
    input_range: Literal[1, 255] = 1
    """Value of white before --mean and --std: 1 for models that take 0..1, 255 for those that take 0..255."""
    output: Literal["logits", "probabilities"] = "logits"
    """What the model outputs: probabilities if it ends in a softmax, else logits."""
    top_k: int = 5
    """Number of top-ranked labels in each served answer."""
    background: int = 255
    """Grey level, 0 to 255, that transparent pixels are composited over, and that pad adds."""
    window: str = "none"
    """LOW,HIGH: what is black and white in files of more than 8 bits a sample, in their own values; none: the range of
    their depth."""
    profile: Literal["ignore", "srgb"] = "ignore"
    """srgb: colours are converted to sRGB by the ICC profile of a file; ignore: they are taken as they are."""
    decode: Literal["scaled", "full"] = "scaled"
    """scaled: large JPEG files are decoded at reduced size, but at least at twice what the resize needs; full: every
    pixel is decoded."""
    licence: str = ""
    """Licence of the weights, recorded in the bundle."""

    def __post_init__(self) -> None:
        for name in ("size", "resize", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if self.size and self.resize and self.resize < self.size:
            raise ValueError(f"resize: expected at least --size ({self.size}), got {self.resize}")
        self._check_normalisation()
        if not 0 <= self.background <= 255:
            raise ValueError(f"background: expected 0 to 255, got {self.background}")
        if self.window != "none":
            window_of(self.window)

    def _check_normalisation(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and not all(map(math.isfinite, values)):
                raise ValueError(f"{name}: expected finite numbers, got {list(values)}")
            if values is not None and len(values) not in (1, self.channels):
                raise ValueError(f"{name}: expected 1 or {self.channels} numbers, got {len(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std: expected positive numbers, got {list(self.std)}")
        check_units(self.mean, self.std, self.input_range)
        if self.channel_order == "bgr" and self.channels != 3:
            raise ValueError("channel_order: bgr needs 3 channels; leave it out for greyscale")


@dataclass(frozen=True, kw_only=True)
class InputDefaults:
    """The input that a model was trained for, as far as it is known; used for options that are not given."""

    size: int = 224
    crop_pct: float = 0.875
    """Size divided by the length of the resized short side."""
    mean: tuple[float, ...] = (0.0,)
    """Per channel, for white = 1."""
    std: tuple[float, ...] = (1.0,)
    """Per channel, for white = 1."""
    interpolation: Literal["bicubic", "bilinear"] = "bilinear"


def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One number per channel; a single number is repeated, and those of RGB channels are averaged for greyscale."""
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (sum(values) / len(values),) * channels


def image_spec(config: ImportConfig, defaults: InputDefaults) -> ImageSpec:
    """The preprocessing, in the bundle's units (white = 1).

    Raises:
        TrainingError: ``--resize`` is smaller than the model's input.
    """
    size = config.size or defaults.size
    fit = config.fit or "crop"
    # The whole image is to be seen when it is squashed or padded.
    resize = config.resize or (max(size, round(size / defaults.crop_pct)) if fit == "crop" else size)
    if resize < size:
        raise TrainingError(f"--resize {resize}: {config.model} takes {size} pixels; use at least that")
    # The mean and standard deviation of an architecture are for white = 1.
    fallback = defaults if config.input_range == 1 else InputDefaults()
    mean, std = (
        per_channel(fallback_values if values is None else values, config.channels)
        for values, fallback_values in ((config.mean, fallback.mean), (config.std, fallback.std))
    )
    # Those of the spec are for the decoded pixels, which have red first.
    step = -1 if config.channel_order == "bgr" else 1
    return ImageSpec(
        channels=config.channels,
        resize=resize,
        crop=size,
        interpolation=config.interpolation or defaults.interpolation,
        mean=tuple(value / config.input_range for value in mean[::step]),
        std=tuple(value / config.input_range for value in std[::step]),
        background=config.background,
        decode=config.decode,
        reading="file",
        window=None if config.window == "none" else window_of(config.window),
        fit=fit,
        profile=config.profile,
    )
