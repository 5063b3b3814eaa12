"""Golden samples are chosen and written: raw input files, with the answers that a bundle's predictor gave for them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from marquee.handlers.predictor import Prediction
from marquee.handlers.spec import EXPECTED_FILE, GoldenSpec, sha256_file
from marquee.training.data.manifest import Manifest, Record
from marquee.training.errors import ExportError
from marquee.training.seeding import derive_seed

MAX_GOLDEN = 128


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


def write_golden(folder: Path, records: Sequence[Record], answers: Sequence[Prediction]) -> GoldenSpec:
    """Copies the raw files into the bundle ``folder`` and writes what its predictor answered for them.

    Args:
        folder: a bundle that is being made.
        records: the images; a label that nobody knows is empty.
        answers: one for each record.

    Raises:
        ExportError: a file has changed since its record was made.
    """
    copied = copy_files(folder, "golden", records)
    inputs = [(name, record.label) for (name, _), record in zip(copied, records, strict=True)]
    digest = write_answers(
        folder / EXPECTED_FILE, inputs, [(answer.probabilities, answer.distance) for answer in answers]
    )
    return GoldenSpec(files={**dict(copied), EXPECTED_FILE: digest})


def write_answers(
    path: Path, inputs: Sequence[tuple[str, str]], answers: Iterable[tuple[np.ndarray, float | None]]
) -> str:
    """Writes one variant's golden answers (see :mod:`marquee.handlers.golden`); returns the file's sha256.

    Args:
        path: the file.
        inputs: path inside the bundle and true label of each golden sample.
        answers: the probabilities, float (labels,), and the distance of each of them.
    """
    entries = [
        {
            "file": file,
            "label": label,
            "probabilities": [float(p) for p in probabilities],
            "distance": distance,
        }
        for (file, label), (probabilities, distance) in zip(inputs, answers, strict=True)
    ]
    path.write_text(json.dumps(entries, indent=1), "utf-8")
    return sha256_file(path)


def copy_files(folder: Path, name: str, records: Sequence[Record]) -> list[tuple[str, str]]:
    """Copies the raw files to ``folder/name/000.png``, ...; returns each one's path inside ``folder`` and sha256.

    Raises:
        ExportError: a file has changed since its record was made.
    """
    (folder / name).mkdir()
    copied = []
    for number, record in enumerate(records):
        path = f"{name}/{number:03d}{Path(record.path).suffix.lower()}"
        (folder / path).write_bytes(Path(record.path).read_bytes())
        digest = sha256_file(folder / path)
        if digest != record.sha256:
            raise ExportError(f"{record.path}: was changed since the manifest was made")
        copied.append((path, digest))
    return copied
