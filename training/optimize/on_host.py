"""Measuring again on the machine that serves, without the data set."""

import json
import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from marquee.handlers.choice import lacks
from marquee.handlers.errors import BundleError
from marquee.handlers.golden import prove
from marquee.handlers.host import this_host
from marquee.handlers.measurement import Measurement
from marquee.handlers.predictor import Predictor
from marquee.handlers.schema import to_dict
from marquee.handlers.spec import SPEC_FILE, ModelSpec, VariantSpec, read_spec
from marquee.training.errors import OptimizeError
from marquee.training.optimize.config import OptimizeConfig
from marquee.training.optimize.material import read_material
from marquee.training.optimize.measure import measure_variants
from marquee.training.optimize.optimize import Optimized, rank_variants
from marquee.training.optimize.process import variant_process
from marquee.training.progress import Progress

logger = logging.getLogger(__name__)


def measure_on_host(folder: Path, config: OptimizeConfig, device: str, progress: Progress) -> Optimized:
    """Measures the variants of an unpacked bundle on this machine, and writes its ranking into ``spec.json``.

    Speed, memory and kernels are this machine's. Accuracy was measured where the data set was, and is kept: each
    variant first proves that it gives the golden answers here, too.

    Args:
        folder: a bundle; files of variants may be absent, such variants are not measured.
        config: what may be lost, and how long to measure.
        device: where it will be served.
        progress: told about it.

    Raises:
        TrainingError: the first variant cannot be measured.
    """
    spec, document = read_spec(folder), json.loads((folder / SPEC_FILE).read_text("utf-8"))
    if document["schema_version"] == 1:
        raise OptimizeError("its code is of a version that cannot keep measurements; package the run again")
    left_out: dict[str, str] = {}
    usable = [variant for variant in spec.variants if _usable(variant, folder, spec, device, left_out, progress)]
    if not usable or usable[0] is not spec.variants[0]:
        raise OptimizeError(f"the bundle's first variant cannot be used here: {left_out[spec.variants[0].name]}")
    material = read_material(folder, None, folder, spec, config, progress)
    threads = config.threads or this_host().cores
    with ExitStack() as stack:
        processes = [stack.enter_context(variant_process(folder, variant.name, device, threads)) for variant in usable]
        measured = measure_variants(processes, spec, material, config, device, threads, progress, left_out.__setitem__)
    variants = {
        variant.name: _with_measurement(variant, measured[variant.name].measurement)
        for variant in usable
        if variant.name in measured
    }
    refused, ranking = rank_variants(tuple(variants.values()), config, device)
    spec = replace(
        spec,
        variants=tuple(variants.get(variant.name, variant) for variant in spec.variants),
        rankings=(*(one for one in spec.rankings if not one.host.like(ranking.host)), ranking),
    )
    _add_measured(document, spec)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / SPEC_FILE).write_text(text + "\n", "utf-8")
    return Optimized(spec=spec, chosen=ranking.order[0], refused=refused, left_out=left_out)


def _add_measured(document: dict[str, Any], spec: ModelSpec) -> None:
    """Puts measurements and rankings into the document of a ``spec.json``.

    Whatever its version, the rest stays as it is: an archive brings the code that reads it.
    """
    for entry, variant in zip(document["variants"], spec.variants, strict=True):
        entry["measurements"] = [_known_to(document["schema_version"], one) for one in variant.measurements]
    document["rankings"] = to_dict(spec.rankings)


def _known_to(version: int, measurement: Measurement) -> dict[str, Any]:
    known: dict[str, Any] = to_dict(measurement)
    if version < 3:
        del known["effective_images"]
    return known


def _usable(
    variant: VariantSpec, folder: Path, spec: ModelSpec, device: str, left_out: dict[str, str], progress: Progress
) -> bool:
    """Whether a variant is there, runs here and gives its golden answers; otherwise the reason is noted."""
    reason = lacks(variant, this_host(device), device)
    if not reason and not all((folder / name).is_file() for name in variant.files):
        reason = "is not in the archive"
    if not reason:
        try:
            Predictor.load(folder, device, variant.name, prove)
        except BundleError as error:
            reason = str(error).replace(f"{folder}/", "")
    if reason:
        left_out[variant.name] = reason
        logger.info(f"left out: {variant.name}: {reason}")
    return not reason


def _with_measurement(variant: VariantSpec, new: Measurement) -> VariantSpec:
    """``variant`` with a measurement of this machine, in place of an older one of it."""
    judged = next((one for one in reversed(variant.measurements) if one.accuracy is not None), None)
    if judged is not None:
        new = replace(
            new,
            images=judged.images,
            effective_images=judged.effective_images,
            accuracy=judged.accuracy,
            drop=judged.drop,
            drop_interval=judged.drop_interval,
            ece=judged.ece,
            agreement=judged.agreement,
            difference=judged.difference,
        )
    others = tuple(one for one in variant.measurements if not one.host.like(new.host))
    return replace(variant, measurements=(*others, new))
