"""A decoded image -> mode ``L`` or ``RGB``, by Pillow's mode: ``ImageSpec.reading`` ``pillow``."""

import numpy as np
from PIL import Image

from .errors import ImageError
from .spec import ImageSpec


def to_channels(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Composes what Pillow calls transparent over ``spec.background``, and converts to the model's channels.

    Raises:
        ImageError: ``unsupported_image``: 32-bit grey.
    """
    if image.mode.startswith("I;16"):
        # 16-bit grey. Pillow's own conversion to 8 bits clips everything above 255 to white.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageError(
            "unsupported_image", "32-bit grey pixels have no defined white; convert the image to 8 or 16 bits"
        )
    target = "L" if spec.channels == 1 else "RGB"
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (spec.background,) * 3 + (255,))
        canvas.alpha_composite(rgba)
        image = canvas.convert("RGB")
    return image if image.mode == target else image.convert(target)
