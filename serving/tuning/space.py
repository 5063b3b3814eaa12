"""The search space of tuning.

To search another key of ``model-config.yaml``, add a :class:`Dimension` and the archive's current value to
:func:`space_of`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marquee.serving.errors import OperationError
from marquee.serving.model_config import worker_config

Value = int | str


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One setting."""

    name: str
    """Name in tables."""
    keys: tuple[str, ...]
    """Settings of ``model-config.yaml``, TorchServe's or the handler's, that take the value."""
    values: tuple[Value, ...]
    """The values to try: numbers in ascending order, of which neighbours perform similarly; names in any order."""

    def paths(self, value: Value) -> list[list[Value]]:
        """The other values, nearest first: numbers as one list upwards and one downwards, each name as its own list."""
        if isinstance(value, str):
            return [[name] for name in self.values if name != value]
        numbers = [number for number in self.values if isinstance(number, int)]
        upwards: list[Value] = [number for number in numbers if number > value]
        downwards: list[Value] = [number for number in reversed(numbers) if number < value]
        return [upwards, downwards]


@dataclass(frozen=True)
class Params:
    """One value for each dimension."""

    values: tuple[tuple[str, Value], ...]
    """(name of the dimension, value), in the order of the space."""

    def __getitem__(self, name: str) -> Value:
        return dict(self.values)[name]

    def having(self, name: str, value: Value) -> "Params":
        """A copy with another value of one dimension."""
        return Params(tuple((key, value if key == name else old) for key, old in self.values))

    def to_dict(self) -> dict[str, Value]:
        """Name -> value."""
        return dict(self.values)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values)


@dataclass(frozen=True, kw_only=True)
class Space:
    """All settings that are tried."""

    dimensions: tuple[Dimension, ...]
    """In the order of the search: those with the largest effect come first."""
    cores: int
    """Number of cores that the workers share."""

    def within_cores(self, point: Params) -> Params:
        """``point`` with at most as many threads in all workers as cores: more make every worker many times slower."""
        limit = max(1, self.cores // int(point["workers"]))
        return point.having("threads", min(int(point["threads"]), limit))

    def config(self, point: Params) -> dict[str, Value]:
        """The settings of ``point``, for :func:`marquee.serving.model_config.update_model_config`."""
        return {key: point[dimension.name] for dimension in self.dimensions for key in dimension.keys}


def space_of(config: Mapping[str, Any], variants: Sequence[str], cores: int, clients: int) -> tuple[Space, Params]:
    """The search space for an archive on a machine, and the archive's current settings as a point in it.

    Args:
        config: the archive's ``model-config.yaml``.
        variants: the variants that may be served; the one that ``auto`` selects comes first.
        cores: number of cores of the machine.
        clients: number of concurrent requests; larger batches never fill.

    Raises:
        OperationError: a value in the configuration is not a positive integer.
    """
    workers = _number(config, "minWorkers", 1)
    worker = worker_config(config).resolve(_number(config, "maxWorkers", 1), cores)
    batch, delay = _number(config, "batchSize", 1), _number(config, "maxBatchDelay", 100)
    current: dict[str, Value] = {
        "variant": worker.variant if worker.variant in variants else variants[0],
        "workers": workers,
        "threads": worker.threads,
        "batch": batch,
        "delay": delay,
    }
    dimensions = (
        Dimension(name="variant", keys=("variant",), values=tuple(variants)),
        Dimension(name="workers", keys=("minWorkers", "maxWorkers"), values=_doubling(cores, workers)),
        Dimension(name="threads", keys=("threads",), values=_doubling(cores, worker.threads)),
        Dimension(name="batch", keys=("batchSize",), values=_doubling(clients, batch)),
        # Milliseconds. TorchServe replaces 0 by 100.
        Dimension(name="delay", keys=("maxBatchDelay",), values=_ascending(delay, 1, 2, 5, 10)),
    )
    point = Params(tuple((dimension.name, current[dimension.name]) for dimension in dimensions))
    return Space(dimensions=dimensions, cores=cores), point


def _doubling(limit: int, current: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to ``limit``, and ``limit`` and ``current`` themselves."""
    return _ascending(current, limit, *(1 << power for power in range(limit.bit_length()) if 1 << power <= limit))


def _ascending(*values: int) -> tuple[int, ...]:
    return tuple(sorted(set(values)))


def _number(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OperationError(f"model-config.yaml: {key}: expected a number from 1, got {value!r}")
    return value
