"""The steps in the order of their importance, and what they need. Nothing of theirs is imported here."""

import importlib.metadata
import importlib.util
import re

from benchmarks.gpu.step import Step

PACKAGES = ("torch", "numpy", "PIL", "safetensors", "timm")
"""What every step needs, by import name."""

VERSIONS = {"torch": (2, 9), "timm": (1, 0, 15)}
"""The lowest versions."""

SERVING = ("ts", "model_archiver", "yaml", "requests", "psutil", "grpc", "grpc_tools")
"""What a served endpoint needs beyond them."""


def _step(name: str, title: str, weight: float, *packages: str) -> Step:
    return Step(name=name, title=title, module=f"benchmarks.gpu.steps.{name}", packages=packages, weight=weight)


# The weights are about the seconds that a step wants of eight minutes.
STEPS = (
    _step("digits", "Training, export and evaluation on the digits", 110, "sklearn"),
    _step("resume", "Exact resume after kill -9", 60),
    _step("throughput", "Throughput of training", 120),
    _step("loader", "Images that the loader decodes and augments", 60),
    _step("features", "Finders, options of the loop, and what goes wrong in it", 60),
    _step("parallel", "Several processes", 40),
    _step("variants", "Number formats and compiled variants", 90, "sklearn"),
    _step("served", "TorchServe on a GPU", 60, "sklearn", *SERVING),
)


def absent(step: Step) -> list[str]:
    """The packages that a step needs and that are absent, or too old."""
    return [fault for name in (*PACKAGES, *step.packages) if (fault := _fault(name))]


def _fault(name: str) -> str:
    """What is wrong with a package, of an import name; empty for nothing."""
    if importlib.util.find_spec(name) is None:
        return name
    if name not in VERSIONS:
        return ""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # built where it lies; nothing tells how old it is
        return ""
    least = VERSIONS[name]
    is_old = tuple(map(int, re.findall(r"\d+", version)))[: len(least)] < least
    return f"{name} {'.'.join(map(str, least))} (it is {version})" if is_old else ""


def named(names: list[str]) -> tuple[Step, ...]:
    """The steps of these names, in the plan's order; all for none.

    Raises:
        ValueError: there is no step of a name.
    """
    known = [step.name for step in STEPS]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no step {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(step for step in STEPS if not names or step.name in names)
