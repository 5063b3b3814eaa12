"""Which variants are built, how they are measured, and how much worse their answers may be."""

from dataclasses import dataclass

RANKED_BATCH = 8
"""The batch size whose throughput decides the ranking."""

KINDS = (
    "bf16",
    "fp16",
    "compiled-fp32",
    "compiled-fp64",
    "compiled-bf16",
    "openvino-fp32",
    "openvino-bf16",
    "openvino-int8",
)
"""Kinds of variants that can be built, in addition to the program that every bundle starts with; a task says which of
them its models can have (:meth:`marquee.training.core.task.Task.variant_kinds`)."""
CPU_KINDS = ("bf16", "openvino-fp32", "openvino-bf16", "openvino-int8")
"""Default kinds for a CPU, without the compiled ones, which delay the start of a worker by a minute."""
GPU_KINDS = ("bf16", "fp16")
"""Default kinds for a GPU."""


@dataclass(frozen=True, kw_only=True)
class PruningConfig:
    """Pruning of the network: channels are removed, and the smaller network is fine-tuned to restore its accuracy."""

    keep: float = 0.0
    """Target share of the multiplications to keep; 0: no target."""
    size_mb: float = 0.0
    """Alternatively: target size of the fp32 weights, in megabytes; 0: no target."""
    latency_ms: float = 0.0
    """Alternatively: target latency of one image in milliseconds, measured with the fp32 network on this machine; 0: no
    target."""
    weights: float = 0.0
    """Share of the individual weights to set to zero, the smallest first (magnitude pruning); 0: none. Dense engines do
    not skip zeros, so the variant gets smaller only when compressed, not faster."""
    epochs: int = 3
    """Epochs of fine-tuning after channels are removed, with the original network as the teacher."""
    lr: float = 0.0
    """Learning rate of the fine-tuning; 0: a fifth of the run's."""

    def __post_init__(self) -> None:
        targets = [name for name in ("keep", "size_mb", "latency_ms") if getattr(self, name)]
        if len(targets) > 1:
            raise ValueError(f"{targets[1]}: give only one target; {targets[0]} is already set")
        for name in ("keep", "weights"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 0 and less than 1, got {getattr(self, name)}")
        for name in ("size_mb", "latency_ms", "epochs", "lr"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")

    @property
    def channels(self) -> bool:
        """Whether channels are to be removed."""
        return bool(self.keep or self.size_mb or self.latency_ms)


@dataclass(frozen=True, kw_only=True)
class OptimizeConfig:
    """How variants are built, measured and chosen."""

    variants: tuple[str, ...] = ()
    """Kinds of variants to build, described in docs/optimizing.md; none: the defaults for the device."""
    max_accuracy_drop: float = 0.005
    """Largest drop of the accuracy (of R2 where a number is predicted) relative to the first variant, as a fraction,
    that a served variant may have. With enough items, the upper bound of the 95 % confidence interval of the drop must
    not exceed it; with fewer, the estimate."""
    p99_ms: float = 0.0
    """Largest allowed 99th percentile of the latency of one item, in milliseconds; 0: no limit."""
    calibration_images: int = 300
    """Training items that calibrate the quantization."""
    samples: int = 32
    """How many of the calibration items are stored in the bundle, for measuring on other machines."""
    threads: int = 0
    """Threads of each engine; 0: all cores."""
    rounds: int = 5
    """Timing rounds. Each times every variant once, in turn; speeds are medians over all rounds."""
    seconds: float = 0.5
    """Time for each variant and batch size in a round."""
    max_images: int = 10_000
    """Largest number of items that predictions are evaluated on: an even sample of the evaluated split."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.variants) - set(KINDS)):
            raise ValueError(f"variants: unknown kind {unknown[0]!r}; expected some of {', '.join(KINDS)}")
        if not 0 <= self.max_accuracy_drop < 1:
            raise ValueError(f"max_accuracy_drop: expected at least 0 and less than 1, got {self.max_accuracy_drop}")
        for name, least in {"calibration_images": 1, "samples": 0, "threads": 0, "rounds": 1, "max_images": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("p99_ms", "seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
