"""What tuning chooses among.

To search another key of ``model-config.yaml``, add a :class:`Dimension`, and what the archive has now, in
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
    """As tables show it."""
    keys: tuple[str, ...]
    """Settings of ``model-config.yaml``, TorchServe's or the handler's, that take the value."""
    values: tuple[Value, ...]
    """What is tried: numbers in rising order, where the best may be next to a good one; names in any order."""

    def paths(self, value: Value) -> list[list[Value]]:
        """Neighbours of ``value``, nearest first: numbers in one list upwards and one downwards, names each alone."""
        if isinstance(value, str):
            return [[name] for name in self.values if name != value]
        numbers = [number for number in self.values if isinstance(number, int)]
        return [[more for more in numbers if more > value], [less for less in reversed(numbers) if less < value]]


@dataclass(frozen=True)
class Point:
    """One value for each dimension."""

    values: tuple[tuple[str, Value], ...]
    """(name of the dimension, value), in the order of the space."""

    def __getitem__(self, name: str) -> Value:
        return dict(self.values)[name]

    def having(self, name: str, value: Value) -> "Point":
        """The same with another value of one dimension."""
        return Point(tuple((key, value if key == name else old) for key, old in self.values))

    def to_dict(self) -> dict[str, Value]:
        """Name -> value."""
        return dict(self.values)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values)


@dataclass(frozen=True, kw_only=True)
class Space:
    """All settings that are tried."""

    dimensions: tuple[Dimension, ...]
    """In the order in which they are searched: what decides most comes first."""
    cores: int
    """That workers share."""

    def within_cores(self, point: Point) -> Point:
        """``point`` with no more threads in all workers together than cores: more make each many times slower."""
        most = max(1, self.cores // int(point["workers"]))
        return point.having("threads", min(int(point["threads"]), most))

    def config(self, point: Point) -> dict[str, Value]:
        """The settings that say ``point``, for :func:`marquee.serving.model_config.update_model_config`."""
        return {key: point[dimension.name] for dimension in self.dimensions for key in dimension.keys}


def space_of(config: Mapping[str, Any], variants: Sequence[str], cores: int, clients: int) -> tuple[Space, Point]:
    """The space for an archive on a machine, and the point in it that the archive has now.

    Args:
        config: the archive's ``model-config.yaml``.
        variants: that may be served, the one that ``auto`` would take first.
        cores: of the machine.
        clients: requests that are under way at once; larger batches than that never fill.

    Raises:
        OperationError: the configuration has a value that is no number.
    """
    workers = _number(config, "minWorkers", 1)
    worker = worker_config(config).resolve(_number(config, "maxWorkers", 1), cores)
    batch, delay = _number(config, "batchSize", 1), _number(config, "maxBatchDelay", 100)
    now: dict[str, Value] = {
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
        # Milliseconds. TorchServe takes 0 for 100.
        Dimension(name="delay", keys=("maxBatchDelay",), values=_with(delay, 1, 2, 5, 10)),
    )
    point = Point(tuple((dimension.name, now[dimension.name]) for dimension in dimensions))
    return Space(dimensions=dimensions, cores=cores), point


def _doubling(most: int, also: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to ``most``, and that itself."""
    return _with(also, most, *(1 << power for power in range(most.bit_length()) if 1 << power <= most))


def _with(*values: int) -> tuple[int, ...]:
    return tuple(sorted(set(values)))


def _number(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OperationError(f"model-config.yaml: {key}: expected a number from 1, got {value!r}")
    return value
