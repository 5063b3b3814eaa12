"""Checkpoint -> bundle: one folder with everything that a server needs, proven against the trained model."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from marquee.handlers.distance import DISTANCE_FILE, Distance, write_distance
from marquee.handlers.engines import load_engine
from marquee.handlers.golden import replay
from marquee.handlers.predictor import Predictor
from marquee.handlers.spec import (
    SCHEMA_VERSION,
    SPEC_FILE,
    GoldenSpec,
    ImageSpec,
    ModelSpec,
    OutputName,
    OutputSpec,
    VariantSpec,
    read_spec,
    sha256_file,
    verify_files,
)
from marquee.training.calibration import calibrate
from marquee.training.config import ExportConfig
from marquee.training.data.loading import EvaluationImages
from marquee.training.data.manifest import Manifest, Record
from marquee.training.errors import ExportError
from marquee.training.evaluation import encode_targets, measure, predict_outputs, write_predictions
from marquee.training.familiarity import LogitsAndFeatures, fit_distance
from marquee.training.files import atomic_folder
from marquee.training.golden import choose_golden, write_golden
from marquee.training.models import Classifier
from marquee.training.progress import Progress
from marquee.training.run_folder import RunFolder

MODEL_FILE = "model.pt2"
CHECKED_IMAGES = 64
"""Real images on which the exported program must answer as the eager model does."""


def export_bundle(
    model: Classifier,
    manifest: Manifest,
    image: ImageSpec,
    config: ExportConfig,
    provenance: dict[str, Any],
    folder: Path,
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """Writes the bundle ``folder``, or leaves what was there when anything fails.

    The measured split is ``test``, or ``val`` where there are no test images.

    Args:
        model: trained, on any device; it is left on the CPU in eval mode.
        manifest: the run's images; its labels are in the order of the logits.
        image: the preprocessing that validation used.
        config: what goes in.
        provenance: facts for ``spec.json``; metrics are added.
        folder: the bundle to write.
        workers: loader processes for the evaluation.
        progress: told about it.

    Returns:
        The metrics of the bundle on the measured split, with ``split``.

    Raises:
        ExportError: the exported program or a golden answer differs from the trained model.
    """
    model = model.cpu().float().eval()
    measured = "test" if manifest.split("test") else "val"
    records = manifest.split(measured)
    with atomic_folder(folder) as staging:
        distance = fit_distance(model, manifest, image, workers, progress) if config.unfamiliar else None
        variant = _write_program(model, distance, image, staging)
        draft = ModelSpec(
            schema_version=SCHEMA_VERSION,
            task="multi-label-classification" if manifest.multi_label else "image-classification",
            labels=manifest.labels,
            image=image,
            output=OutputSpec(top_k=config.top_k),
            variants=(variant,),
            golden=GoldenSpec(),
        )
        engine = load_engine(draft, variant, staging, "cpu")
        uncalibrated = Predictor(draft, variant, engine, "", staging)
        compare_with_eager(model, uncalibrated, _pixels(uncalibrated, records[:CHECKED_IMAGES]))
        validation = manifest.split("val")
        calibration = calibrate(
            predict_outputs(uncalibrated, validation, workers, progress),
            encode_targets(uncalibrated, validation),
            config,
        )
        predictor = Predictor(replace(draft, output=calibration.output), variant, engine, "", staging)
        outputs = predict_outputs(predictor, records, workers, progress)
        metrics = {"split": measured, **measure(predictor, records, outputs), "calibration": calibration.facts}
        if "abstain" in metrics:
            metrics["abstain"]["wanted_error"] = config.max_error
        samples = choose_golden(manifest, measured, config.golden)
        answers = predictor.answer(predict_outputs(predictor, samples, 0, Progress(quiet=True)))
        golden = write_golden(staging, samples, answers)
        spec = replace(predictor.spec, golden=golden, provenance={**provenance, "metrics": _numbers(metrics)})
        (staging / SPEC_FILE).write_text(spec.to_json(), "utf-8")
        written = read_spec(staging)
        verify_files(staging, written.files)
        if differences := replay(Predictor(written, written.variants[0], engine, "", staging)):
            raise ExportError(f"{folder}: the written bundle differs from its own evaluation: {differences[0]}")
    # Beside the folder, so after it: a bundle that cannot be put in its place leaves the answers of the one before.
    write_predictions(RunFolder(folder.parent).predictions, predictor, records, outputs)
    return metrics


def _numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without the tables, which grow with the number of classes and would be sent with every ``describe``."""
    tables = ("confusion_matrix", "per_class", "reliability")
    return {name: value for name, value in metrics.items() if name not in tables}


def export_program(model: nn.Module, image: ImageSpec, path: Path) -> None:
    """Writes ``model`` as a ``.pt2``, for uint8 (N, crop, crop, channels) with any N of at least 1."""
    program = trace_program(model, image)
    # The example would be stored as a pickle, the only one in the file. A private attribute; a test guards it.
    program._example_inputs = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch itself
        torch.export.save(program, path)


def trace_program(model: nn.Module, image: ImageSpec) -> torch.export.ExportedProgram:
    """``model`` as a program for uint8 (N, crop, crop, channels) with any N of at least 1."""
    # Two images: torch.export takes a batch of one for a constant.
    example = torch.zeros(2, image.crop, image.crop, image.channels, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations inside torch itself
        return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def _write_program(model: Classifier, distance: Distance | None, image: ImageSpec, folder: Path) -> VariantSpec:
    """The program, with features where there is a distance to compute from them."""
    files = [MODEL_FILE]
    if distance is None:
        export_program(model, image, folder / MODEL_FILE)
    else:
        export_program(LogitsAndFeatures(model).eval(), image, folder / MODEL_FILE)
        write_distance(folder / DISTANCE_FILE, distance)
        files.append(DISTANCE_FILE)
    return VariantSpec(
        name="fp32",
        engine="exported",
        precision="fp32",
        files={name: sha256_file(folder / name) for name in files},
        outputs=outputs_of(distance),
    )


def outputs_of(distance: Distance | None) -> tuple[OutputName, ...]:
    """What the program of a network gives."""
    return ("logits",) if distance is None else ("logits", "features")


def compare_with_eager(model: nn.Module, predictor: Predictor, pixels: torch.Tensor) -> float:
    """The largest difference in a probability between the exported program and the model that it was made from.

    Args:
        model: in eval mode, on the CPU.
        predictor: with the exported program.
        pixels: uint8 (N, crop, crop, channels), real images.

    Raises:
        ExportError: it is more than the variant's tolerance.
    """
    with torch.inference_mode():
        eager = predictor.to_probabilities(model(pixels).double().numpy())
    apart = float(np.abs(eager - predictor.probabilities(pixels.numpy())).max())
    if not apart <= predictor.variant.tolerance:
        raise ExportError(
            f"the exported program differs from the trained model by {apart:.2g} in a probability "
            f"(tolerance {predictor.variant.tolerance:.2g}); this architecture cannot be served as exported"
        )
    return apart


def _pixels(predictor: Predictor, records: Sequence[Record]) -> torch.Tensor:
    """uint8 (N, crop, crop, channels), as evaluation reads them."""
    spec = predictor.spec
    images = EvaluationImages(records, spec.labels, spec.image, multi_label=spec.multi_label)
    return torch.stack([images[i][0] for i in range(len(images))])
