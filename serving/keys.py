"""TorchServe's access tokens, from the ``key_file.json`` that the server writes where it was started."""

import json
from pathlib import Path
from typing import Literal

from marquee.serving.errors import OperationError

Kind = Literal["inference", "management", "API"]


class KeyFile:
    """Reads tokens; they may be renewed at any time, so nothing is kept.

    Args:
        path: the key file; None for a server with ``disable_token_authorization=true``.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def token(self, kind: Kind) -> str | None:
        """The token for inference, for management, or (``API``) for making new tokens.

        Raises:
            OperationError: the file is missing or unreadable.
        """
        if self.path is None:
            return None
        try:
            value: str = json.loads(self.path.read_text("utf-8"))[kind]["key"]
            return value
        except FileNotFoundError as error:
            raise OperationError(
                f"{self.path}: no key file; is the server running? Name its folder with --state, or run this "
                "command in the folder where torchserve was started"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OperationError(f"{self.path}: not readable as a TorchServe key file: {error!r}") from error
