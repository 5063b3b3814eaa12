"""A bundle gains variants, and a ranking of those that may be served."""

import logging
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from marquee.handlers.golden import prove
from marquee.handlers.host import this_host
from marquee.handlers.measurement import Ranking
from marquee.handlers.predictor import Predictor
from marquee.handlers.schema import to_dict
from marquee.handlers.spec import (
    SCHEMA_VERSION,
    SPEC_FILE,
    ModelSpec,
    VariantSpec,
    read_spec,
    verify_files,
)
from marquee.training.errors import OptimizeError
from marquee.training.files import atomic_folder, write_json
from marquee.training.golden import copy_files
from marquee.training.optimize.build import Network
from marquee.training.optimize.builds import Builds, build_pruned, kinds_for
from marquee.training.optimize.config import OptimizeConfig, PruningConfig
from marquee.training.optimize.judge import frontier, rank, refusal
from marquee.training.optimize.material import Material, even_sample, read_material, read_run
from marquee.training.optimize.measure import measure_variants, now, write_golden_answers
from marquee.training.optimize.process import variant_process
from marquee.training.progress import Progress
from marquee.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Optimized:
    """What came of it."""

    spec: ModelSpec
    """Of the bundle, with its variants, measurements and ranking."""
    chosen: str
    """Name of the variant that this machine will serve."""
    refused: dict[str, str]
    """Measured variant -> why it may not be served."""
    left_out: dict[str, str]
    """Variant that could not be built or run -> why."""
    notes: dict[str, str] = field(default_factory=dict)
    """Variant -> what else is to be said."""

    def to_dict(self) -> dict[str, Any]:
        """For ``optimization.json`` and ``--json``."""
        newest = {variant.name: variant.measurements[-1] for variant in self.spec.variants if variant.measurements}
        return {
            "chosen": self.chosen,
            "ranking": to_dict(self.spec.rankings[-1]),
            "frontier": list(frontier(newest)),
            "variants": {
                variant.name: {
                    "engine": variant.engine,
                    "precision": variant.precision,
                    "refused": self.refused.get(variant.name),
                    "note": self.notes.get(variant.name),
                    **(to_dict(newest[variant.name]) if variant.name in newest else {}),
                }
                for variant in self.spec.variants
            },
            "left_out": self.left_out,
        }


def optimize(
    folder: Path, config: OptimizeConfig, pruning: PruningConfig, device: str, progress: Progress
) -> Optimized:
    """Builds, measures and ranks variants of the bundle in the run ``folder``; earlier variants are made anew.

    Args:
        folder: a run of marquee train, or what marquee import wrote.
        config: what to build and what may be lost.
        pruning: of the network, before the same is built of it once more.
        device: where it will be served: ``cpu`` or ``cuda``.
        progress: told about it.

    Returns:
        What ``RUN/optimization.json`` holds, too.

    Raises:
        TrainingError: the bundle as it was stays in place.
    """
    bundle = RunFolder(folder).bundle
    spec = _first_variant_only(read_spec(bundle))
    verify_files(bundle, spec.files)
    run = read_run(folder, spec)
    if run is not None:
        spec = replace(spec, samples={})  # of an earlier time; they are chosen anew
    if run is None and (pruning.channels or pruning.weights):
        raise OptimizeError(f"{folder}: pruning fine-tunes on the training images, and this is no run of marquee train")
    with atomic_folder(bundle) as staging:
        _copy(bundle, staging, spec)
        material = read_material(staging, run, bundle, spec, config, progress)
        material = replace(material, spec=_with_samples(material, config))
        builds = Builds(material, config, device, progress)
        original = Network(prefix="", classifier=run.classifier if run else None, distance=material.distance)
        builds.build(original, kinds_for(spec, config, device))
        if run is not None and (pruning.channels or pruning.weights):
            build_pruned(builds, run, material, pruning, progress)
        result = _measure_and_rank(staging, builds, material, config, device, progress)
    write_json(RunFolder(folder).optimization, result.to_dict())
    return result


def _first_variant_only(spec: ModelSpec) -> ModelSpec:
    """The spec as it was before any optimising."""
    first = replace(spec.variants[0], measurements=())
    answers = {variant.expected for variant in spec.variants[1:]}
    golden = {name: digest for name, digest in spec.golden.files.items() if name not in answers}
    return replace(
        spec,
        schema_version=SCHEMA_VERSION,
        variants=(first,),
        rankings=(),
        golden=replace(spec.golden, files=golden),
    )


def _copy(bundle: Path, staging: Path, spec: ModelSpec) -> None:
    for name in spec.files:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / name, staging / name)


def _with_samples(material: Material, config: OptimizeConfig) -> ModelSpec:
    """Copies some calibration images into the bundle, as raw files; a model from elsewhere came with its own."""
    if material.run is None:
        return material.spec
    chosen = even_sample(material.calibration_records, config.samples)
    return replace(material.spec, samples=dict(copy_files(material.folder, "samples", chosen)))


def _measure_and_rank(
    folder: Path, builds: Builds, material: Material, config: OptimizeConfig, device: str, progress: Progress
) -> Optimized:
    """Measures what was built, and writes the spec that says so."""
    spec = replace(builds.spec, variants=tuple(builds.variants))
    (folder / SPEC_FILE).write_text(spec.to_json(), "utf-8")  # the processes read it
    threads = config.threads or this_host().cores
    with ExitStack() as stack:
        processes = []
        for variant in spec.variants:
            try:
                logger.info(f"loading {variant.name}")
                processes.append(stack.enter_context(variant_process(folder, variant.name, device, threads)))
            except OptimizeError as error:
                if variant is spec.variants[0]:
                    raise
                builds.leave_out(variant.name, str(error))
        measured = measure_variants(processes, spec, material, config, device, threads, progress, builds.leave_out)
    variants = tuple(
        replace(
            variant,
            output=measured[variant.name].output,
            expected=measured[variant.name].expected,
            measurements=(measured[variant.name].measurement,),
        )
        for variant in spec.variants
        if variant.name in measured
    )
    golden = write_golden_answers(folder, spec, measured)
    refused, ranking = rank_variants(variants, config, device)
    spec = replace(spec, variants=variants, golden=golden, rankings=(ranking,))
    _remove_unnamed(folder, spec)
    (folder / SPEC_FILE).write_text(spec.to_json(), "utf-8")
    for name in ranking.order:
        Predictor.load(folder, device, name, prove)  # as a server will
    return Optimized(spec=spec, chosen=ranking.order[0], refused=refused, left_out=builds.left_out, notes=builds.notes)


def rank_variants(
    variants: tuple[VariantSpec, ...], config: OptimizeConfig, device: str
) -> tuple[dict[str, str], Ranking]:
    """Which variants may be served, the fastest first, by their newest measurements; and why the others may not.

    The first variant may always be: it is what the others are compared with.
    """
    newest = {variant.name: variant.measurements[-1] for variant in variants}
    reasons = {
        name: refusal(measurement, config.max_accuracy_drop, config.p99_ms)
        for name, measurement in list(newest.items())[1:]
    }
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    allowed = {name: measurement for name, measurement in newest.items() if name not in refused}
    ranking = Ranking(
        host=this_host(device),
        date=now(),
        order=tuple(rank(allowed)),
        max_accuracy_drop=config.max_accuracy_drop,
        p99_ms=config.p99_ms or None,
    )
    return refused, ranking


def _remove_unnamed(folder: Path, spec: ModelSpec) -> None:
    """Takes away the files of variants that were built and then left out."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != SPEC_FILE and path.relative_to(folder).as_posix() not in spec.files:
            path.unlink()
