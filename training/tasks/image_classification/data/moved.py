"""Finds the images of a manifest again after their files were moved or renamed: by their digests."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from marquee.handlers.core.host import usable_cores
from marquee.training.core.errors import DataError
from marquee.training.core.progress import Progress
from marquee.training.tasks.image_classification.data.listing import list_folder
from marquee.training.tasks.image_classification.data.manifest import Manifest, Record
from marquee.training.tasks.image_classification.data.table import is_table, list_table


def missing_images(manifest: Manifest) -> list[str]:
    """Paths of the images that are no longer where the manifest says."""
    return [record.path for record in manifest.records if not Path(record.path).is_file()]


def find_again(manifest: Manifest, data: Path, progress: Progress) -> Manifest:
    """The manifest with the paths at which its images lie in a data set.

    Files that the manifest names already are not read. Labels and splits stay those of the manifest.

    Args:
        manifest: of a run.
        data: a folder or a table, in any layout that a run can be trained on.
        progress: where progress is reported.

    Raises:
        DataError: ``data`` does not exist, or does not have all images of the manifest.
    """
    data = Path(data).absolute()
    files = _files(data)
    known = {record.path for record in manifest.records}
    if known <= files:
        return manifest
    places = _by_digest(sorted(files), progress)
    records, absent = [], []
    for record in manifest.records:
        # Copies of an image are several records with one digest: each keeps a file of its own while there are any.
        found = places.get(record.sha256, [])
        path = record.path if record.path in found else (found.pop(0) if len(found) > 1 else next(iter(found), ""))
        if not path:
            absent.append(record)
        records.append(replace(record, path=path))
    if absent:
        raise DataError(_not_there(data, absent, len(records), manifest))
    return replace(manifest, records=tuple(records))


def _files(data: Path) -> set[str]:
    listed = list_table(data) if is_table(data) else list_folder(data).items
    return {item.path for item in listed if isinstance(item, Record)}


def _by_digest(paths: Iterable[str], progress: Progress) -> dict[str, list[str]]:
    places: dict[str, list[str]] = defaultdict(list)
    paths = list(paths)
    with ThreadPoolExecutor(min(8, usable_cores())) as pool, progress.task("finding images again", len(paths)) as task:
        for path, digest in zip(paths, pool.map(_digest, paths), strict=True):
            places[digest].append(path)
            task.advance()
    return places


def _digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""  # it cannot be the one that is looked for


def _not_there(data: Path, absent: list[Record], total: int, manifest: Manifest) -> str:
    first = next(record.path for record in manifest.records if record.sha256 == absent[0].sha256)
    return (
        f"{data}: {len(absent)} of the {total} images of this run are not in it, the first is {first}; name the data "
        "set that the run was begun with, or train into a new folder"
    )
