"""This project's predictor, for other servers to hold."""

from pathlib import Path
from typing import Any

import torch

from marquee.handlers.errors import InputError
from marquee.handlers.predictor import Predictor, as_json


class Ours:
    """The predictor of a bundle.

    Args:
        material: folder of ``bundle/``.
        variant: the only variant that is loaded.
    """

    def __init__(self, material: Path, variant: str) -> None:
        # As many as this project's worker has where there is one, as here.
        self._predictor = Predictor.load(material / "bundle", variant=variant, decode_threads=torch.get_num_threads())

    def answer(self, images: list[bytes]) -> list[dict[str, Any]]:
        """The answers as they go over the wire."""
        return [
            {"error": {"code": answer.code}} if isinstance(answer, InputError) else as_json(answer)
            for answer in self._predictor.predict(images)
        ]
