"""The configuration of a run: one typed, keyword-only dataclass per part, validated on construction.

The same fields are the command line (``--optimizer.lr 1e-3``), the ``--config`` file (YAML) and the resolved
``config.yaml`` that a run keeps. This module defines the parts that every task has; a task adds its own
(:data:`marquee.training.tasks.TASKS`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

from marquee.handlers.core.schema import SchemaError, from_dict, to_dict
from marquee.training.core.errors import TrainingError
from marquee.training.core.yaml_text import dump_yaml, read_yaml
from marquee.training.tasks import DEFAULT_TASK, default_config

T = TypeVar("T")

RECIPES = Path(__file__).absolute().parent.parent.parent / "recipes"
"""Folder of the configurations that ``--config`` accepts by name."""


def at_least(part: Any, **limits: float) -> None:
    """Raises ValueError for a field of ``part`` that is below its limit."""
    for name, low in limits.items():
        if getattr(part, name) < low:
            raise ValueError(f"{name}: expected at least {low:g}, got {getattr(part, name)}")


def within(part: Any, low: float, high: float, *names: str) -> None:
    """Raises ValueError for a field of ``part`` outside of low..high."""
    for name in names:
        if not low <= getattr(part, name) <= high:
            raise ValueError(f"{name}: expected {low:g} to {high:g}, got {getattr(part, name)}")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How items are split if the data set does not define splits."""

    val: float = 0.15
    """Fraction of each class for validation: early stopping and the choice of the best checkpoint."""
    test: float = 0.15
    """Fraction of each class that is held out and evaluated once, at the end."""

    def __post_init__(self) -> None:
        within(self, 0, 0.9, "val", "test")
        if self.val <= 0:
            raise ValueError("val: expected more than 0; early stopping needs validation items")
        if self.val + self.test > 0.9:
            raise ValueError(f"val + test: expected at most 0.9, got {self.val + self.test:g}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser and its learning rate."""

    name: str = "adamw"
    """adamw, adam, sgd (with Nesterov momentum), or another name of timm.optim
    (``python -c "import timm.optim; print(timm.optim.list_optimizers())"``)."""
    lr: float = 1e-3
    """Peak learning rate; it is not scaled with the batch size."""
    min_lr: float = 1e-5
    """Learning rate at the end of the cosine and one-cycle schedules."""
    schedule: Literal["cosine", "one-cycle", "step", "constant"] = "cosine"
    """Schedule of the learning rate after the warm-up (see :mod:`marquee.training.core.schedules`)."""
    warmup_epochs: float = 1.0
    """Epochs of linear warm-up from zero; may be a fraction."""
    step_epochs: int = 30
    """Epochs between two drops of the step schedule."""
    step_factor: float = 0.1
    """Factor that the learning rate is multiplied by at each drop of the step schedule."""
    weight_decay: float = 0.05
    """Weight decay; not applied to biases, norms and other vectors."""
    beta1: float = 0.9
    """Decay of the running mean of the gradient, for optimisers with betas."""
    beta2: float = 0.999
    """Decay of the running mean of the squared gradient, for optimisers with betas."""
    momentum: float = 0.9
    """Momentum, for optimisers that have it."""
    clip_norm: float = 1.0
    """Largest global norm of the gradients, to which larger ones are scaled down; 0 switches clipping off."""
    layer_decay: float = 1.0
    """Layer-wise learning rate decay: each layer below the classifier gets this fraction of the rate of the layer
    above; 1: all layers get the same rate."""
    freeze_epochs: int = 0
    """Epochs at the start in which only the classifier is trained."""

    def __post_init__(self) -> None:
        self.check_rates()
        at_least(self, warmup_epochs=0, weight_decay=0, clip_norm=0, step_epochs=1, freeze_epochs=0)
        within(self, 0, 0.99999, "beta1", "beta2", "momentum")
        within(self, 0.01, 1, "layer_decay", "step_factor")

    @property
    def is_open(self) -> bool:
        """Whether the optimiser is left to the data (see :meth:`marquee.training.core.task.Task.resolve`)."""
        return False

    def check_rates(self) -> None:
        """Raises ValueError for learning rates that cannot be used."""
        if self.lr <= 0:
            raise ValueError(f"lr: expected more than 0, got {self.lr}")
        within(self, 0, self.lr, "min_lr")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The training loop."""

    epochs: int = 30
    """Passes over the training data."""
    batch_size: int = 32
    """Items per step, over all devices together."""
    accumulate: int = 1
    """Number of micro-batches that a step's items are divided into, to save memory; each step has one update."""
    ema: float = 0.0
    """Decay of a running average of the weights, such as 0.999; the average is validated and served. 0: no average."""
    patience: int = 10
    """Epochs without a better validation score (or, at an equal score, loss) before training stops; 0: never."""
    loss_tolerance: float = 0.0
    """Training stops when the training loss of an epoch has fallen by less than this share of it; 0: never."""
    gradient_tolerance: float = 0.0
    """Training stops when the norm of an epoch's last gradient is at most this; 0: never. For full batches."""
    select: Literal["validation", "last"] = "validation"
    """Epoch whose weights are exported: the one with the best validation score, or the last."""
    passes: int = 1
    """Passes over the training data that count as one epoch; validation and a checkpoint follow each epoch."""
    device: str = "auto"
    """auto: the first that is available of cuda, mps and cpu; or a PyTorch device, such as cuda:1."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device has instructions for it, fp16 with loss scaling on older GPUs, else fp32."""
    compile: bool = False
    """Use torch.compile: slower to start, afterwards faster for some networks."""
    workers: int = -1
    """Loader processes per device; -1: one fewer than there are cores, at most 8."""
    seed: int = 0
    """Determines split, initial weights, order and augmentation; equal seeds give equal weights on a CPU."""
    deterministic: bool = False
    """Use deterministic algorithms wherever PyTorch has them, so that equal seeds give equal weights on one kind of GPU
    too; slower. An operation that has none is named in a warning."""

    @property
    def first_full_epoch(self) -> int:
        """The first epoch, counted from 0, that trains on items as they are served; early stopping starts there."""
        return 0

    def __post_init__(self) -> None:
        at_least(self, epochs=1, batch_size=1, accumulate=1, patience=0, workers=-1, seed=0, passes=1)
        at_least(self, loss_tolerance=0, gradient_tolerance=0)
        within(self, 0, 0.999999, "ema")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints."""

    keep: int = 2
    """Number of most recent checkpoints to keep, in addition to the best one; with 2, a damaged one has a predecessor
    to resume from."""
    steps: int = 0
    """Steps between two checkpoints within an epoch; 0: only at its end."""

    def __post_init__(self) -> None:
        at_least(self, keep=1, steps=0)


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The content of the bundle."""

    golden: int = 16
    """Smallest number of golden samples; at most 128 are written."""

    def __post_init__(self) -> None:
        at_least(self, golden=16)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The parts that every task has."""

    split: SplitConfig = field(default_factory=SplitConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    short_options: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Option of the command line -> the setting that it stands for, such as ``target``: ``table.target``."""
    changed_most: ClassVar[tuple[str, ...]] = ("loop.epochs", "loop.batch_size", "loop.seed", "optimizer.lr")
    """Settings that ``--help`` shows; ``--help all`` shows all."""

    @property
    def task(self) -> str:
        """A key of :data:`marquee.training.tasks.TASKS`."""
        raise NotImplementedError

    @classmethod
    def with_older_defaults(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Adds to a run's ``config.yaml`` the values that fields had for runs from before they were introduced."""
        return data


def load_config(path: Path, task: str | None = None) -> Any:
    """Reads a YAML (or JSON) file; absent fields keep their defaults.

    Args:
        path: the file. Its field ``task`` names the task, a key of :data:`marquee.training.tasks.TASKS`.
        task: the task of a file that names none; None: :data:`marquee.training.tasks.DEFAULT_TASK`.

    Raises:
        TrainingError: the file cannot be read, or a field is unknown or wrong; the message names file and field.
    """
    return _to_config(path, read_yaml(path), task)


def named_config(name: str | Path, task: str | None = None) -> Any:
    """The configuration of a YAML file, or of a recipe by its name, such as ``finetune``.

    Raises:
        TrainingError: there is neither such a file nor such a recipe, or it cannot be read.
    """
    if Path(name).is_file():
        return load_config(Path(name), task)
    # The ladders are lists of candidates for `marquee select`, not configurations.
    recipes = {path.stem: path for path in sorted(RECIPES.glob("*.yaml")) if not path.stem.startswith("ladder")}
    if str(name) not in recipes:
        raise TrainingError(f"--config {name}: no such file, and no recipe of that name ({', '.join(recipes)})")
    return load_config(recipes[str(name)], task)


def merge_config(base: T, settings: Mapping[str, Any]) -> T:
    """Returns ``base`` with other values for some fields.

    Args:
        base: the configuration to start from.
        settings: part -> field -> value, such as ``{"optimizer": {"lr": 1e-3}}``.

    Raises:
        TrainingError: a part or a field is unknown, or a value is wrong.
    """
    try:
        return merged(base, settings)
    except SchemaError as error:
        raise TrainingError(str(error)) from error


def merged(base: T, settings: Mapping[str, Any]) -> T:
    """As :func:`merge_config`, but raises SchemaError."""
    data = to_dict(base)
    for part, fields in settings.items():
        data[part] = {**data.get(part, {}), **fields} if isinstance(fields, Mapping) else fields
    return from_dict(type(base), data)


def load_run_config(path: Path) -> Any:
    """Reads the ``config.yaml`` that a run keeps.

    The file contains every field that existed when the run began. A field that it lacks was introduced later, and its
    default must not change the pixels of a resumed run.

    Raises:
        TrainingError: as :func:`load_config`.
    """
    data = read_yaml(path)
    if isinstance(data, dict):
        data = type(_default(path, data, None)).with_older_defaults(data)
    return _to_config(path, data, None)


def _to_config(path: Path, data: Any, task: str | None) -> Any:
    if not isinstance(data, dict):
        data = {} if data is None else data
        if not isinstance(data, dict):
            raise TrainingError(f"{path}: document: expected an object, got {type(data).__name__} {data!r:.60}")
    try:
        config = merged(_default(path, data, task), {name: value for name, value in data.items() if name != "task"})
    except SchemaError as error:
        raise TrainingError(f"{path}: {error}") from error
    if (named := data.get("task")) not in (None, config.task):
        raise TrainingError(f"{path}: task: expected {config.task}, which its other settings are for, got {named}")
    return config


def _default(path: Path, data: dict[str, Any], task: str | None) -> Any:
    """The configuration whose fields a file overrides."""
    try:
        return default_config(data.get("task", task or DEFAULT_TASK))
    except ValueError as error:
        raise TrainingError(f"{path}: {error}") from error


def dump_config(config: RunConfig) -> str:
    """YAML text that :func:`load_config` reads back to an equal configuration."""
    return dump_yaml({"task": config.task, **to_dict(config)})
