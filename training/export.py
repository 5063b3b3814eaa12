"""Checkpoint -> bundle: one folder with everything that a server needs, proven against the trained model."""

import json
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from handlers.engines import load_engine
from handlers.golden import replay
from handlers.predictor import Predictor
from handlers.spec import (
    EXPECTED_FILE,
    SCHEMA_VERSION,
    SPEC_FILE,
    GoldenSpec,
    ImageSpec,
    ModelSpec,
    OutputSpec,
    VariantSpec,
    sha256_file,
)
from training.calibration import calibrate
from training.config import ExportConfig
from training.data.loading import EvaluationImages
from training.data.manifest import Manifest, Record
from training.errors import ExportError
from training.evaluation import encode_targets, measure, predict_outputs, write_predictions
from training.familiarity import WithDistance, fit_distance
from training.files import atomic_folder
from training.models import Classifier
from training.progress import Progress
from training.seeding import derive_seed

MODEL_FILE = "model.pt2"
CHECKED_IMAGES = 64
"""Real images on which the exported program must answer as the eager model does."""
MAX_GOLDEN = 128


def export_bundle(
    model: Classifier,
    manifest: Manifest,
    labels: Sequence[str],
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
        manifest: the run's images.
        labels: class names in the order of the logits.
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
        served = _with_distance(model, manifest, image, config, workers, progress)
        export_program(served, image, staging / MODEL_FILE)
        variant = VariantSpec(
            name="fp32",
            engine="exported",
            precision="fp32",
            files={MODEL_FILE: sha256_file(staging / MODEL_FILE)},
        )
        # The thresholds are fitted below; until then any number says that there is a distance.
        output = OutputSpec(top_k=config.top_k, max_distance=1.0 if isinstance(served, WithDistance) else None)
        draft = ModelSpec(
            schema_version=SCHEMA_VERSION,
            task="multi-label-classification" if manifest.multi_label else "image-classification",
            labels=tuple(labels),
            image=image,
            output=output,
            variants=(variant,),
            golden=GoldenSpec(),
        )
        engine = load_engine(draft, variant, staging, "cpu")
        uncalibrated = Predictor(draft, variant, engine, "", staging)
        _compare_with_eager(model, uncalibrated, records[:CHECKED_IMAGES])
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
        golden = _write_golden(staging, choose_golden(manifest, measured, config.golden), predictor)
        spec = replace(predictor.spec, golden=golden, provenance={**provenance, "metrics": _numbers(metrics)})
        (staging / SPEC_FILE).write_text(spec.to_json(), "utf-8")
        if differences := replay(Predictor.load(staging)):
            raise ExportError(f"{folder}: the written bundle differs from its own evaluation: {differences[0]}")
        write_predictions(folder.parent / "predictions.csv", predictor, records, outputs)
    return metrics


def _numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without the tables, which grow with the number of classes and would be sent with every ``describe``."""
    tables = ("confusion_matrix", "per_class", "reliability")
    return {name: value for name, value in metrics.items() if name not in tables}


def export_program(model: nn.Module, image: ImageSpec, path: Path) -> None:
    """Writes ``model`` as a ``.pt2``, for uint8 (N, crop, crop, channels) with any N of at least 1."""
    # Two images: torch.export takes a batch of one for a constant.
    example = torch.zeros(2, image.crop, image.crop, image.channels, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations inside torch itself
        program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        # The example would be stored as a pickle, the only one in the file. A private attribute; a test guards it.
        program._example_inputs = None
        torch.export.save(program, path)


def choose_golden(manifest: Manifest, measured: str, count: int) -> list[Record]:
    """Images for the golden samples: one of each class in turn, from the measured split first.

    At least ``count`` where there are as many images, one of each class where there are more classes, at most 128.
    """
    # Other splits come after the measured one: a small test split cannot fill the count on its own.
    order = [measured, *(split for split in ("test", "val", "train") if split != measured)]
    queues: dict[str, list[Record]] = defaultdict(list)
    for split in order:
        for record in sorted(manifest.split(split), key=lambda r: derive_seed("golden", r.sha256, r.path)):
            queues[record.label].append(record)
    wanted = min(MAX_GOLDEN, max(count, len(manifest.labels)), len(manifest.records))
    chosen: list[Record] = []
    for turn in range(max(len(queue) for queue in queues.values())):
        chosen += [queue[turn] for _, queue in sorted(queues.items()) if turn < len(queue)]
        if len(chosen) >= wanted:
            break
    return chosen[:wanted]


def _with_distance(
    model: Classifier,
    manifest: Manifest,
    image: ImageSpec,
    config: ExportConfig,
    workers: int,
    progress: Progress,
) -> Classifier | WithDistance:
    if not config.unfamiliar:
        return model
    distance = fit_distance(model, manifest, image, workers, progress)
    return model if distance is None else WithDistance(model, distance).eval()


def _write_golden(folder: Path, samples: Sequence[Record], predictor: Predictor) -> GoldenSpec:
    """Copies the raw files and writes what evaluation answered for them."""
    answers = predictor.answer(predict_outputs(predictor, samples, 0, Progress(quiet=True)))
    entries, files = [], {}
    (folder / EXPECTED_FILE).parent.mkdir()
    for number, (record, answer) in enumerate(zip(samples, answers, strict=True)):
        name = f"golden/{number:03d}{Path(record.path).suffix.lower()}"
        (folder / name).write_bytes(Path(record.path).read_bytes())
        files[name] = sha256_file(folder / name)
        if files[name] != record.sha256:
            raise ExportError(f"{record.path}: was changed since the manifest was made")
        entries.append(
            {
                "file": name,
                "label": record.label,
                "probabilities": [float(p) for p in answer.probabilities],
                "distance": answer.distance,
            }
        )
    (folder / EXPECTED_FILE).write_text(json.dumps(entries, indent=1), "utf-8")
    files[EXPECTED_FILE] = sha256_file(folder / EXPECTED_FILE)
    return GoldenSpec(files=files)


def _compare_with_eager(model: Classifier, predictor: Predictor, records: Sequence[Record]) -> None:
    spec = predictor.spec
    images = EvaluationImages(records, spec.labels, spec.image, multi_label=spec.multi_label)
    pixels = torch.stack([images[i][0] for i in range(len(images))])
    with torch.inference_mode():
        eager = predictor.to_probabilities(model(pixels).double().numpy())
    apart = float(np.abs(eager - predictor.probabilities(pixels.numpy())).max())
    if not apart <= predictor.variant.tolerance:
        raise ExportError(
            f"the exported program differs from the trained model by {apart:.2g} in a probability "
            f"(tolerance {predictor.variant.tolerance:.2g}); this architecture cannot be served as exported"
        )
