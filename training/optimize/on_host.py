"""Measures variants again on the machine that serves them, without the data set."""

import json
import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.choice import missing_requirements
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.golden import verify_golden
from marquee.handlers.core.host import this_host
from marquee.handlers.core.measurement import Measurement
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.schema import to_dict
from marquee.handlers.core.spec import SPEC_FILE, ModelSpec, VariantSpec
from marquee.training.core.errors import OptimizeError
from marquee.training.core.progress import Progress
from marquee.training.core.task import task_for
from marquee.training.optimize.config import OptimizeConfig
from marquee.training.optimize.datasets import read_datasets
from marquee.training.optimize.measure import Place, measure_variants
from marquee.training.optimize.optimize import Optimized, rank_measured
from marquee.training.optimize.process import variant_process

logger = logging.getLogger(__name__)


def measure_on_host(folder: Path, config: OptimizeConfig, device: str, progress: Progress) -> Optimized:
    """Measures the variants of an unpacked bundle on this machine, and writes its ranking into ``spec.json``.

    Speed, memory and kernels are measured on this machine. Accuracy is kept as it was measured with the data set; each
    variant is first checked to reproduce its golden answers here.

    Args:
        folder: a bundle; variants whose files are absent are not measured.
        config: the allowed accuracy drop and latency, and how long to measure.
        device: the device that serves the model.
        progress: where progress is reported.

    Raises:
        TrainingError: the first variant cannot be measured.
    """
    bundle, document = Bundle.read(folder), json.loads((folder / SPEC_FILE).read_text("utf-8"))
    spec = bundle.spec
    if document["schema_version"] == 1:
        raise OptimizeError("its code is from a version that cannot store measurements; package the run again")
    left_out: dict[str, str] = {}
    usable = [variant for variant in spec.variants if _usable(variant, folder, spec, device, left_out, progress)]
    if not usable or usable[0] is not spec.variants[0]:
        raise OptimizeError(f"the bundle's first variant cannot be used here: {left_out[spec.variants[0].name]}")
    datasets = read_datasets(bundle, None, folder, config, progress)
    place = Place(device, config.threads or this_host().cores)
    with ExitStack() as stack:
        loading = [variant_process(folder, variant.name, device, place.threads) for variant in usable]
        processes = [stack.enter_context(process) for process in loading]
        measured = measure_variants(processes, datasets, bundle, config, place, progress, left_out.__setitem__)
    variants = {
        variant.name: _with_measurement(variant, measured[variant.name].measurement)
        for variant in usable
        if variant.name in measured
    }
    rounds = {name: one.rounds for name, one in measured.items()}
    refused, ranking, ordered = rank_measured(tuple(variants.values()), rounds, config, device, task_for(spec).quality)
    spec = replace(
        spec,
        variants=tuple(variants.get(variant.name, variant) for variant in spec.variants),
        rankings=(*(old for old in spec.rankings if not old.host.like(ranking.host)), ranking),
    )
    _add_measured(document, spec)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / SPEC_FILE).write_text(text + "\n", "utf-8")
    return Optimized(spec=spec, order=ordered, judged=datasets.judged_on, refused=refused, left_out=left_out)


def _add_measured(document: dict[str, Any], spec: ModelSpec) -> None:
    """Puts measurements and rankings into the document of a ``spec.json``.

    The rest is kept whatever its version, since an archive contains the code that reads it.
    """
    for entry, variant in zip(document["variants"], spec.variants, strict=True):
        entry["measurements"] = [_measurement_entry(document["schema_version"], item) for item in variant.measurements]
    document["rankings"] = to_dict(spec.rankings)


def _measurement_entry(version: int, measurement: Measurement) -> dict[str, Any]:
    """``measurement`` with only the fields that the schema ``version`` has."""
    entry: dict[str, Any] = to_dict(measurement)
    if version < 3:
        del entry["effective_images"]
    return entry


def _usable(
    variant: VariantSpec, folder: Path, spec: ModelSpec, device: str, left_out: dict[str, str], progress: Progress
) -> bool:
    """Whether a variant is present, runs here and reproduces its golden answers; adds the reason to ``left_out``."""
    reason = missing_requirements(variant, this_host(device), device)
    if not reason and not all((folder / name).is_file() for name in variant.files):
        reason = "is not in the archive"
    if not reason:
        try:
            Predictor.load(folder, device, variant.name, verify_golden)
        except BundleError as error:
            reason = str(error).replace(f"{folder}/", "")
    if reason:
        left_out[variant.name] = reason
        logger.info(f"left out: {variant.name}: {reason}")
    return not reason


def _with_measurement(variant: VariantSpec, new: Measurement) -> VariantSpec:
    """``variant`` with a new measurement of this machine, which replaces an older one of the same machine."""
    evaluated = next((item for item in reversed(variant.measurements) if item.accuracy is not None), None)
    if evaluated is not None:
        new = replace(
            new,
            images=evaluated.images,
            effective_images=evaluated.effective_images,
            accuracy=evaluated.accuracy,
            drop=evaluated.drop,
            drop_interval=evaluated.drop_interval,
            ece=evaluated.ece,
            agreement=evaluated.agreement,
            difference=evaluated.difference,
        )
    others = tuple(item for item in variant.measurements if not item.host.like(new.host))
    return replace(variant, measurements=(*others, new))
