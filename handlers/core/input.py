"""What every kind of input offers: bytes of a request -> the arrays that an engine takes."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .. import inputs
from .errors import InputError
from .kinds import of_kind
from .oip.metadata import ANY_FILE, TensorSpec
from .schema import Tagged

if TYPE_CHECKING:  # a command line reads specs without numpy
    from .arrays import Arrays
    from .batch import Batch


class Opener(Protocol):
    """Reads the items of one request up to what :meth:`Input.collate` decodes; limits hold for all of them together."""

    def file(self, data: bytes | bytearray) -> Any:
        """The content of a file, or a whole body -> an item.

        Raises:
            InputError: it cannot be one.
        """

    def instance(self, value: Any) -> Any:
        """One JSON value -> an item.

        Raises:
            InputError: it cannot be one.
        """

    def items(self, body: Any) -> tuple[list[Any], bool] | None:
        """All items of a whole body, for kinds of input that have ways of their own to write several.

        Args:
            body: bytes, or a JSON document that the server has parsed already.

        Returns:
            The items, or an InputError in the place of one that cannot be opened, and whether they are a list; None
            where the body is read by :meth:`file` and :meth:`instance`.

        Raises:
            InputError: the body as a whole cannot be read.
        """


class Input(Protocol):
    """A kind of input, ready to read requests. Safe to use from several threads."""

    codes: Mapping[str, int]
    """Error codes of its own -> HTTP status."""
    max_items: int
    """Items of one request; more are refused."""

    def opener(self) -> Opener:
        """For one request."""

    def collate(self, items: Sequence[Any]) -> "Batch":
        """Decodes items into one batch; never raises InputError.

        Args:
            items: of an :class:`Opener`, or InputError in the place of one that could not be opened.
        """

    def check(self, arrays: "Arrays") -> None:
        """Raises ValueError for arrays that are not what :meth:`collate` gives."""


class InputSpec(Tagged):
    """The part of ``spec.json`` that says what a request holds; a frozen dataclass for each kind."""

    chunk: ClassVar[int] = 64
    """Items that go through the engine at once; more are split, so that memory stays bounded."""

    kind: str

    @classmethod
    def of_kind(cls, kind: str) -> type[Any]:
        """See :class:`marquee.handlers.core.schema.Tagged`."""
        spec: type[Any] = of_kind(inputs, kind)
        return spec

    def create(self, threads: int = 1) -> Input:
        """Makes it ready.

        Args:
            threads: items that are decoded at once.
        """
        raise NotImplementedError

    def example(self, items: int) -> "Arrays":
        """Arrays of the right dtypes and shapes, for tracing, warming up and counting kernels.

        Their order is that of the program's inputs.
        """
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What clients may know of it."""
        raise NotImplementedError

    def tensors(self) -> Sequence[TensorSpec]:
        """The tensors of a request of the Open Inference Protocol, the items along their first axis.

        A kind of input that says others has an opener that reads them
        (:class:`marquee.handlers.core.oip.items.TensorOpener`).
        """
        return (ANY_FILE,)


def attempt(open_item: Callable[[Any], Any], value: Any) -> Any:
    """``open_item(value)``, or the error of this item."""
    try:
        return open_item(value)
    except InputError as error:
        return error
    except MemoryError:
        # TorchServe answers a MemoryError with 507 for the whole batch.
        return InputError("too_large", "the server has not enough memory to read this input")
