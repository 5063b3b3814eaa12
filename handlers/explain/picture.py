"""A map as pictures: coloured over the image, and plain in grey. Pillow writes the PNG, numpy does the rest."""

import base64
import io

import numpy as np
from PIL import Image

SHOWN_SIDE = 224
"""Smaller images are enlarged to about this, by whole factors: a map over 32 pixels can hardly be seen."""
LARGEST_SIDE = 768
"""Larger ones are thinned out to at most this: the front end ends a worker whose response exceeds its limit."""
_FOR = np.array([(255, 245, 160), (254, 178, 60), (236, 70, 30), (160, 0, 40)], dtype=float)
"""RGB of weak to strong evidence for the label."""
_AGAINST = np.array([(205, 235, 250), (110, 180, 225), (40, 110, 190), (10, 40, 110)], dtype=float)
"""RGB of weak to strong evidence against it."""
_FAINT = 0.15
"""Share of the strongest evidence below which the image shows unchanged."""
_OPAQUE = 0.72
"""How much of the image the strongest evidence hides."""


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image in grey, with what speaks for the label in yellow to red and what speaks against it in blue.

    Args:
        pixels: uint8 (crop, crop, channels), what the model saw.
        heat: float (crop, crop).

    Returns:
        uint8 (side, side, 3); ``side`` is a multiple of ``crop``, or a fraction of a large one.
    """
    pixels, heat = thinned(pixels), thinned(heat)
    values = scaled(heat)
    grey = pixels.astype(float).mean(axis=2, keepdims=True)
    base = np.repeat(255 * 0.15 + 0.85 * grey, 3, axis=2)  # black parts, too, let colours be told apart
    strength = np.clip((np.abs(values) - _FAINT) / (1 - _FAINT), 0, 1)
    colour = np.where(values[..., None] >= 0, _ramp(_FOR, strength), _ramp(_AGAINST, strength))
    alpha = _OPAQUE * np.sqrt(strength)[..., None]
    mixed = np.rint((1 - alpha) * base + alpha * colour).astype(np.uint8)
    factor = max(1, SHOWN_SIDE // len(mixed))
    result: np.ndarray = mixed.repeat(factor, axis=0).repeat(factor, axis=1)
    return result


def grey_map(heat: np.ndarray) -> np.ndarray:
    """uint8 (crop, crop): 128 is no influence, 255 the strongest for the label, 1 as much against it.

    Large ones are thinned out as the overlay is.
    """
    result: np.ndarray = np.rint(128 + 127 * scaled(thinned(heat))).astype(np.uint8)
    return result


def thinned(array: np.ndarray) -> np.ndarray:
    """Every n-th row and column of (side, side, ...), for the smallest n that leaves :data:`LARGEST_SIDE` or fewer."""
    step = -(-len(array) // LARGEST_SIDE)
    return array[::step, ::step]


def scaled(heat: np.ndarray) -> np.ndarray:
    """Float (crop, crop) -> float in -1..1, divided by nearly its largest size: a few extreme pixels hide the rest."""
    sizes = np.abs(heat)
    largest = float(np.percentile(sizes, 99.5)) or float(sizes.max())
    result: np.ndarray = np.clip(heat / largest, -1, 1) if largest > 0 else np.zeros_like(heat)
    return result


def smoothed(heat: np.ndarray, sigma: float) -> np.ndarray:
    """Float (crop, crop), blurred by a Gaussian of ``sigma`` pixels.

    The edges of squares and single pixels' gradients are nothing that the eye should follow.
    """
    if sigma <= 0:
        return heat
    reach = max(1, round(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()

    def blur(line: np.ndarray) -> np.ndarray:
        return np.convolve(np.pad(line, reach, mode="edge"), weights, mode="valid")

    result: np.ndarray = np.apply_along_axis(blur, 0, np.apply_along_axis(blur, 1, heat))
    return result


def png(array: np.ndarray) -> str:
    """uint8 (H, W) or (H, W, 3) -> base64 of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _ramp(anchors: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Float (H, W) in 0..1 -> float (H, W, 3) between the anchors' colours."""
    places = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(strength, places, anchors[:, channel]) for channel in range(3)], axis=-1)
