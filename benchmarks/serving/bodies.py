"""Photographs as request bodies, in the form that each contender wants."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms.functional import center_crop, resize

from benchmarks.serving.photographs import write_photographs
from marquee.training.files import write_atomic

PHOTOGRAPHS = 8
"""Of each size, sent in turn."""
Size = tuple[int, int]
"""Width and height in pixels."""
_BOUNDARY = "photograph-boundary"

CONTENT_TYPES = {
    "file": "image/jpeg",
    "octets": "application/octet-stream",
    "form": f"multipart/form-data; boundary={_BOUNDARY}",
    "pixels": "application/json",
}
"""Form of a body -> its Content-Type."""


def as_text(size: Size) -> str:
    """Such as ``500x375``."""
    return f"{size[0]}x{size[1]}"


def write_bodies(folder: Path, size: Size, form: str) -> list[Path]:
    """Files whose content is sent, in the order of the photographs.

    Args:
        folder: of all sizes and forms.
        size: of the photographs.
        form: one of :data:`CONTENT_TYPES`.
    """
    photographs = write_photographs(folder / "photographs" / as_text(size), size, PHOTOGRAPHS)
    if form in ("file", "octets"):
        return photographs
    bodies = [folder / form / as_text(size) / f"{path.stem}.body" for path in photographs]
    for photograph, body in zip(photographs, bodies, strict=True):
        if not body.is_file():
            write_atomic(body, encode(photograph.read_bytes(), form))
    return bodies


def encode(photograph: bytes, form: str) -> bytes:
    """One body."""
    encoders: dict[str, Callable[[bytes], bytes]] = {
        "file": bytes,
        "octets": bytes,
        "form": _multipart,
        "pixels": _pixels,
    }
    return encoders[form](photograph)


def _multipart(photograph: bytes) -> bytes:
    """A form with one file, the field ``images``."""
    head = (
        f"--{_BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="images"; filename="photograph.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + photograph + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _pixels(photograph: bytes) -> bytes:
    """224 x 224 x 3 integers as JSON: decoded and resized by the client, at no cost to the server."""
    image = Image.open(io.BytesIO(photograph)).convert("RGB")
    prepared = center_crop(resize(image, [256]), [224])
    return json.dumps({"image_data": np.asarray(prepared).tolist()}, separators=(",", ":")).encode()
