"""The variants that are built of one bundle, and what could not be."""

import logging
from pathlib import Path

from marquee.handlers.choice import lacks
from marquee.handlers.distance import Distance
from marquee.handlers.host import this_host
from marquee.handlers.spec import ModelSpec, VariantSpec
from marquee.training.data.loading import resolve_workers
from marquee.training.errors import OptimizeError, TrainingError
from marquee.training.familiarity import fit_distance
from marquee.training.models import Classifier
from marquee.training.optimize.build import Builder, Network
from marquee.training.optimize.config import CPU_KINDS, GPU_KINDS, OptimizeConfig, PruningConfig
from marquee.training.optimize.distil import DistilConfig, fine_tune
from marquee.training.optimize.material import Material, Run
from marquee.training.optimize.prune import PruneTarget, compressed_bytes, prune_channels, prune_weights
from marquee.training.progress import Progress

logger = logging.getLogger(__name__)


def kinds_for(spec: ModelSpec, config: OptimizeConfig, device: str) -> list[str]:
    """What to build: not again what the bundle begins with."""
    wanted = config.variants or (GPU_KINDS if device.startswith("cuda") else CPU_KINDS)
    first = spec.variants[0]
    own = f"openvino-{first.precision}" if first.engine == "openvino" else "fp32"
    return [kind for kind in wanted if kind != own]


class Builds:
    """Collects variants; one that cannot be built leaves a line, and the rest goes on."""

    def __init__(self, material: Material, config: OptimizeConfig, device: str, progress: Progress) -> None:
        self._material, self._progress = material, progress
        self.config, self.device = config, device
        self.notes: dict[str, str] = {}
        self.variants: list[VariantSpec] = [material.spec.variants[0]]
        self.left_out: dict[str, str] = {}
        self.spec = material.spec

    def build(self, network: Network, kinds: list[str]) -> None:
        """Builds variants of one network."""
        builder = Builder(network, self._material, self.config, self._progress)
        for kind in kinds:
            name = network.prefix + kind
            with self._progress.task(f"building {name}", 1):
                try:
                    variant = builder.build(kind)
                    if reason := lacks(variant, this_host(self.device), self.device):
                        raise OptimizeError(f"{reason}, so it cannot be measured here")
                    self.variants.append(variant)
                except OptimizeError as error:
                    self.leave_out(name, str(error))

    def leave_out(self, name: str, reason: str) -> None:
        """Says that a variant will not be there."""
        self.left_out[name] = reason
        logger.info(f"left out: {name}: {reason}")


def build_pruned(builds: Builds, run: Run, material: Material, pruning: PruningConfig, progress: Progress) -> None:
    """Makes smaller networks of the run's, and the variants of each.

    Args:
        builds: takes them.
        run: the original, and the images that a smaller one learns from.
        material: bundle and images.
        pruning: what is wished for.
        progress: told about it.
    """
    if pruning.channels:
        try:
            target = PruneTarget(
                keep=pruning.keep or None, size_mb=pruning.size_mb or None, latency_ms=pruning.latency_ms or None
            )
            image = material.spec.image
            pruned = prune_channels(run.classifier, image, target, material.calibration.pixels, progress)
            config = DistilConfig(epochs=pruning.epochs, lr=pruning.lr)
            pruned = fine_tune(pruned, run.classifier, run.config, run.manifest, image, config, progress)
            network = Network(
                prefix="pruned-", classifier=pruned, distance=_distance(pruned, run, material.spec, progress)
            )
        except TrainingError as error:
            builds.leave_out("pruned", str(error))
        else:
            builds.build(network, ["fp32", *kinds_for(material.spec, builds.config, builds.device)])
    if pruning.weights:
        sparse = prune_weights(run.classifier, pruning.weights)
        try:
            distance = _distance(sparse, run, material.spec, progress)
        except TrainingError as error:
            builds.leave_out("sparse-fp32", str(error))
            return
        builds.build(Network(prefix="sparse-", classifier=sparse, distance=distance), ["fp32"])
        if builds.variants[-1].name != "sparse-fp32":
            return
        small, whole = (compressed_bytes(_program_of(builds.variants[i], material.folder)) / 1e6 for i in (-1, 0))
        builds.notes[builds.variants[-1].name] = f"{small:.1f} MB when compressed by zlib, fp32 {whole:.1f} MB"


def _distance(classifier: Classifier, run: Run, spec: ModelSpec, progress: Progress) -> Distance | None:
    """The distance of a changed network's features, which are not those of the original any more."""
    if not spec.variants[0].measures_distance:
        return None
    workers = resolve_workers(run.config.loop.workers, len(run.manifest.split("train")))
    fitted = fit_distance(classifier, run.manifest, spec.image, workers, progress)
    if fitted is None:
        raise OptimizeError("it does not give its features any more")
    return fitted


def _program_of(variant: VariantSpec, folder: Path) -> Path:
    return folder / next(iter(variant.files))
