"""What tuning needs of an archive: the variants that may be served, and images to ask about."""

import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path

from marquee.handlers.accuracy import accuracy_refusal
from marquee.handlers.choice import choices
from marquee.handlers.errors import InputError
from marquee.handlers.golden import read_golden
from marquee.handlers.host import this_host
from marquee.handlers.images import load as load_image
from marquee.handlers.spec import BUNDLE_FOLDER, ModelSpec, read_spec
from marquee.serving.archive import open_archive
from marquee.serving.errors import OperationError

logger = logging.getLogger(__name__)

MAX_IMAGES = 256
_SAID = 5


@dataclass(frozen=True)
class Material:
    """See :func:`read_material`."""

    variants: tuple[str, ...]
    """That may be served here, the one that a worker would choose first."""
    left_out: dict[str, str]
    """Variant -> why it may not."""
    bodies: tuple[bytes, ...]
    """Encoded images."""


def read_material(
    archive: Path,
    images: Path | None,
    max_drop: float | None,
    device: str,
) -> Material:
    """Variants and images.

    Args:
        archive: a ``.mar``.
        images: a folder of image files; None: the golden samples and the calibration images of the archive.
        max_drop: accuracy that a variant may lose, by what was measured of it; None: what was allowed when the
            variants were ranked.
        device: where it is served.

    Raises:
        OperationError: the archive cannot be read, or the folder has no images.
    """
    with open_archive(archive) as folder:
        spec = read_spec(folder)
        golden = [sample.data for sample in read_golden(folder, spec, spec.variants[0])]
        samples = [(folder / name).read_bytes() for name in spec.samples if (folder / name).is_file()]
    variants, left_out = _variants(archive, spec, max_drop, device)
    bodies = golden + samples if images is None else _read_images(images, spec)
    return Material(tuple(variants), left_out, tuple(bodies[:MAX_IMAGES]))


def _variants(archive: Path, spec: ModelSpec, max_drop: float | None, device: str) -> tuple[list[str], dict[str, str]]:
    with zipfile.ZipFile(archive) as archived:
        packed = set(archived.namelist())
    found, left_out = [], {}
    for choice in choices(spec, this_host(device), device):
        variant = choice.variant
        # The newest measurement that judged answers; one of another machine is as good.
        measured = next(iter(sorted(variant.measurements, key=lambda one: one.date, reverse=True)), None)
        if not all(f"{BUNDLE_FOLDER}/{name}" in packed for name in variant.files):
            left_out[variant.name] = "is not in the archive"
        elif max_drop is None or variant is spec.variants[0]:
            found.append(variant.name)
        elif measured is None:
            left_out[variant.name] = "its accuracy was never measured"
        elif refusal := accuracy_refusal(measured, max_drop):
            left_out[variant.name] = refusal
        else:
            found.append(variant.name)
    if not found:
        raise OperationError(f"{archive}: no variant can be served here; see {left_out}")
    return found, left_out


def _read_images(folder: Path, spec: ModelSpec) -> list[bytes]:
    """The images of a folder, in the order of their paths."""
    if not folder.is_dir():
        raise OperationError(f"--images {folder}: not a folder")
    bodies, refused = [], 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        try:
            load_image(data, spec.image)
        except InputError as error:
            refused += 1
            if refused <= _SAID:
                logger.info(f"left out: {path}: {error.message}")
            continue
        bodies.append(data)
        if len(bodies) == MAX_IMAGES:
            break
    if not bodies:
        raise OperationError(f"--images {folder}: no image in it can be read")
    return bodies
