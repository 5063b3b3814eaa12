"""The section about the variants that ``marquee optimize`` measured."""

from typing import Any

from marquee.training.core.task import task_of
from marquee.training.report import figures
from marquee.training.report.run_files import RunFiles


def variants_context(facts: RunFiles, item: str) -> dict[str, Any]:
    """The values of ``shared/variants.html``; ``variants`` is None before an optimisation.

    Args:
        facts: the run.
        item: the noun of what is measured.
    """
    optimization = facts.optimization
    if optimization is None:
        return {"variants": None}
    measured = {name: values for name, values in optimization["variants"].items() if "latency_p50_ms" in values}
    quality = task_of(facts.config).quality
    sizes = [size for values in measured.values() for size in values["images_per_second"] if size != "1"]
    return {
        "variants": measured,
        "optimization": optimization,
        "batch_sizes": list(dict.fromkeys(sizes)),
        "quality": quality.name,
        # See Measurement.ece.
        "calibration_name": "Coverage off by" if quality.graded else "ECE",
        "variants_plot": figures.variants(
            "variants",
            measured,
            optimization["frontier"],
            optimization["chosen"],
            latency=f"median latency of one {item}, ms",
            quality=quality.name,
        ),
    }
