"""Images as tensors of the Open Inference Protocol.

One tensor, ``image``: ``BYTES`` with an encoded image in each element, or pixels: ``[N, H, W, C]``, ``[H, W, C]``,
``[N, H, W]`` or ``[H, W]`` of integers 0..255, or of floats 0..1, with 1 or 3 channels. Three axes are ``[H, W, C]`` if
the last one has the length 1 or 3. The parameter ``range`` says what white is, as beside ``image_data``.
"""

from collections.abc import Sequence

import numpy as np

from ...core.errors import InputError
from ...core.oip.elements import Base64
from ...core.oip.tensor import Tensor, check_items, the_only
from ...core.quoting import quote
from .base64_text import decode_base64, file_of_text
from .errors import ImageError
from .spec import IMAGE

CHANNELS = (1, 3)

Element = tuple[Tensor, "bytes | str | np.ndarray"]
"""One image, as a file, text or pixels, and its tensor."""


def elements_of(tensors: Sequence[Tensor], most: int) -> list[Element]:
    """The images of a request.

    KServe's samples for TorchServe have a tensor for each image, with names that are made up; their shape is ``[-1]``,
    which no other client sends.

    Args:
        tensors: of the request.
        most: images that it may have.

    Raises:
        InputError: the tensors are not what the model takes.
    """
    if not all(tensor.shape_is_open and tensor.is_bytes for tensor in tensors):
        tensors = [the_only(tensors, (IMAGE.name,))]
    elements: list[Element] = []
    for tensor in tensors:
        elements += [(tensor, element) for element in (tensor.column() if tensor.is_bytes else _pixels(tensor))]
        check_items(len(elements), most)
    return elements


def name_of(tensor: Tensor) -> str:
    """For messages."""
    return f"tensor {quote(tensor.name)}"


def _pixels(tensor: Tensor) -> np.ndarray:
    """An array of images."""
    values, shape = tensor.values, tensor.shape
    if values.dtype.kind not in "iuf":
        raise ImageError(
            "bad_image_data", f"{name_of(tensor)}: expected BYTES, integers or floats, got {tensor.datatype}"
        )
    if values.dtype.itemsize == 2 and values.dtype.kind == "f":
        values = values.astype(np.float32)  # 255 times a float16 is rounded to eighths
    if len(shape) == 3 and shape[2] in CHANNELS and shape[0] == 1:
        ways = f"[1, H, W] and [H, W, C] are both possible for {list(shape)}; send four axes, [N, H, W, C]"
        raise ImageError("bad_image_data", f"{name_of(tensor)}: {ways}")
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in CHANNELS):
        return values[None]
    if len(shape) == 3 or (len(shape) == 4 and shape[3] in CHANNELS):
        return values
    first = len(shape) == 4 and shape[1] in CHANNELS
    hint = "; the channels come last" if first else ""
    wanted = "expected [N, H, W, C], [H, W, C] or [N, H, W] with 1 or 3 channels"
    raise ImageError("bad_image_data", f"{name_of(tensor)}: {wanted}, got {list(shape)}{hint}")


def file_of(tensor: Tensor, element: bytes | str) -> bytes:
    """The content of an image file from an element of a ``BYTES`` tensor.

    Args:
        tensor: the element's, for messages.
        element: a file's content, or its base64 as text, marked as such or not.

    Raises:
        InputError: it is a text, and no base64 of an image.
    """
    if isinstance(element, Base64):
        return decode_base64(str(element), name_of(tensor))
    data = element.encode("utf-8", "replace") if isinstance(element, str) else element
    if not data:
        raise InputError("empty", f"{name_of(tensor)}: an element is empty; send an image file")
    content = file_of_text(data)
    if content is not None:
        return content
    if isinstance(element, str):
        hint = 'send its base64, with "parameters": {"content_type": "base64"}'
        raise ImageError("not_an_image", f"{name_of(tensor)}: a text that is not the base64 of an image; {hint}")
    return data
