"""Finds the images of a data set and reads each of them once, so that none fails in the middle of training.

Three layouts: a folder of class folders; a folder with ``train/`` and ``val/`` and/or ``test/`` of class folders; a
table (CSV, or Parquet with the ``parquet`` extra) with the columns ``path,label[,split][,group]``.
"""

import csv
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from marquee.handlers.core.errors import InputError
from marquee.handlers.core.host import usable_cores
from marquee.handlers.inputs.image.decode import Examined, examine
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.dataset import SPLITS
from marquee.training.core.errors import DataError
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.tasks.image_classification.data.findings import warnings_of
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record

_SPLIT_ALIASES = {
    **{name: name for name in SPLITS},
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}
_NOT_CLASSES = ("__MACOSX", "@eaDir", "__pycache__")
"""Folders that archivers, file servers and Python leave behind."""
_TABLE_SUFFIXES = (".csv", ".parquet")


_ANY = ImageSpec(channels=3, resize=8, crop=8, mean=(0.0,) * 3, std=(1.0,) * 3, reading="file")


def scan(data: Path, max_pixels: int, progress: Progress, image: ImageSpec = _ANY) -> tuple[Manifest, list[Rejected]]:
    """Lists and decodes every image of ``data``.

    Args:
        data: a folder or a table, see above.
        max_pixels: larger images are left out.
        progress: where progress is reported.
        image: how the files are read; the model's own size does not matter.

    Returns:
        The manifest of the readable images, in a fixed order, with warnings; and the files that are left out with the
        reason.

    Raises:
        DataError: ``data`` has none of the layouts, no readable image, or fewer than two classes.
    """
    data = Path(data).absolute()
    is_table = data.suffix.lower() in _TABLE_SUFFIXES and data.is_file()
    listed = _list_table(data) if is_table else _list_folder(data)
    candidates = [item for item in listed if isinstance(item, Record)]
    if not candidates:
        raise DataError(f"{data}: no files in class folders; expected {data}/CLASS/image.png, or a table path,label")
    # In full size, which a record stores.
    image = replace(image, decode="full", max_pixels=max_pixels)
    inspection = inspect_images(candidates, image, progress)
    rejected = [item for item in listed if isinstance(item, Rejected)] + inspection.rejected
    records = inspection.records
    manifest = Manifest(tuple(records), warnings=tuple(warnings_of(records, inspection.examined, image)))
    if len(manifest.labels) < 2:
        raise DataError(
            f"{data}: {len(records)} readable images in {len(manifest.labels)} classes, but at least 2 classes "
            f"are needed" + (f"; {len(rejected)} files left out, first: {_line(rejected[0])}" if rejected else "")
        )
    return manifest, rejected


def list_images(folder: Path) -> list[Record | Rejected]:
    """The files of a folder's class folders (see :func:`scan`); if it has none, its own files, with an empty label.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir() or _subfolders(folder):
        return _list_folder(folder)
    return [Record(str(path), "", "") for path in sorted(folder.iterdir()) if _is_listed(path, folder)]


@dataclass(frozen=True)
class Inspection:
    """What came of decoding the images of a data set."""

    records: list[Record] = field(default_factory=list)
    """The readable ones, with digest, size and mode."""
    examined: list[Examined] = field(default_factory=list)
    """What was seen of each of them."""
    rejected: list[Rejected] = field(default_factory=list)
    """The others, with the reason."""


def inspect_images(candidates: Sequence[Record], limits: ImageSpec, progress: Progress) -> Inspection:
    """Decodes every image once.

    Args:
        candidates: the images that :func:`scan` listed, in a fixed order.
        limits: how they are decoded, and what is too large.
        progress: where progress is reported.

    Returns:
        All of them, in the order of ``candidates``.
    """
    inspection = Inspection()
    threads, total = min(8, usable_cores()), len(candidates)
    with ThreadPoolExecutor(threads) as pool, progress.task("reading images", total) as task:
        for result in pool.map(lambda record: _inspect(record, limits), candidates):
            if isinstance(result, Rejected):
                inspection.rejected.append(result)
            else:
                inspection.records.append(result[0])
                inspection.examined.append(result[1])
            task.advance()
    return inspection


def _inspect(record: Record, limits: ImageSpec) -> tuple[Record, Examined] | Rejected:
    try:
        record.path.encode()
        content = Path(record.path).read_bytes()
        seen = examine(content, limits)
        digest = hashlib.sha256(content).hexdigest()
        return replace(record, sha256=digest, width=seen.width, height=seen.height, mode=seen.mode), seen
    except InputError as error:
        return Rejected(record.path, f"{error.code}: {error.message}")
    except OSError as error:
        return Rejected(record.path, f"unreadable: {error.strerror or error}")
    except UnicodeEncodeError:
        # Python represents bytes that are not UTF-8 by surrogates, which cannot be written to a file.
        readable = record.path.encode("utf-8", "backslashreplace").decode()
        return Rejected(readable, "its name is not valid UTF-8; rename the file")
    except MemoryError:
        return Rejected(record.path, "too_large: not enough memory to decode it")


def _list_folder(data: Path) -> list[Record | Rejected]:
    if not data.is_dir():
        raise DataError(f"{data}: no such folder (or .csv or .parquet table)")
    children = _subfolders(data)
    strays = _strays(data)
    splits: dict[str, Path] = {}
    others = []
    for child in children:
        split = _SPLIT_ALIASES.get(child.name.lower())
        if split is None:
            others.append(child.name)
        elif split in splits:
            raise DataError(f"{data}: both {splits[split].name}/ and {child.name}/ mean {split}; keep one of them")
        else:
            splits[split] = child
    if "train" not in splits or (others and len(splits) == 1):  # `train` may be a class among others
        return strays + _list_classes(data, "")
    if others:
        kept = ", ".join(path.name for path in splits.values())
        raise DataError(f"{data}: {', '.join(others)} lies beside {kept}; move it out of the data set")
    listed = [item for split, folder in splits.items() for item in _strays(folder) + _list_classes(folder, split)]
    return strays + listed


def _list_classes(folder: Path, split: str) -> list[Record | Rejected]:
    items: list[Record | Rejected] = []
    for class_folder in _subfolders(folder):
        files = [path for path in sorted(class_folder.rglob("*")) if _is_listed(path, class_folder)]
        items += [Record(str(path), class_folder.name, split) for path in files]
        if not files:
            items.append(Rejected(str(class_folder), "no files in this class folder"))
    return items


def _is_listed(path: Path, root: Path) -> bool:
    """Whether a path is a file of the data set; a broken link is one, so that it is reported."""
    hidden = any(part.startswith(".") or part in _NOT_CLASSES for part in path.relative_to(root).parts)
    return not hidden and (path.is_file() or (path.is_symlink() and not path.exists()))


def _strays(folder: Path) -> list[Record | Rejected]:
    """Files next to the class folders."""
    return [Rejected(str(p), "not in a class folder") for p in sorted(folder.iterdir()) if _is_listed(p, folder)]


def _subfolders(folder: Path) -> list[Path]:
    children = (child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    return sorted(child for child in children if child.name not in _NOT_CLASSES)


def _list_table(table: Path) -> list[Record | Rejected]:
    rows = _read_parquet(table) if table.suffix.lower() == ".parquet" else _read_csv(table)
    records: list[Record | Rejected] = []
    for number, row in enumerate(rows, start=2):
        # Not `or ""`: the number 0 is a label.
        values = (row.get(name) for name in ("path", "label", "split", "group"))
        path, label, split, group = ("" if value is None else str(value).strip() for value in values)
        if not path or not label:
            raise DataError(f"{table}: line {number} has no path or no label")
        if split.lower() not in _SPLIT_ALIASES and split:
            raise DataError(f"{table}: line {number}: split {split!r}; expected train, val or test, or nothing")
        records.append(Record(str(table.parent / path), label, _SPLIT_ALIASES.get(split.lower(), ""), group=group))
    return records


def _read_csv(table: Path) -> list[dict[str, Any]]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = {"path", "label"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(f"{table}: no column {' and '.join(sorted(missing))}; expected path,label[,split]")
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not readable as CSV: {error}") from error


def _read_parquet(table: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet  # heavy, and only for this format
    except ImportError as error:
        raise DataError(f"{table}: Parquet needs pyarrow; pip install 'marquee[parquet]'") from error
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(table).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{table}: not readable as Parquet: {error}") from error
    if rows and not {"path", "label"} <= set(rows[0]):
        raise DataError(f"{table}: expected the columns path,label[,split], got {', '.join(rows[0])}")
    return rows


def _line(item: Rejected) -> str:
    return f"{item.path} ({item.reason})"
