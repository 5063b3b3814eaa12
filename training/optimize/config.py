"""What is built, how it is measured, and what may be lost."""

from dataclasses import dataclass

BATCHES = (1, 8, 32)
"""Batch sizes whose throughput is measured; the ranking goes by the second."""
RANKED_BATCH = 8

KINDS = ("bf16", "fp16", "compiled-fp32", "compiled-bf16", "openvino-fp32", "openvino-bf16", "openvino-int8")
"""What can be built of a network, beside the fp32 program that every bundle begins with."""
CPU_KINDS = ("bf16", "openvino-fp32", "openvino-bf16", "openvino-int8")
"""What is built for a CPU when nothing is asked for: not the compiled ones, with which a worker starts a minute later.
"""
GPU_KINDS = ("bf16", "fp16")
"""The same for a GPU."""


@dataclass(frozen=True, kw_only=True)
class PruningConfig:
    """A second network, made from the first: channels are removed, the rest learns to answer as before."""

    keep: float = 0.0
    """Share of the multiplications to keep; 0: no pruning."""
    size_mb: float = 0.0
    """Or: size of the fp32 weights to reach, in megabytes."""
    latency_ms: float = 0.0
    """Or: latency of one image to reach, of the fp32 program on this machine."""
    weights: float = 0.0
    """Share of the single weights to set to zero, the smallest first (magnitude pruning); 0: none. Dense engines
    compute with zeros as with any number: it is measured like the others, and shows it."""
    epochs: int = 3
    """Epochs of fine-tuning after channels were removed, with the original as the teacher."""
    lr: float = 0.0
    """Learning rate of the fine-tuning; 0: a fifth of the run's."""

    def __post_init__(self) -> None:
        wishes = [name for name in ("keep", "size_mb", "latency_ms") if getattr(self, name)]
        if len(wishes) > 1:
            raise ValueError(f"{wishes[1]}: one wish at a time, {wishes[0]} is given already")
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
    """What to build, see docs/optimizing.md for each; none: what suits the device."""
    max_accuracy_drop: float = 0.005
    """Largest accuracy drop against fp32, as a share, of a variant that may be served. With enough images, the upper
    bound of the 95 % confidence interval of the drop must not exceed it; with fewer, the estimate."""
    p99_ms: float = 0.0
    """Largest 99th percentile of the latency of one image, in milliseconds; 0: any."""
    calibration_images: int = 300
    """Training images that the quantizer sees."""
    samples: int = 32
    """How many of those travel in the bundle, for measuring on other machines."""
    threads: int = 0
    """Threads of each engine; 0: all cores."""
    rounds: int = 5
    """Every round times each variant once, in turn; medians of all rounds count."""
    seconds: float = 0.5
    """Time for each variant and batch size in a round."""
    max_images: int = 10_000
    """Images that answers are judged on at most: an even sample of the measured split."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.variants) - set(KINDS)):
            raise ValueError(f"variants: no {unknown[0]!r}; there are {', '.join(KINDS)}")
        if not 0 <= self.max_accuracy_drop < 1:
            raise ValueError(f"max_accuracy_drop: expected at least 0 and less than 1, got {self.max_accuracy_drop}")
        for name, least in {"calibration_images": 1, "samples": 0, "threads": 0, "rounds": 1, "max_images": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        for name in ("p99_ms", "seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
