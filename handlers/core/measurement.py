"""What was measured about a variant, and the order of preference that follows; part of ``spec.json``."""

from dataclasses import dataclass, field

from .host import Host


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One variant on one machine. Differences are to the bundle's first variant, item by item.

    Fields are named after images, the first kind of items; they count items of any kind.
    """

    host: Host
    """Where."""
    date: str
    """When: ISO 8601, UTC."""
    threads: int
    """Threads that the engine was given."""
    images: int
    """Items that the answers were judged on."""
    effective_images: float | None = None
    """How many independent items tell as much where no answer differs; None: each of them is on its own."""
    accuracy: float | None = None
    """Share of right answers, or the mean of another score (see :class:`marquee.handlers.core.accuracy.Quality`); None
    without the truth."""
    drop: float | None = None
    """The first variant's accuracy minus this one's."""
    drop_interval: tuple[float, ...] | None = None
    """95 % interval of ``drop``, low and high: that of Agresti and Min (2005), or the normal one of graded scores."""
    ece: float | None = None
    """Expected calibration error, with the variant's own temperature; of a number with an interval, how far the share
    of intervals that contain the truth is from the share that they are meant for."""
    agreement: float
    """Share of items with the first variant's answer."""
    difference: float
    """The largest difference of a served number of an item (see
    :meth:`marquee.handlers.core.output.Output.differences`): what 99 % of the items do not exceed."""
    latency_p50_ms: float
    """Batch of 1, decoded input to answer: median."""
    latency_p99_ms: float
    """Batch of 1: 99th percentile."""
    images_per_second: dict[str, float] = field(default_factory=dict)
    """Batch size -> throughput."""
    load_seconds: float
    """From the files to the first answer, in a fresh process that has imported torch."""
    memory_bytes: int
    """Largest resident size of that process."""
    file_bytes: int
    """Size of the variant's files."""
    kernels: dict[str, int] = field(default_factory=dict)
    """Precision -> number of convolutions and matrix products that run in it."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The variants that may be served on a machine, the preferred one first."""

    host: Host
    """Where it was measured."""
    date: str
    """When: ISO 8601, UTC."""
    order: tuple[str, ...]
    """Names of variants. Those whose answers are worse or that are too slow are not among them."""
    max_accuracy_drop: float
    """Loss of quality that was allowed."""
    p99_ms: float | None = None
    """Latency that was allowed; None: any."""

    def __post_init__(self) -> None:
        if not self.order or len(set(self.order)) != len(self.order):
            raise ValueError(f"order: expected different names, got {list(self.order)}")
