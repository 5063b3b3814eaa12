"""TorchServe's access tokens, from the ``key_file.json`` that the server writes where it was started."""

import json
from pathlib import Path
from typing import Literal, Protocol

from marquee.serving.errors import OperationError

Kind = Literal["inference", "management", "API"]


class Keys(Protocol):
    """A source of access tokens."""

    renewable: bool
    """Whether a refused token can be renewed."""

    def token(self, kind: Kind) -> str | None:
        """The token for inference, for management, or (``API``) for making new tokens; None: none is needed."""


class StaticToken:
    """One fixed token, sent with every request.

    Args:
        token: the token; None for a server with ``disable_token_authorization=true``.
    """

    renewable = False

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __str__(self) -> str:
        return "a request without a token" if self._token is None else "the token that was given"

    def token(self, kind: Kind) -> str | None:
        """The token."""
        return self._token


class KeyFile:
    """Reads the tokens anew for each request, because they may be renewed at any time.

    Args:
        path: the key file.
    """

    renewable = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"the token of {self.path}"

    def token(self, kind: Kind) -> str:
        """The token for inference, for management, or (``API``) for making new tokens.

        Raises:
            OperationError: the file is missing or unreadable.
        """
        try:
            value: str = json.loads(self.path.read_text("utf-8"))[kind]["key"]
            return value
        except FileNotFoundError as error:
            raise OperationError(
                f"{self.path}: no key file; is the server running? Name its folder with --state, or run this "
                "command in the folder where torchserve was started"
            ) from error
        except PermissionError as error:
            raise OperationError(
                f"{self.path}: no permission to read it: only the user who started the server may, because its tokens "
                "control the server; ask that user for a token, or start a server of your own"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OperationError(f"{self.path}: not readable as a TorchServe key file: {error!r}") from error
