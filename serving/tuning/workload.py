"""What tuning needs from an archive: the variants that may be served, and images to send."""

import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

from marquee.handlers.core.accuracy import accuracy_refusal
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.choice import rank_variants
from marquee.handlers.core.golden import read_golden
from marquee.handlers.core.host import this_host
from marquee.handlers.core.input import attempt
from marquee.handlers.core.spec import BUNDLE_FOLDER, ModelSpec
from marquee.serving.archive import open_archive
from marquee.serving.errors import OperationError

logger = logging.getLogger(__name__)

MAX_IMAGES = 256
_MAX_LOGGED = 5


@dataclass(frozen=True)
class Workload:
    """See :func:`read_workload`."""

    variants: tuple[str, ...]
    """The variants that may be served here; the one that a worker would choose comes first."""
    left_out: dict[str, str]
    """Variant -> why it may not be served."""
    bodies: tuple[bytes, ...]
    """Encoded images."""


def read_workload(
    archive: Path,
    images: Path | None,
    max_drop: float | None,
    device: str,
) -> Workload:
    """Reads the variants that may be served, and the images to send.

    Args:
        archive: a ``.mar``.
        images: a folder of image files; None: the golden samples and the calibration images of the archive.
        max_drop: accuracy that a variant may lose, according to its measurements; None: the limit with which the
            variants were ranked.
        device: where the archive is served.

    Raises:
        OperationError: the archive cannot be read, or the folder has no images.
    """
    with open_archive(archive) as folder:
        bundle = Bundle.read(folder)
        spec = bundle.spec
        golden = [sample.data for sample in read_golden(bundle, spec.variants[0])]
        samples = [(folder / name).read_bytes() for name in spec.samples if (folder / name).is_file()]
    variants, left_out = _variants(archive, spec, max_drop, device)
    bodies = golden + samples if images is None else _read_images(images, spec)
    return Workload(tuple(variants), left_out, tuple(bodies[:MAX_IMAGES]))


def _variants(archive: Path, spec: ModelSpec, max_drop: float | None, device: str) -> tuple[list[str], dict[str, str]]:
    with zipfile.ZipFile(archive) as archived:
        packed = set(archived.namelist())
    names, left_out = [], {}
    for choice in rank_variants(spec, this_host(device), device):
        variant = choice.variant
        # The newest measurement: accuracy does not depend on the machine.
        newest = next(iter(sorted(variant.measurements, key=lambda item: item.date, reverse=True)), None)
        if not all(f"{BUNDLE_FOLDER}/{name}" in packed for name in variant.files):
            left_out[variant.name] = "is not in the archive"
        elif max_drop is None or variant is spec.variants[0]:
            names.append(variant.name)
        elif newest is None:
            left_out[variant.name] = "its accuracy was never measured"
        elif refusal := accuracy_refusal(newest, max_drop):
            left_out[variant.name] = refusal
        else:
            names.append(variant.name)
    if not names:
        raise OperationError(f"{archive}: no variant can be served here; see {left_out}")
    return names, left_out


def _read_images(folder: Path, spec: ModelSpec) -> list[bytes]:
    """The images of a folder, in the order of their paths."""
    if not folder.is_dir():
        raise OperationError(f"--images {folder}: not a folder")
    bodies, refused, source = [], 0, spec.input.create()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        (error,) = source.collate([attempt(source.opener().file, data)]).errors
        if error is not None:
            refused += 1
            if refused <= _MAX_LOGGED:
                logger.info(f"left out: {path}: {error.message}")
            continue
        bodies.append(data)
        if len(bodies) == MAX_IMAGES:
            break
    if not bodies:
        raise OperationError(f"--images {folder}: no image in it can be read")
    return bodies
