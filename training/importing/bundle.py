"""Writes a model that was trained elsewhere into a run folder with a bundle, verified on real images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from marquee.handlers.core.bundle import Bundle, sha256_file
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.golden import replay
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import SCHEMA_VERSION, TOLERANCES, GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.inputs.image.decode import load as load_image
from marquee.handlers.inputs.image.spec import PIXELS
from marquee.handlers.outputs.classification import ClassificationSpec, Prediction
from marquee.training.core.errors import ExportError, TrainingError
from marquee.training.core.exclusive import new_folder
from marquee.training.core.golden_writer import MAX_GOLDEN, write_golden, write_requests
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected, write_rejected
from marquee.training.core.run_folder import RunFolder
from marquee.training.importing import converted, keras_file, torch_weights
from marquee.training.importing.checks import check_batches, check_output
from marquee.training.importing.config import ImportConfig
from marquee.training.importing.doubts import Doubts
from marquee.training.importing.images import find_images
from marquee.training.importing.labels import read_labels
from marquee.training.importing.provenance import provenance
from marquee.training.importing.ready import ReadyModel
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record
from marquee.training.tasks.image_classification.task import ImageClassification


@dataclass(frozen=True)
class Imported:
    """The result of an import."""

    spec: ModelSpec
    """The bundle's spec."""
    answers: tuple[tuple[Record, Prediction], ...]
    """The golden samples and their predictions, sorted by path."""
    rejected: tuple[Rejected, ...]
    """Files that are not readable images."""
    warnings: tuple[str, ...] = ()
    """What is suspicious in the answers."""

    @property
    def agreeing(self) -> tuple[int, int]:
        """Number of golden samples whose label is predicted, and number of labelled golden samples."""
        labelled = [(record, answer) for record, answer in self.answers if record.label]
        return sum(record.label == answer.label for record, answer in labelled), len(labelled)


def import_bundle(config: ImportConfig, out: Path, progress: Progress) -> Imported:
    """Writes the run folder ``out`` with a bundle, or nothing if anything fails.

    Args:
        config: the model, and what its file does not specify.
        out: the folder to create; it must not exist.
        progress: where progress is reported.

    Raises:
        TrainingError: ``out`` exists, or the model, the labels or the images cannot be used; the message says which.
        ExportError: the written bundle's outputs differ from those of the model.
    """
    with new_folder(out, "marquee import") as staging:
        labels = read_labels(config.labels)
        return _import(config, labels, staging, progress)


def _import(config: ImportConfig, labels: tuple[str, ...], staging: Path, progress: Progress) -> Imported:
    with _ready(config, labels) as ready:
        records, rejected = find_images(config.images, labels, ready.image, progress)
        spec, answers = _write_bundle(RunFolder(staging).bundle, ready, config, labels, records)
        named = [answer.label for _, answer in answers]
        doubts = Doubts(ready, config.channel_order, labels, [record for record, _ in answers], named)
        warnings = doubts.lines(progress)
        if rejected:
            write_rejected(RunFolder(staging).rejected, rejected)
    return Imported(spec, answers, tuple(rejected), tuple(warnings))


@contextmanager
def _ready(config: ImportConfig, labels: tuple[str, ...]) -> Iterator[ReadyModel]:
    """Prepares the model with the importer for its kind of file."""
    path, suffix = config.model, config.model.suffix.lower()
    if not path.exists():
        raise TrainingError(f"--model {path}: no such file or folder")
    if suffix in torch_weights.SUFFIXES:
        yield torch_weights.prepare(config, labels)
    elif path.is_dir() or suffix in converted.FORMATS:
        yield converted.prepare(config, labels)
    elif suffix in keras_file.SUFFIXES:
        with keras_file.prepared(config, labels) as ready:
            yield ready
    else:
        supported = ", ".join((*torch_weights.SUFFIXES, *converted.FORMATS, *keras_file.SUFFIXES))
        raise TrainingError(f"--model {path}: unknown kind of file; expected {supported}, or a folder (SavedModel)")


def _write_bundle(
    folder: Path, ready: ReadyModel, config: ImportConfig, labels: tuple[str, ...], records: Sequence[Record]
) -> tuple[ModelSpec, tuple[tuple[Record, Prediction], ...]]:
    folder.mkdir()
    task = ImageClassification()
    files = {name: sha256_file(folder / name) for name in ready.write(folder)}
    variant = VariantSpec(
        name=ready.precision,
        engine=ready.engine,
        precision=ready.precision,
        files=files,
        tolerance=TOLERANCES[ready.precision],
        device=ready.device,
    )
    draft = Bundle(
        folder,
        ModelSpec(
            schema_version=SCHEMA_VERSION,
            task=task.name,
            input=ready.image,
            output=ClassificationSpec(labels=labels, top_k=config.top_k),
            variants=(variant,),
            golden=GoldenSpec(),
        ),
    )
    predictor = Predictor(draft, variant, load_engine(draft, variant, "cpu"))
    golden = task.choose_golden(Manifest(tuple(records)), "test", MAX_GOLDEN)[:MAX_GOLDEN]
    golden = sorted(golden, key=lambda record: record.path)
    pixels = np.stack([load_image(Path(record.path).read_bytes(), ready.image) for record in golden])
    check_batches(config.model, predictor, pixels)
    check_output(config.model, predictor, pixels, config.output)
    facts = {**ready.facts, "channel_order": config.channel_order, **ready.compare(predictor, pixels)}
    origin = provenance(config.model, config.licence, facts)
    answers = predictor.predict_arrays({PIXELS: pixels})
    spec = replace(
        draft.spec,
        golden=write_golden(draft, task, golden, answers),
        samples=dict(write_requests(folder, "samples", task, records)),
        provenance=origin,
    )
    draft.with_spec(spec).write()
    if differences := replay(Predictor.load(folder)):
        raise ExportError(f"{config.model}: the written bundle does not reproduce its golden answers: {differences[0]}")
    return spec, tuple(zip(golden, answers, strict=True))
