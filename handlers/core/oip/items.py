"""The tensors of a request -> the items that a kind of input collates."""

import base64
import json
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

from ..errors import InputError
from ..input import Input, Opener, attempt
from ..quoting import quote
from .elements import Base64
from .metadata import ANY_FILE
from .tensor import Tensor, check_items, the_only


@runtime_checkable
class TensorOpener(Protocol):
    """An :class:`~marquee.handlers.core.input.Opener` that has tensors of its own, as its spec's ``tensors`` says."""

    def tensors(self, tensors: Sequence[Tensor]) -> list[Any]:
        """All items of a request.

        Args:
            tensors: of the request, at least one; their names are different.

        Returns:
            Items as the opener's other methods give them, or an InputError in the place of one that cannot be opened.

        Raises:
            InputError: the request as a whole cannot be read, such as a tensor of another name.
        """


def open_items(tensors: Sequence[Tensor], source: Input) -> list[Any]:
    """As :meth:`TensorOpener.tensors`; where the kind of input has none, each element of a ``BYTES`` tensor is an item.

    Raises:
        InputError: see there.
    """
    opener = source.opener()
    if isinstance(opener, TensorOpener):
        return opener.tensors(tensors)
    tensor = the_only(tensors, (ANY_FILE.name,))
    if not tensor.is_bytes:
        raise InputError("bad_request", f"tensor {quote(tensor.name)}: expected BYTES, got {tensor.datatype}")
    elements = tensor.column()
    check_items(len(elements), source.max_items)
    return [attempt(partial(_open, opener), element) for element in elements]


def _open(opener: Opener, element: bytes | str) -> Any:
    content = content_of(element)
    if content[:64].lstrip()[:1] not in (b"{", b"["):
        return opener.file(content)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError("bad_request", f"not valid JSON: {error}") from error
    return opener.instance(document)


def content_of(element: bytes | str) -> bytes:
    """The bytes that an element of a ``BYTES`` tensor stands for.

    Raises:
        InputError: it is no base64, though the client says so.
    """
    if isinstance(element, Base64):
        try:
            return base64.b64decode(element, validate=True)
        except ValueError as error:
            raise InputError("bad_request", f"not valid base64: {error}") from error
    return element.encode("utf-8", "replace") if isinstance(element, str) else element
