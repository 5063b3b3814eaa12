"""The steps in the order of their importance. Nothing of theirs is imported here."""

from benchmarks.gpu.step import Step

PACKAGES = ("torch", "numpy", "PIL", "safetensors", "timm")
"""What every step needs, by import name."""

SERVING = ("ts", "model_archiver", "yaml", "requests", "psutil", "grpc", "grpc_tools")
"""What a served endpoint needs beyond them."""


def _step(name: str, title: str, weight: float, *packages: str) -> Step:
    return Step(name=name, title=title, module=f"benchmarks.gpu.steps.{name}", packages=packages, weight=weight)


# The weights are about the seconds that a step wants of eight minutes.
STEPS = (
    _step("digits", "Training, export and evaluation on the digits", 90, "sklearn"),
    _step("resume", "Exact resume after kill -9", 60),
    _step("throughput", "Throughput of training", 120),
    _step("loader", "Images that the loader decodes and augments", 60),
    _step("features", "Finders, options of the loop, and what goes wrong in it", 60),
    _step("parallel", "Several processes", 40),
    _step("variants", "Number formats and compiled variants", 60, "sklearn"),
    _step("served", "TorchServe on a GPU", 60, "sklearn", *SERVING),
)


def named(names: list[str]) -> tuple[Step, ...]:
    """The steps of these names, in the plan's order; all for none.

    Raises:
        ValueError: there is no step of a name.
    """
    known = [step.name for step in STEPS]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no step {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(step for step in STEPS if not names or step.name in names)
