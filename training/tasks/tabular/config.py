"""The configuration of a run on a table; zeros and ``auto`` are replaced by what follows from the data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

from marquee.training.core.config import (
    ExportConfig,
    LoopConfig,
    OptimizerConfig,
    RunConfig,
    SplitConfig,
    at_least,
    within,
)
from marquee.training.tasks.tabular.prepare_config import PrepareConfig
from marquee.training.tasks.tabular.table_config import TableConfig


@dataclass(frozen=True, kw_only=True)
class TableSplitConfig(SplitConfig):
    """How rows are split. Rows with equal cells are always in the same split."""

    by: Literal["auto", "random", "group", "time"] = "auto"
    """random: by chance, classes in proportion; group: groups stay whole; time: the oldest rows train and the newest
    test; auto: time if table.time names a column, else group if table.group does, else random."""


@dataclass(frozen=True, kw_only=True)
class TableModelConfig:
    """The model."""

    name: Literal["linear", "mlp", "tabm"] = "linear"
    """linear: linear or logistic regression in float64; mlp: fully connected layers in float32; tabm: an ensemble of
    such networks that share most weights (Gorishniy et al., 2024)."""
    width: int = 256
    """Units of a hidden layer."""
    depth: int = 3
    """Hidden layers."""
    dropout: float = 0.1
    """Dropout probability after each hidden layer."""
    members: int = 16
    """Networks in the ensemble of tabm."""
    embeddings: Literal["none", "periodic"] = "none"
    """Embeddings of the numbers (Gorishniy et al., 2022): periodic gives each number a vector of learned sines and
    cosines, which helps where the answer is no smooth function of it."""
    embedding_size: int = 16
    """Length of such a vector."""
    embedding_scale: float = 0.05
    """Deviation of the periodic embeddings' initial frequencies: larger values fit rougher functions."""

    def __post_init__(self) -> None:
        at_least(self, width=1, depth=1, members=1, embedding_size=1)
        within(self, 0, 0.95, "dropout")
        within(self, 1e-4, 100, "embedding_scale")
        if self.name == "linear" and self.embeddings != "none":
            raise ValueError("embeddings: expected none with model.name linear, which would not be linear any more")


@dataclass(frozen=True, kw_only=True)
class TableLossConfig:
    """The training loss. Errors of a regression are in units of the scaled target (prepare.target)."""

    name: Literal["auto", "mse", "mae", "huber", "cross-entropy"] = "auto"
    """mse: squared error; mae: absolute error; huber: squared for small errors, absolute for larger ones; cross-entropy
    for classes; auto: mse or cross-entropy."""
    huber_delta: float = 1.0
    """Error at which the Huber loss changes from squared to absolute."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class has the same weight in the loss, however rare."""
    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over all classes."""
    l1: float = 0.0
    """Factor of the sum of the weights' magnitudes, which is added to the loss: it makes weights zero."""
    l2: float = 0.0
    """Factor of the sum of the squared weights, which is added to the loss; unlike optimizer.weight-decay, it is
    scaled by Adam like every other gradient."""

    def __post_init__(self) -> None:
        at_least(self, l1=0, l2=0)
        within(self, 1e-6, 1e6, "huber_delta")
        within(self, 0, 0.9, "label_smoothing")


@dataclass(frozen=True, kw_only=True)
class TableAugmentConfig:
    """Random changes of the training rows; validation and test rows are not changed."""

    jitter: float = 0.0
    """Deviation of the Gaussian noise that is added to the scaled numbers."""
    mixup: float = 0.0
    """Alpha of mixup (Zhang et al., 2018): pairs of prepared rows and their targets are blended; 0 switches it off."""

    def __post_init__(self) -> None:
        at_least(self, jitter=0, mixup=0)


@dataclass(frozen=True, kw_only=True)
class TableOptimizerConfig(OptimizerConfig):
    """The optimiser and its learning rate."""

    name: str = "auto"
    """auto: sgd for least squares (model.name linear and loss.name mse, on full batches, without loss.l1 and
    augmentation), adam for other linear models, adamw for networks; or another name of timm.optim."""
    lr: float = 0.0
    """Peak learning rate; 0: from the curvature of the loss for least squares (see docs/tables.md), 0.01 for other
    linear models, 0.001 for networks."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine and one-cycle schedules."""
    schedule: Literal["auto", "cosine", "one-cycle", "step", "constant"] = "auto"  # type: ignore[assignment]
    """Schedule of the learning rate after the warm-up; auto: constant for least squares, else cosine."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from zero; may be a fraction."""
    weight_decay: float = -1.0
    """Weight decay; -1: none for a linear model, else 0.0001. Not applied to biases and other vectors."""
    momentum: float = -1.0
    """Momentum of sgd; -1: from the curvature of the loss for least squares, else 0.9."""
    clip_norm: float = -1.0
    """Largest global norm of the gradients; 0 switches clipping off; -1: off for a linear model, else 1."""

    @property
    def is_open(self) -> bool:
        """Whether the optimiser is left to the data."""
        return self.name == "auto"

    def __post_init__(self) -> None:
        at_least(self, warmup_epochs=0, step_epochs=1, freeze_epochs=0, weight_decay=-1, clip_norm=-1, lr=0, min_lr=0)
        within(self, 0, 0.99999, "beta1", "beta2")
        within(self, -1, 0.99999, "momentum")
        within(self, 0.01, 1, "layer_decay", "step_factor")
        for name in ("momentum", "weight_decay", "clip_norm"):
            if -1 < getattr(self, name) < 0:
                raise ValueError(f"{name}: expected -1, or at least 0, got {getattr(self, name)}")
        if self.lr:
            self.check_rates()


@dataclass(frozen=True, kw_only=True)
class TableLoopConfig(LoopConfig):
    """The training loop."""

    epochs: int = 0
    """Passes over the training rows, unless an epoch has several (passes); 0: as many as least squares (see
    optimizer.name) needs to converge, up to 1000; else 200."""
    passes: int = 0
    """Passes over the training rows that count as one epoch; validation and a checkpoint follow each. 0: 100 for least
    squares whose epochs are not given, else 1."""
    batch_size: int = 0
    """Rows per step, over all devices together; -1: all of them; 0: all for least squares, else 32 to 512."""
    patience: int = -1
    """Epochs without a better validation score before training stops; 0: never; -1: never for least squares, which has
    a minimum to converge to, else 25."""
    gradient_tolerance: float = -1.0
    """Training stops when the norm of an epoch's last gradient is at most this; 0: never; -1: 1e-9 for least squares,
    else never."""
    select: Literal["auto", "validation", "last"] = "auto"  # type: ignore[assignment]
    """Epoch whose weights are exported. validation: the one with the best validation score; auto: last for least
    squares without patience, else validation."""
    precision: Literal["auto", "fp64", "fp32", "bf16", "fp16"] = "auto"  # type: ignore[assignment]
    """Number format of the network; auto: fp64 for a linear model, else fp32. Preparation is always in float64."""
    device: str = "cpu"
    """cpu, or another device of PyTorch's; auto: the first that is available of cuda, mps and cpu. Small networks are
    faster on a CPU."""

    def __post_init__(self) -> None:
        at_least(self, epochs=0, passes=0, batch_size=-1, accumulate=1, patience=-1, workers=-1, seed=0)
        at_least(self, loss_tolerance=0)
        within(self, 0, 0.999999, "ema")
        if self.gradient_tolerance < 0 and self.gradient_tolerance != -1:
            raise ValueError(f"gradient_tolerance: expected -1, or at least 0, got {self.gradient_tolerance}")


@dataclass(frozen=True, kw_only=True)
class TableExportConfig(ExportConfig):
    """The content of the bundle."""

    interval: float = 0.9
    """Share of the intervals around a predicted number that contain the truth (split conformal prediction)."""
    clip: bool = True
    """Answers of a regression stay within the range of the target in training."""
    top_k: int = 5
    """Number of most probable labels in a served answer."""
    calibrate: bool = True
    """Fit the temperature of the probabilities on the validation rows (Guo et al., 2017)."""
    max_error: float = 0.0
    """Target error rate among accepted answers: less certain answers are marked as abstained. 0: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, top_k=1)
        within(self, 0.5, 0.999, "interval")
        within(self, 0, 0.9, "max_error")


@dataclass(frozen=True, kw_only=True)
class TableRunConfig(RunConfig):
    """All parts."""

    table: TableConfig = field(default_factory=TableConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    model: TableModelConfig = field(default_factory=TableModelConfig)
    loss: TableLossConfig = field(default_factory=TableLossConfig)
    augment: TableAugmentConfig = field(default_factory=TableAugmentConfig)
    split: TableSplitConfig = field(default_factory=TableSplitConfig)
    optimizer: TableOptimizerConfig = field(default_factory=TableOptimizerConfig)
    loop: TableLoopConfig = field(default_factory=TableLoopConfig)
    export: TableExportConfig = field(default_factory=TableExportConfig)

    short_options: ClassVar[Mapping[str, str]] = MappingProxyType({"target": "table.target"})
    changed_most: ClassVar[tuple[str, ...]] = (
        "table.target",
        "table.ignore",
        "table.group",
        "table.time",
        "model.name",
        "model.width",
        "prepare.impute",
        "prepare.scale",
        "loss.name",
        "loop.epochs",
        "loop.batch_size",
        "loop.seed",
        "optimizer.lr",
        "export.interval",
    )

    def __post_init__(self) -> None:
        if self.split.by == "group" and not self.table.group:
            raise ValueError("split.by: group needs the column of the groups, table.group")
        exact = self.model.name == "linear"
        if self.loop.precision not in (("auto", "fp64") if exact else ("auto", "fp32", "bf16", "fp16")):
            expected = "fp64" if exact else "fp32, bf16 or fp16"
            raise ValueError(f"loop.precision: model.name {self.model.name} computes in {expected}")
        if self.split.by == "time" and not self.table.time:
            raise ValueError("split.by: time needs the column of the times, table.time")


@dataclass(frozen=True, kw_only=True)
class TabularRegressionConfig(TableRunConfig):
    """All parts of a run that predicts a number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss.name == "cross-entropy":
            raise ValueError("loss.name: cross-entropy is for classes; use mse, mae or huber, or another --task")
        if self.loss.class_weights != "none" or self.loss.label_smoothing:
            raise ValueError("loss: class_weights and label_smoothing are for classes; a regression has none")

    @property
    def task(self) -> str:
        """Predicts a number."""
        return "tabular-regression"


@dataclass(frozen=True, kw_only=True)
class TabularClassificationConfig(TableRunConfig):
    """All parts of a run that predicts a class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss.name in ("mse", "mae", "huber"):
            raise ValueError(f"loss.name: {self.loss.name} is for numbers; use cross-entropy, or another --task")

    @property
    def task(self) -> str:
        """Predicts a class."""
        return "tabular-classification"
