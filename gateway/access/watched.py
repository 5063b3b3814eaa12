"""The keys as a running gateway sees them: a change of their file counts from the next request on."""

import logging
from pathlib import Path

from marquee.gateway.access.keys import Key, id_of, read_keys
from marquee.gateway.errors import StartError
from marquee.serving.errors import OperationError

log = logging.getLogger("marquee.gateway.keys")

_State = tuple[int, ...]
_ABSENT: _State = ()


class WatchedKeys:
    """The keys of a file.

    A file that is removed takes all keys away. One that is damaged, or cannot be read, is logged, and the keys stay as
    they were: nobody who had access loses it to a slip of the operator.

    Args:
        path: the file; it may be made later.

    Raises:
        StartError: it is damaged, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._seen: _State | None = None
        self._keys: dict[str, Key] = {}
        try:
            self._look()
        except OperationError as error:
            raise StartError(str(error)) from error

    def find(self, secret: str) -> Key | None:
        """The key that was sent, which may have expired; None where there is no such key.

        Args:
            secret: as the client sent it.
        """
        identifier = id_of(secret)
        key = None if identifier is None else self.get(identifier)
        return key if key is not None and key.matches(secret) else None

    def get(self, identifier: str) -> Key | None:
        """The key with this ID, which may have expired; None where there is none."""
        try:
            self._look()
        except OperationError as error:
            log.error("%s; the keys stay as they were", error)
        return self._keys.get(identifier)

    def _look(self) -> None:
        """Reads the file again where it is not as last seen: that takes microseconds where it is."""
        try:
            found = self.path.stat()
            # The inode, because two changes may share a time; the change time, because a permission may have changed.
            state: _State = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)
        except (FileNotFoundError, NotADirectoryError):
            state = _ABSENT
        except OSError as error:
            state = (error.errno or 0,)
        if state == self._seen:
            return
        # First of all: what changes while it is read looks different the next time, and a damaged file is logged once.
        is_start, self._seen = self._seen is None, state
        try:
            self._keys = {key.id: key for key in read_keys(self.path)}
        except (FileNotFoundError, NotADirectoryError):
            self._keys = {}
        if not is_start:
            log.info("%s has changed; keys in it: %d", self.path, len(self._keys))
