"""Finds the images of a data set and reads each of them once, so that none fails in the middle of training.

Three layouts: a folder of class folders; a folder with ``train/`` and ``val/`` and/or ``test/`` of class folders; a
table (CSV, or Parquet with the ``parquet`` extra) with the columns ``path,label[,split]``.
"""

import csv
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from handlers.errors import InputError
from handlers.images import decode, stored_mode
from handlers.spec import ImageSpec
from training.data.manifest import SPLITS, Manifest, Record, Rejected
from training.errors import DataError
from training.progress import Progress

_SPLIT_ALIASES = {
    **{name: name for name in SPLITS},
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}
_TABLE_SUFFIXES = (".csv", ".parquet")


def scan(data: Path, max_pixels: int, progress: Progress) -> tuple[Manifest, list[Rejected]]:
    """Lists and decodes every image of ``data``.

    Args:
        data: a folder or a table, see above.
        max_pixels: larger images are left out.
        progress: told about each image.

    Returns:
        The manifest of the readable images, in a fixed order, and the files that are left out with the reason.

    Raises:
        DataError: ``data`` has none of the layouts, no readable image, or fewer than two classes.
    """
    data = Path(data).absolute()
    found = _list_table(data) if data.suffix.lower() in _TABLE_SUFFIXES and data.is_file() else _list_folder(data)
    if not found:
        raise DataError(f"{data}: no files in class folders; expected {data}/CLASS/image.png, or a table path,label")
    # Decoding limits only; the model's own size does not matter here.
    limits = ImageSpec(channels=3, resize=8, crop=8, mean=(0.0,) * 3, std=(1.0,) * 3, max_pixels=max_pixels)
    records: list[Record] = []
    rejected: list[Rejected] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress.task("reading images", len(found)) as task:
        for result in pool.map(lambda record: _inspect(record, limits), found):
            (records if isinstance(result, Record) else rejected).append(result)  # type: ignore[arg-type]
            task.advance()
    manifest = Manifest(tuple(records))
    if len(manifest.labels) < 2:
        raise DataError(
            f"{data}: {len(records)} readable images in {len(manifest.labels)} classes, but at least 2 classes "
            f"are needed" + (f"; {len(rejected)} files left out, first: {_line(rejected[0])}" if rejected else "")
        )
    return manifest, rejected


def _inspect(record: Record, limits: ImageSpec) -> Record | Rejected:
    try:
        content = Path(record.path).read_bytes()
        image = decode(content, limits)
        digest = hashlib.sha256(content).hexdigest()
        return replace(record, sha256=digest, width=image.width, height=image.height, mode=stored_mode(content))
    except InputError as error:
        return Rejected(record.path, f"{error.code}: {error.message}")
    except OSError as error:
        return Rejected(record.path, f"unreadable: {error.strerror or error}")
    except MemoryError:
        return Rejected(record.path, "too_large: not enough memory to decode it")


def _list_folder(data: Path) -> list[Record]:
    if not data.is_dir():
        raise DataError(f"{data}: no such folder (or .csv or .parquet table)")
    children = _subfolders(data)
    splits = {child.name.lower(): child for child in children}
    if "train" in {_SPLIT_ALIASES.get(name) for name in splits} and set(splits) <= set(_SPLIT_ALIASES):
        return [record for name, folder in splits.items() for record in _list_classes(folder, _SPLIT_ALIASES[name])]
    return _list_classes(data, "")


def _list_classes(folder: Path, split: str) -> list[Record]:
    return [
        Record(str(path), class_folder.name, split)
        for class_folder in _subfolders(folder)
        for path in sorted(class_folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(class_folder).parts)
    ]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _list_table(table: Path) -> list[Record]:
    rows = _read_parquet(table) if table.suffix.lower() == ".parquet" else _read_csv(table)
    records = []
    for number, row in enumerate(rows, start=2):
        path, label, split = (str(row.get(name) or "").strip() for name in ("path", "label", "split"))
        if not path or not label:
            raise DataError(f"{table}: line {number} has no path or no label")
        if split.lower() not in _SPLIT_ALIASES and split:
            raise DataError(f"{table}: line {number}: split {split!r}; expected train, val or test, or nothing")
        records.append(Record(str(table.parent / path), label, _SPLIT_ALIASES.get(split.lower(), "")))
    return records


def _read_csv(table: Path) -> list[dict[str, str]]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = {"path", "label"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(f"{table}: no column {' and '.join(sorted(missing))}; expected path,label[,split]")
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not readable as CSV: {error}") from error


def _read_parquet(table: Path) -> list[dict[str, str]]:
    try:
        import pyarrow.parquet  # heavy, and only for this format
    except ImportError as error:
        raise DataError(f"{table}: Parquet needs pyarrow; pip install 'marquee[parquet]'") from error
    try:
        rows: list[dict[str, str]] = pyarrow.parquet.read_table(table).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{table}: not readable as Parquet: {error}") from error
    if rows and not {"path", "label"} <= set(rows[0]):
        raise DataError(f"{table}: expected the columns path,label[,split], got {', '.join(rows[0])}")
    return rows


def _line(item: Rejected) -> str:
    return f"{item.path} ({item.reason})"
