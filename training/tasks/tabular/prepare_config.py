"""How columns are prepared for the network; everything is fitted on the training rows and exported with it."""

from dataclasses import dataclass
from typing import Literal

from marquee.training.core.config import at_least, within


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """The preparation of the columns."""

    impute: Literal["mean", "median", "min", "max", "most-frequent", "constant"] = "median"
    """What a missing number is replaced by, from the training rows' numbers of its column; ties of the most frequent go
    to the smallest. A missing category is a category of its own."""
    impute_value: float = 0.0
    """The number for impute constant."""
    indicator: bool = False
    """Add a column that is 1 where a number was missing, for each column that may be missing."""
    clip: Literal["none", "iqr", "quantile"] = "none"
    """Outliers are set to bounds: iqr: clip_factor interquartile ranges beyond the quartiles; quantile: the quantiles
    clip_quantile and 1 - clip_quantile."""
    clip_factor: float = 1.5
    """Interquartile ranges (Tukey's fences)."""
    clip_quantile: float = 0.01
    """Share of the rows beyond each bound."""
    scale: Literal["none", "standard", "min-max", "robust"] = "standard"
    """standard: mean 0, deviation 1; min-max: 0 to 1; robust: median 0, interquartile range 1."""
    categories: Literal["one-hot", "embedding"] = "one-hot"
    """one-hot: a column for each category; embedding: a learned vector for each, for mlp and tabm."""
    target: Literal["auto", "none", "standard", "min-max", "log"] = "auto"
    """Transform of a regression's target in training, which the exported program inverts; log: natural logarithm of
    1 + target, then standard; auto: standard."""

    def __post_init__(self) -> None:
        at_least(self, clip_factor=0)
        within(self, 0, 0.49, "clip_quantile")
