"""Adds variants to a bundle, and a ranking of those that may be served."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from marquee.handlers.core.accuracy import Quality
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.golden import verify_golden
from marquee.handlers.core.host import this_host
from marquee.handlers.core.measurement import Ranking
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.schema import to_dict
from marquee.handlers.core.spec import SCHEMA_VERSION, SPEC_FILE, ModelSpec, VariantSpec
from marquee.training.core.errors import OptimizeError
from marquee.training.core.exclusive import exclusive
from marquee.training.core.files import atomic_folder, write_json
from marquee.training.core.golden_writer import write_requests
from marquee.training.core.progress import Progress
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import task_for
from marquee.training.optimize.build import Network
from marquee.training.optimize.builds import Builds, build_pruned, check_pruning, kinds_for
from marquee.training.optimize.config import OptimizeConfig, PruningConfig
from marquee.training.optimize.datasets import Datasets, even_sample, read_datasets, read_run
from marquee.training.optimize.judge import Order, frontier, order, refusal
from marquee.training.optimize.measure import Place, measure_variants, now, write_golden_answers
from marquee.training.optimize.process import variant_process

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Optimized:
    """The result of an optimisation."""

    spec: ModelSpec
    """The bundle's spec, with its variants, measurements and ranking."""
    order: Order
    """The variants that may be served, and why they are in this order."""
    judged: str
    """The items that the quality of answers was measured on, as a phrase."""
    refused: dict[str, str]
    """Measured variant -> why it may not be served."""
    left_out: dict[str, str]
    """Variant that could not be built or run -> why."""
    notes: dict[str, str] = field(default_factory=dict)
    """Variant -> a further remark."""
    losses: dict[str, str] = field(default_factory=dict)
    """Variant -> the class that loses most."""

    @property
    def chosen(self) -> str:
        """Name of the variant that this machine will serve."""
        return self.order.names[0]

    def to_dict(self) -> dict[str, Any]:
        """The content of ``optimization.json`` and the output of ``--json``."""
        newest = {variant.name: variant.measurements[-1] for variant in self.spec.variants if variant.measurements}
        return {
            "chosen": self.chosen,
            "reason": self.order.reason,
            "warning": self.order.warning or None,
            "judged_on": self.judged,
            "ranking": to_dict(self.spec.rankings[-1]),
            "frontier": list(frontier(newest)),
            "variants": {
                variant.name: {
                    "engine": variant.engine,
                    "precision": variant.precision,
                    "refused": self.refused.get(variant.name),
                    "note": self.notes.get(variant.name),
                    "loses_most": self.losses.get(variant.name),
                    **(to_dict(newest[variant.name]) if variant.name in newest else {}),
                }
                for variant in self.spec.variants
            },
            "left_out": self.left_out,
        }


def optimize(
    folder: Path,
    config: OptimizeConfig,
    pruning: PruningConfig,
    device: str,
    progress: Progress,
    data: Path | None = None,
) -> Optimized:
    """Builds, measures and ranks variants of the bundle in the run ``folder``; earlier variants are replaced.

    Args:
        folder: a run folder written by marquee train or marquee import.
        config: which variants to build, and the accuracy and latency limits.
        pruning: pruning targets; the variants are also built of each pruned network.
        device: the device that serves the model: ``cpu`` or ``cuda``.
        progress: where progress is reported.
        data: where the run's data set lies, if it was moved since the training.

    Returns:
        The result, which is also written to ``RUN/optimization.json``.

    Raises:
        TrainingError: optimisation failed; the original bundle stays in place.
    """
    with exclusive(folder, "marquee optimize"):
        return _optimize(folder, config, pruning, device, progress, data)


def _optimize(
    folder: Path, config: OptimizeConfig, pruning: PruningConfig, device: str, progress: Progress, data: Path | None
) -> Optimized:
    before = Bundle.read(RunFolder(folder).bundle)
    spec = _first_variant_only(before.spec)
    before.verify(spec.files)  # other variants are built anew, whatever has become of them
    run = read_run(folder, spec, data, progress)
    if run is not None:
        spec = replace(spec, samples={})  # samples of an earlier call; new ones are chosen
    check_pruning(pruning, run, folder)
    with atomic_folder(before.folder) as staging:
        _copy(before.folder, staging, spec)
        datasets = read_datasets(Bundle(staging, spec), run, before.folder, config, progress)
        datasets = replace(datasets, bundle=datasets.bundle.with_spec(_with_samples(datasets, config)))
        builds = Builds(datasets, config, device, progress)
        original = Network(prefix="", model=run.model if run else None, distance=datasets.distance)
        builds.build(original, kinds_for(spec, config, device))
        if run is not None and (pruning.channels or pruning.weights):
            build_pruned(builds, run, datasets, pruning, progress)
        result = _measure_and_rank(builds, datasets, config, device, progress)
    write_json(RunFolder(folder).optimization, result.to_dict())
    return result


def _first_variant_only(spec: ModelSpec) -> ModelSpec:
    """The spec without the results of earlier optimisations."""
    first = replace(spec.variants[0], measurements=())
    expected = {variant.expected for variant in spec.variants[1:]}
    golden = {name: digest for name, digest in spec.golden.files.items() if name not in expected}
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


def _with_samples(datasets: Datasets, config: OptimizeConfig) -> ModelSpec:
    """Copies some calibration items into the bundle, as raw files; an imported model's bundle already has samples."""
    if datasets.run is None:
        return datasets.spec
    records = even_sample(datasets.run.task, datasets.calibration_records, config.samples)
    written = write_requests(datasets.bundle.folder, "samples", datasets.run.task, records)
    return replace(datasets.spec, samples=dict(written))


def _measure_and_rank(
    builds: Builds, datasets: Datasets, config: OptimizeConfig, device: str, progress: Progress
) -> Optimized:
    """Measures and ranks the built variants, and writes them into the bundle's spec."""
    # Written now, since the variants' processes read it.
    bundle = datasets.bundle.with_spec(replace(datasets.spec, variants=tuple(builds.variants))).write()
    place = Place(device, config.threads or this_host().cores)
    with ExitStack() as stack:
        processes = []
        for variant in bundle.spec.variants:
            try:
                logger.info(f"loading {variant.name}")
                process = variant_process(bundle.folder, variant.name, device, place.threads)
                processes.append(stack.enter_context(process))
            except OptimizeError as error:
                if variant is bundle.spec.variants[0]:
                    raise
                builds.leave_out(variant.name, str(error))
        measured = measure_variants(processes, datasets, bundle, config, place, progress, builds.leave_out)
    golden = write_golden_answers(bundle, measured)
    variants = tuple(
        replace(
            variant,
            calibration=measured[variant.name].calibration,
            expected=measured[variant.name].expected,
            measurements=(measured[variant.name].measurement,),
        )
        for variant in bundle.spec.variants
        if variant.name in measured
    )
    rounds = {name: one.rounds for name, one in measured.items()}
    refused, ranking, ordered = rank_measured(variants, rounds, config, device, task_for(datasets.spec).quality)
    spec = replace(bundle.spec, variants=variants, golden=golden, rankings=(ranking,))
    _remove_unnamed(bundle.folder, spec)
    bundle.with_spec(spec).write()
    for name in ranking.order:
        Predictor.load(bundle.folder, device, name, verify_golden)  # the same check as when a server starts
    losses = {name: one.loses_most for name, one in measured.items() if one.loses_most}
    return Optimized(
        spec=spec,
        order=ordered,
        judged=datasets.judged_on,
        refused=refused,
        left_out=builds.left_out,
        notes=builds.notes,
        losses=losses,
    )


def rank_measured(
    variants: tuple[VariantSpec, ...],
    rounds: Mapping[str, Sequence[float]],
    config: OptimizeConfig,
    device: str,
    quality: Quality,
) -> tuple[dict[str, str], Ranking, Order]:
    """Ranks the variants that may be served by their newest measurements (see :func:`.judge.order`).

    The first variant may always be served: it is the reference for the others.

    Args:
        variants: with their measurements, the simplest first.
        rounds: items per second of each in each round of the timing.
        config: the limits.
        device: where they were measured.
        quality: what the quality of the answers is.

    Returns:
        Refused variant -> the reason; the ranking of the others; and why it is so.
    """
    newest = {variant.name: variant.measurements[-1] for variant in variants}
    reasons = {
        name: refusal(measurement, config.max_accuracy_drop, config.p99_ms, quality)
        for name, measurement in list(newest.items())[1:]
    }
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    allowed = {name: measurement for name, measurement in newest.items() if name not in refused}
    ordered = order(allowed, {name: rounds[name] for name in allowed})
    ranking = Ranking(
        host=this_host(device),
        date=now(),
        order=ordered.names,
        max_accuracy_drop=config.max_accuracy_drop,
        p99_ms=config.p99_ms or None,
    )
    return refused, ranking, ordered


def _remove_unnamed(folder: Path, spec: ModelSpec) -> None:
    """Deletes the files of variants that were built but left out of the spec."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != SPEC_FILE and path.relative_to(folder).as_posix() not in spec.files:
            path.unlink()
