"""Finds the images of a data set and reads each of them once, so that none fails in the middle of training.

Three layouts: a folder of class folders; a folder with ``train/`` and ``val/`` and/or ``test/`` of class folders; a
table (CSV, or Parquet with the ``parquet`` extra) with the columns ``path,label[,split][,group]``.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from marquee.handlers.core.errors import InputError
from marquee.handlers.core.host import usable_cores
from marquee.handlers.inputs.image.decode import Examined, examine
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import DataError
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import Rejected
from marquee.training.tasks.image_classification.config import ChecksConfig
from marquee.training.tasks.image_classification.data.copies import without_contradictions, without_overlap
from marquee.training.tasks.image_classification.data.findings import twin_lines, warnings_of
from marquee.training.tasks.image_classification.data.layout import (
    check_layout,
    level_lines,
    not_a_folder,
    too_few_classes,
)
from marquee.training.tasks.image_classification.data.listing import Listing, files_in, list_folder, subfolders
from marquee.training.tasks.image_classification.data.lost import check_lost, loss_lines
from marquee.training.tasks.image_classification.data.manifest import Manifest, NamesOf, Record, one_name
from marquee.training.tasks.image_classification.data.table import is_table, list_table

_ANY = ImageSpec(channels=3, resize=8, crop=8, mean=(0.0,) * 3, std=(1.0,) * 3, reading="file")
_CHECKS = ChecksConfig()


def scan(
    data: Path,
    max_pixels: int,
    progress: Progress,
    image: ImageSpec = _ANY,
    checks: ChecksConfig = _CHECKS,
    names_of: NamesOf = one_name,
    classes: int = 2,
) -> tuple[Manifest, list[Rejected]]:
    """Lists and decodes every image of ``data``.

    Args:
        data: a folder or a table, see above.
        max_pixels: larger images are left out.
        progress: where progress is reported.
        image: how the files are read; the model's own size does not matter.
        checks: what is done about faults of the data set.
        names_of: the class names in a record's label.
        classes: how many there must be.

    Returns:
        The manifest of the readable images, in a fixed order, with warnings; and the files that are left out with the
        reason.

    Raises:
        DataError: ``data`` has none of the layouts, no readable image, too few classes, or a fault that is refused.
    """
    data = Path(data).absolute()
    listing = None if is_table(data) else _listing(data)
    if listing is not None and checks.layout == "refuse":
        check_layout(data, listing)
    listed: Sequence[Record | Rejected] = list_table(data) if listing is None else listing.items
    candidates = [item for item in listed if isinstance(item, Record)]
    if not candidates:
        hint = too_few_classes(data, listing) if listing else ""
        raise DataError(
            f"{data}: no files in class folders; expected {data}/CLASS/image.png, or a table path,label{hint}"
        )
    # In full size, which a record stores.
    image = replace(image, decode="full", max_pixels=max_pixels)
    inspection = inspect_images(candidates, image, progress)
    rejected = [item for item in listed if isinstance(item, Rejected)] + inspection.rejected
    manifest = Manifest(
        tuple(inspection.records), names_of, tuple(warnings_of(inspection.records, inspection.examined, image))
    )
    if len({name for record in candidates for name in names_of(record)}) < classes:
        hint = too_few_classes(data, listing) if listing else ""
        raise _too_few(data, manifest, rejected, classes, hint)
    manifest, more = without_contradictions(data, manifest, checks)
    rejected += more
    manifest, more = without_overlap(data, manifest, checks)
    rejected += more
    manifest = check_lost(data, manifest, rejected, checks)
    if len(manifest.labels) < classes:
        raise _too_few(data, manifest, rejected, classes)
    lines = [*(level_lines(listing) if listing else []), *twin_lines(manifest), *loss_lines(manifest, rejected)]
    return replace(manifest, warnings=(*manifest.warnings, *lines)), rejected


def _too_few(data: Path, manifest: Manifest, rejected: Sequence[Rejected], classes: int, hint: str = "") -> DataError:
    left_out = f"; {len(rejected)} files left out, first: {_line(rejected[0])}" if rejected else ""
    return DataError(
        f"{data}: {len(manifest.records)} readable images in {len(manifest.labels)} classes, but at least {classes} "
        f"classes are needed{left_out}{hint}"
    )


def list_images(folder: Path) -> list[Record | Rejected]:
    """The files of a folder's class folders (see :func:`scan`); if it has none, its own files, with an empty label.

    Raises:
        DataError: there is no such folder.
    """
    folder = Path(folder).absolute()
    if not folder.is_dir() or subfolders(folder):
        return _listing(folder).items
    return [Record(str(path), "", "") for path in files_in(folder)]


def _listing(data: Path) -> Listing:
    if not data.is_dir():
        raise not_a_folder(data)
    return list_folder(data)


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
    def reject(reason: str, path: str = record.path) -> Rejected:
        return Rejected(path, reason, record.label, record.split)

    try:
        record.path.encode()
        content = Path(record.path).read_bytes()
        seen = examine(content, limits)
        digest = hashlib.sha256(content).hexdigest()
        return replace(record, sha256=digest, width=seen.width, height=seen.height, mode=seen.mode), seen
    except InputError as error:
        return reject(f"{error.code}: {error.message}")
    except OSError as error:
        return reject(f"unreadable: {error.strerror or error}")
    except UnicodeEncodeError:
        # Python represents bytes that are not UTF-8 by surrogates, which cannot be written to a file.
        readable = record.path.encode("utf-8", "backslashreplace").decode()
        return reject("its name is not valid UTF-8; rename the file", readable)
    except MemoryError:
        return reject("too_large: not enough memory to decode it")


def _line(item: Rejected) -> str:
    return f"{item.path} ({item.reason})"
