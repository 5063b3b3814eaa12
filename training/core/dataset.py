"""What the shared parts need of the items of a data set, whatever they are."""

from collections.abc import Sequence
from typing import Any, Protocol

SPLITS = ("train", "val", "test")


class Record(Protocol):
    """One item of a data set."""

    @property
    def path(self) -> str:
        """Its location, for messages and tables."""

    @property
    def split(self) -> str:
        """``train``, ``val`` or ``test``."""

    @property
    def sha256(self) -> str:
        """Digest of the content that a client would send."""

    @property
    def group(self) -> str:
        """The group that it belongs to, such as a patient; empty for an independent item."""


class Manifest(Protocol):
    """The items of a data set, in a fixed order."""

    @property
    def records(self) -> Sequence[Any]:
        """All items."""

    @property
    def digest(self) -> str:
        """``sha256:...`` over everything that determines training."""

    def split(self, name: str) -> list[Any]:
        """The records of one split, in order."""


def content_of(record: Record) -> str:
    """The digest by which an item is known again in another data set; names and locations do not matter.

    That of what a client would send, unless a kind of items says otherwise by an attribute ``content``: rows of a table
    with equal features may have different targets, and are then different items.
    """
    content: str = getattr(record, "content", record.sha256)
    return content


def groups_of(records: Sequence[Any]) -> list[str]:
    """The group of each item; an item without one is on its own (the name of a group contains no NUL)."""
    return [record.group or f"\0{number}" for number, record in enumerate(records)]
