"""A model that was trained elsewhere -> a run folder with a bundle, proven on real images."""

import datetime
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from marquee.handlers.engines import load_engine
from marquee.handlers.golden import replay
from marquee.handlers.images import load as load_image
from marquee.handlers.predictor import Prediction, Predictor
from marquee.handlers.spec import (
    SCHEMA_VERSION,
    SPEC_FILE,
    TOLERANCES,
    GoldenSpec,
    ModelSpec,
    OutputSpec,
    VariantSpec,
    sha256_file,
)
from marquee.training.data.manifest import Manifest, Record, Rejected, write_rejected
from marquee.training.environment import library_versions
from marquee.training.errors import ExportError, TrainingError
from marquee.training.files import atomic_folder
from marquee.training.golden import MAX_GOLDEN, choose_golden, copy_files, write_golden
from marquee.training.importing import converted, keras_file, torch_weights
from marquee.training.importing.checks import check_batches, check_output
from marquee.training.importing.config import ImportConfig
from marquee.training.importing.images import find_images
from marquee.training.importing.labels import read_labels
from marquee.training.importing.ready import ReadyModel
from marquee.training.progress import Progress
from marquee.training.run_folder import RunFolder


@dataclass(frozen=True)
class Imported:
    """What was made."""

    spec: ModelSpec
    """Of the bundle."""
    answers: tuple[tuple[Record, Prediction], ...]
    """The golden samples and their answers, by path."""
    rejected: tuple[Rejected, ...]
    """Files that are no readable images."""

    @property
    def agreeing(self) -> tuple[int, int]:
        """Golden samples that get their label, and those that have one."""
        labelled = [(record, answer) for record, answer in self.answers if record.label]
        return sum(record.label == answer.label for record, answer in labelled), len(labelled)


def import_bundle(config: ImportConfig, out: Path, progress: Progress) -> Imported:
    """Writes the run folder ``out`` with a bundle, or nothing when anything fails.

    Args:
        config: the model and what its file does not tell.
        out: must not exist.
        progress: told about it.

    Raises:
        TrainingError: ``out`` exists, or the model, the labels or the images cannot be used; the message says which.
        ExportError: the written bundle does not answer as the model does.
    """
    if out.exists():
        raise TrainingError(f"--out {out}: exists already; name a new folder")
    labels = read_labels(config.labels)
    with _ready(config, labels) as ready, atomic_folder(out) as staging:
        records, rejected = find_images(config.images, labels, ready.image, progress)
        spec, answers = _write_bundle(RunFolder(staging).bundle, ready, config, labels, records)
        if rejected:
            write_rejected(RunFolder(staging).rejected, rejected)
    return Imported(spec, answers, tuple(rejected))


@contextmanager
def _ready(config: ImportConfig, labels: tuple[str, ...]) -> Iterator[ReadyModel]:
    """The model by the kind of its file."""
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
        known = ", ".join((*torch_weights.SUFFIXES, *converted.FORMATS, *keras_file.SUFFIXES))
        raise TrainingError(f"--model {path}: unknown kind of file; expected {known}, or a folder (SavedModel)")


def _write_bundle(
    folder: Path, ready: ReadyModel, config: ImportConfig, labels: tuple[str, ...], records: Sequence[Record]
) -> tuple[ModelSpec, tuple[tuple[Record, Prediction], ...]]:
    folder.mkdir()
    files = {name: sha256_file(folder / name) for name in ready.write(folder)}
    variant = VariantSpec(
        name=ready.precision,
        engine=ready.engine,
        precision=ready.precision,
        files=files,
        tolerance=TOLERANCES[ready.precision],
        device=ready.device,
    )
    draft = ModelSpec(
        schema_version=SCHEMA_VERSION,
        task="image-classification",
        labels=labels,
        image=ready.image,
        output=OutputSpec(top_k=config.top_k),
        variants=(variant,),
        golden=GoldenSpec(),
    )
    predictor = Predictor(draft, variant, load_engine(draft, variant, folder, "cpu"), "", folder)
    chosen = sorted(choose_golden(Manifest(tuple(records)), "test", MAX_GOLDEN), key=lambda record: record.path)
    pixels = np.stack([load_image(Path(record.path).read_bytes(), ready.image) for record in chosen])
    check_batches(config.model, predictor, pixels)
    check_output(config.model, predictor, pixels, config.output)
    provenance = _provenance(config, {**ready.facts, **ready.compare(predictor, pixels)})
    answers = predictor.predict_arrays(list(pixels))
    spec = replace(
        draft,
        golden=write_golden(folder, chosen, answers),
        samples=dict(copy_files(folder, "samples", records)),
        provenance=provenance,
    )
    (folder / SPEC_FILE).write_text(spec.to_json(), "utf-8")
    if differences := replay(Predictor.load(folder)):
        raise ExportError(f"{config.model}: the written bundle differs from its own answers: {differences[0]}")
    return spec, tuple(zip(chosen, answers, strict=True))


def _provenance(config: ImportConfig, facts: dict[str, Any]) -> dict[str, Any]:
    """Facts for people and audits."""
    return {
        "imported": {"file": config.model.name, "sha256": digest_of(config.model), **facts},
        "licence": config.licence or "not given",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": library_versions(),
    }


def digest_of(path: Path) -> str:
    """The sha256 of a file; of a folder, or an IR with its ``.bin``, that over each file's name and sha256."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    else:
        weights = path.with_suffix(".bin")
        files = [path, weights] if path.suffix.lower() == ".xml" and weights.is_file() else [path]
    if files == [path]:
        return sha256_file(path)
    lines = [f"{file.relative_to(path.parent).as_posix()} {sha256_file(file)}" for file in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
