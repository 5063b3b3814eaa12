"""What a model says of itself: the answer to a request that asks for its description."""

from collections.abc import Mapping
from typing import Any

from .schema import to_dict
from .spec import ModelSpec, VariantSpec


def describe(spec: ModelSpec, model: Mapping[str, str], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """What clients may know.

    Args:
        spec: of the bundle.
        model: name, version, bundle digest and variant.
        tensors: of the Open Inference Protocol: ``inputs`` and ``outputs``.
    """
    return {
        "model": model,
        "task": spec.task,
        **spec.output.describe(),
        "input": spec.input.describe(),
        "tensors": tensors,
        "metrics": spec.provenance.get("metrics", {}),
        "variants": [_describe_variant(variant) for variant in spec.variants],
    }


def _describe_variant(variant: VariantSpec) -> dict[str, Any]:
    return {
        "name": variant.name,
        "engine": variant.engine,
        "precision": variant.precision,
        "measurements": [to_dict(measurement) for measurement in variant.measurements],
    }
