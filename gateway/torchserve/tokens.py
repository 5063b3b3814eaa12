"""TorchServe's access tokens as headers, without reading the key file for each request."""

from collections.abc import Mapping

from marquee.gateway.backend import UnreachedError
from marquee.serving.errors import OperationError
from marquee.serving.keys import KeyFile, Keys, Kind


class Tokens:
    """The tokens of one front end; those of a file are read anew when the file changes.

    Args:
        keys: where they come from.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._stamp: tuple[int, ...] | None = None
        self._headers: dict[Kind, Mapping[str, str]] = {}

    @property
    def renewable(self) -> bool:
        """Whether a token that was refused can be replaced."""
        return self._keys.renewable

    def __str__(self) -> str:
        return str(self._keys)

    def header(self, kind: Kind) -> Mapping[str, str]:
        """``{"Authorization": "Bearer TOKEN"}``; empty where no token is needed.

        Raises:
            UnreachedError: there is no key file, as while the front end starts, or it cannot be read.
        """
        self._look()
        found = self._headers.get(kind)
        if found is None:
            try:
                token = self._keys.token(kind)
            except OperationError as error:
                self._stamp = None
                raise UnreachedError(str(error)) from error
            found = {"Authorization": f"Bearer {token}"} if token else {}
            self._headers[kind] = found
        return found

    def _look(self) -> None:
        if not isinstance(self._keys, KeyFile):
            return
        try:
            state = self._keys.path.stat()  # some microseconds; reading the file takes a hundred
            stamp: tuple[int, ...] | None = (state.st_mtime_ns, state.st_size, state.st_ino)
        except OSError:
            stamp = None
        if stamp is None or stamp != self._stamp:
            self._stamp = stamp
            self._headers.clear()
