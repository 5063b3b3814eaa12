"""The variants that are built for a bundle, and the reasons for those that could not be built."""

import logging
from pathlib import Path
from typing import cast

from marquee.handlers.core.choice import missing_requirements
from marquee.handlers.core.host import this_host
from marquee.handlers.core.spec import ModelSpec, VariantSpec
from marquee.handlers.inputs.image.spec import PIXELS, image_of
from marquee.handlers.outputs.classification import measures_distance
from marquee.handlers.outputs.distance import Distance
from marquee.training.core import task as training_task
from marquee.training.core.errors import OptimizeError, reason_of
from marquee.training.core.loop import Interrupted
from marquee.training.core.progress import Progress
from marquee.training.optimize.build import Builder, Network
from marquee.training.optimize.config import CPU_KINDS, GPU_KINDS, OptimizeConfig, PruningConfig
from marquee.training.optimize.datasets import Datasets, Run
from marquee.training.optimize.distil import DistilConfig, fine_tune
from marquee.training.optimize.prune import PruneTarget, compressed_bytes, prune_channels, prune_weights
from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tasks.image_classification.models import Classifier
from marquee.training.tasks.image_classification.task import ImageClassification

logger = logging.getLogger(__name__)


def kinds_for(spec: ModelSpec, config: OptimizeConfig, device: str) -> list[str]:
    """The kinds of variants to build, without the kind of the bundle's first variant, which exists already.

    Kinds that were asked for are kept even if the task's models cannot have them: :class:`Builds` says so.
    """
    possible = training_task.task_for(spec).variant_kinds(spec)
    defaults = GPU_KINDS if device.startswith("cuda") else CPU_KINDS
    kinds = config.variants or [kind for kind in defaults if possible is None or kind in possible]
    first = spec.variants[0]
    existing = f"openvino-{first.precision}" if first.engine == "openvino" else first.precision
    return [kind for kind in kinds if kind != existing]


class Builds:
    """Collects the built variants; one that cannot be built is recorded with the reason, and the others are built."""

    def __init__(self, datasets: Datasets, config: OptimizeConfig, device: str, progress: Progress) -> None:
        self._datasets, self._progress = datasets, progress
        self.config, self.device = config, device
        self.notes: dict[str, str] = {}
        self.variants: list[VariantSpec] = [datasets.spec.variants[0]]
        self.left_out: dict[str, str] = {}
        self.spec = datasets.spec
        self._possible = training_task.task_for(datasets.spec).variant_kinds(datasets.spec)

    def build(self, network: Network, kinds: list[str]) -> None:
        """Builds variants of one network."""
        builder = Builder(network, self._datasets, self.config, self._progress)
        for kind in kinds:
            name = network.prefix + kind
            with self._progress.task(f"building {name}", 1):
                try:
                    if self._possible is not None and kind not in self._possible:
                        raise OptimizeError(f"for this model there are only {', '.join(self._possible)}")
                    variant = builder.build(kind)
                    if reason := missing_requirements(variant, this_host(self.device), self.device):
                        raise OptimizeError(f"{reason}, so it cannot be measured here")
                    self.variants.append(variant)
                except Exception as error:  # whatever a library raises: the other variants are built
                    logger.debug("%s", name, exc_info=True)
                    self.leave_out(name, reason_of(error))

    def leave_out(self, name: str, reason: str) -> None:
        """Records why a variant is left out, and logs it."""
        self.left_out[name] = reason
        logger.info(f"left out: {name}: {reason}")


def check_pruning(pruning: PruningConfig, run: Run | None, folder: Path) -> None:
    """Raises OptimizeError if pruning is asked for and there is no network that can be pruned."""
    if not (pruning.channels or pruning.weights):
        return
    if run is None:
        raise OptimizeError(f"{folder}: pruning needs the training images, and this is not a run of marquee train")
    classifier_of(run)


def build_pruned(builds: Builds, run: Run, datasets: Datasets, pruning: PruningConfig, progress: Progress) -> None:
    """Prunes the run's network and builds the variants of each pruned network.

    Args:
        builds: collects the variants.
        run: the original network, and the images for fine-tuning the pruned one.
        datasets: the bundle and the images.
        pruning: the pruning targets.
        progress: where progress is reported.
    """
    if pruning.channels:
        try:
            target = PruneTarget(
                keep=pruning.keep or None, size_mb=pruning.size_mb or None, latency_ms=pruning.latency_ms or None
            )
            classifier, image = classifier_of(run), image_of(datasets.spec)
            pixels = datasets.calibration.inputs[PIXELS]
            pruned = prune_channels(classifier, image, target, pixels, progress)
            config = DistilConfig(epochs=pruning.epochs, lr=pruning.lr)
            pruned = fine_tune(pruned, classifier, run.config, run.manifest, image, config, progress)
            network = Network(prefix="pruned-", model=pruned, distance=_distance(pruned, run, datasets.spec, progress))
        except Exception as error:
            _check_interrupted(error)
            logger.debug("pruned", exc_info=True)
            builds.leave_out("pruned", reason_of(error))
        else:
            builds.build(network, ["fp32", *kinds_for(datasets.spec, builds.config, builds.device)])
    if pruning.weights:
        try:
            sparse = prune_weights(classifier_of(run), pruning.weights)
            distance = _distance(sparse, run, datasets.spec, progress)
        except Exception as error:
            _check_interrupted(error)
            logger.debug("sparse", exc_info=True)
            builds.leave_out("sparse-fp32", reason_of(error))
            return
        builds.build(Network(prefix="sparse-", model=sparse, distance=distance), ["fp32"])
        if builds.variants[-1].name != "sparse-fp32":
            return
        sparse_mb, fp32_mb = (compressed_bytes(datasets.bundle.program(builds.variants[i])) / 1e6 for i in (-1, 0))
        builds.notes[builds.variants[-1].name] = f"{sparse_mb:.1f} MB when compressed with zlib, fp32 {fp32_mb:.1f} MB"


def _check_interrupted(error: Exception) -> None:
    """Raises an error that means that the user wants to stop."""
    if isinstance(error.__cause__, Interrupted):
        raise error


def classifier_of(run: Run) -> Classifier:
    """The run's network.

    Raises:
        OptimizeError: networks of this task cannot be pruned.
    """
    if not isinstance(run.model, Classifier) or not isinstance(run.task, ImageClassification):
        raise OptimizeError(f"networks for {run.config.task} cannot be pruned")
    return run.model


def _distance(classifier: Classifier, run: Run, spec: ModelSpec, progress: Progress) -> Distance | None:
    """Fits the distance anew: the features of a pruned network differ from those of the original."""
    if not measures_distance(spec.variants[0]) or not isinstance(run.task, ImageClassification):
        return None
    network = training_task.Network(model=classifier, input=spec.input)
    fitted = run.task.fit_distance(cast(ImageRunConfig, run.config), run.manifest, network, progress)
    if fitted is None:
        raise OptimizeError("the network no longer returns its features")
    return fitted
