"""``spec.json`` of earlier versions, as today's.

- 1: one variant, nothing measured. What it lacks has defaults.
- 2: several variants. In both, a program of PyTorch's computed the feature distance itself, as one more column after
  the logits, where ``output.max_distance`` said that there is one; OpenVINO's gave the features.
"""

from typing import Any

_EARLIER = (1, 2)


def migrate(document: Any, today: int) -> Any:
    """Returns a document of an earlier version as one of ``today``'s, which the schema then checks; others as they are.

    Whatever else may be wrong with it is left for the schema to say.
    """
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version not in _EARLIER or isinstance(version, bool):
        return document
    output, variants = document.get("output"), document.get("variants")
    if isinstance(variants, list):
        measures_distance = isinstance(output, dict) and output.get("max_distance") is not None
        variants = [_with_outputs(variant, measures_distance) for variant in variants]
    return {**document, "schema_version": today, "variants": variants}


def _with_outputs(variant: Any, measures_distance: bool) -> Any:
    if not isinstance(variant, dict) or not measures_distance:
        return variant
    by_openvino = variant.get("engine") == "openvino"
    return {**variant, "outputs": ["logits", "features"] if by_openvino else ["logits_and_distance"]}
