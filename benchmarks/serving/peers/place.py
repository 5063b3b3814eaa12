"""What every peer is told by its environment, and the model that it serves."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Family = Literal["eager", "ours"]
"""``eager``: PyTorch as its documentation shows it; ``ours``: this project's predictor, so that only the server
differs."""

MAX_BATCH = 8
WAIT_SECONDS = 0.001
"""How long a batch waits for company: as in this project's archives."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a peer listens and what it serves."""

    port: int
    """On the loopback."""
    family: Family
    material: Path
    """Folder of ``bundle/`` and ``resnet18.pth``."""
    variant: str = "openvino-int8"
    """Of the bundle; for ``ours``."""

    def as_environment(self) -> dict[str, str]:
        """The variables that :func:`read_place` reads."""
        return {
            "BENCHMARK_PORT": str(self.port),
            "BENCHMARK_FAMILY": self.family,
            "BENCHMARK_MATERIAL": str(self.material),
            "BENCHMARK_VARIANT": self.variant,
        }


def read_place(environment: Mapping[str, str] = os.environ) -> Place:
    """This process's place.

    Raises:
        KeyError: the process was not started by the benchmark.
    """
    family: Family = "eager" if environment["BENCHMARK_FAMILY"] == "eager" else "ours"
    return Place(
        port=int(environment["BENCHMARK_PORT"]),
        family=family,
        material=Path(environment["BENCHMARK_MATERIAL"]),
        variant=environment["BENCHMARK_VARIANT"],
    )


class Model(Protocol):
    """Answers encoded images."""

    def answer(self, images: list[bytes]) -> list[dict[str, Any]]:
        """One JSON object an image, in their order."""


def load_model(place: Place) -> Model:
    """The model of the family."""
    if place.family == "eager":
        from benchmarks.serving.peers.eager import Eager

        return Eager(place.material)
    from benchmarks.serving.peers.ours import Ours

    return Ours(place.material, place.variant)
