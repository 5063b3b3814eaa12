"""``spec.json`` of earlier versions, as today's.

- 1: one variant, nothing measured. What it lacks has defaults.
- 2: several variants. In both, a program of PyTorch's computed the feature distance itself, as one more column after
  the logits, where ``output.max_distance`` said that there is one; OpenVINO's gave the features.
- 3: ``input`` and ``output`` have kinds; labels belong to the output, and what is fitted for a variant is its
  ``calibration``. For a day there was a version 3 in which only the outputs of a variant had names.
"""

from typing import Any

_EARLIER = (1, 2, 3)
_FITTED = ("temperature", "min_probability", "max_distance")


def migrate(document: Any, today: int) -> Any:
    """Returns a document of an earlier version as one of ``today``'s, which the schema then checks; others as they are.

    Whatever else may be wrong with it is left for the schema to say.
    """
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version not in _EARLIER or isinstance(version, bool) or "image" not in document:
        return document
    old, variants = document.get("output"), document.get("variants")
    output = _output(old, document)
    if isinstance(variants, list):
        measures_distance = isinstance(old, dict) and old.get("max_distance") is not None
        variants = [_variant(variant, old, measures_distance and version < 3) for variant in variants]
    kept = {name: value for name, value in document.items() if name not in ("image", "labels")}
    changed = {"schema_version": today, "input": _input(document["image"]), "output": output, "variants": variants}
    # What was missing still is, and the schema says so.
    return {**kept, **{name: value for name, value in changed.items() if name == "input" or name in document}}


def _input(image: Any) -> Any:
    return {"kind": "image", **image} if isinstance(image, dict) else image


def _output(old: Any, document: dict[str, Any]) -> Any:
    """Labels and calibration belong to the output; only an output of several labels has their threshold."""
    if not isinstance(old, dict):
        return old
    several = document.get("task") == "multi-label-classification"
    rest = {name: value for name, value in old.items() if name not in _FITTED}
    if not several:
        rest.pop("threshold", None)
    return {
        "kind": "multi-label-classification" if several else "classification",
        **({"labels": document["labels"]} if "labels" in document else {}),
        **rest,
        "calibration": _calibration(old),
    }


def _calibration(old: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "classification", **{name: old[name] for name in _FITTED if name in old}}


def _variant(variant: Any, output: Any, measures_distance: bool) -> Any:
    if not isinstance(variant, dict):
        return variant
    variant = dict(variant)
    if isinstance(old := variant.pop("output", None), dict):
        same = isinstance(output, dict) and all(old.get(name) == output.get(name) for name in set(old) - set(_FITTED))
        # A ranking or a threshold of its own was never written; one by hand is for the schema to refuse.
        variant |= {"calibration": _calibration(old)} if same else {"output": old}
    if measures_distance:
        by_openvino = variant.get("engine") == "openvino"
        variant["outputs"] = ["logits", "features"] if by_openvino else ["logits_and_distance"]
    return variant
