"""What every peer is told by its environment, and the model that it serves."""

import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

MAX_BATCH = 8
WAIT_SECONDS = 0.001
"""How long a batch waits for company: as in this project's archives."""
EAGER = "eager"
WEIGHTS = "resnet18.pth"
_VARIABLE = "BENCHMARK_PLACE"
_TOP = 5


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a peer listens and what it serves."""

    port: int
    """On the loopback."""
    variant: str
    """:data:`EAGER`: PyTorch as its documentation shows it; or a variant of the bundle: this project's predictor, so
    that only the server differs."""
    material: Path
    """Folder of ``bundle/`` and ``resnet18.pth``."""

    def as_environment(self) -> dict[str, str]:
        """The variable that :func:`read_place` reads."""
        return {_VARIABLE: json.dumps({**asdict(self), "material": str(self.material)})}


def read_place() -> Place:
    """This process's place, as the benchmark that started it says."""
    facts = json.loads(os.environ[_VARIABLE])
    return Place(**{**facts, "material": Path(facts["material"])})


class Model(Protocol):
    """Answers encoded images."""

    def answer(self, images: list[bytes]) -> list[dict[str, Any]]:
        """One JSON object an image, in their order."""


def load_model(variant: str, material: Path) -> Model:
    """The model that a peer serves; see :class:`Place`."""
    return Eager(material) if variant == EAGER else Ours(variant, material)


class Eager:
    """ResNet-18 as torchvision's documentation runs it: eager fp32, Pillow, the weights' own transforms."""

    def __init__(self, material: Path) -> None:
        from torchvision.models import ResNet18_Weights, resnet18

        self.network = resnet18()
        self.network.load_state_dict(torch.load(material / WEIGHTS, weights_only=True))
        self.network.eval()
        self._transforms = ResNet18_Weights.DEFAULT.transforms()

    def answer(self, images: list[bytes]) -> list[dict[str, Any]]:
        """Index -> probability of the likeliest five, the likeliest first."""
        tensors = [self._transforms(Image.open(io.BytesIO(image)).convert("RGB")) for image in images]
        return self.answer_tensors(torch.stack(tensors))

    def answer_tensors(self, batch: torch.Tensor) -> list[dict[str, Any]]:
        """Normalised float32 (N, 3, 224, 224) -> answers."""
        with torch.inference_mode():
            probabilities, indices = self.network(batch).softmax(dim=1).topk(_TOP, dim=1)
        rows = zip(indices.tolist(), probabilities.tolist(), strict=True)
        return [dict(zip(map(str, index), probability, strict=True)) for index, probability in rows]


class Ours:
    """The predictor of a bundle, as this project's worker holds it."""

    def __init__(self, variant: str, material: Path) -> None:
        from marquee.handlers.core.predictor import Predictor

        # As many as this project's worker has where there is one, as here.
        self._predictor = Predictor.load(material / "bundle", variant=variant, threads=torch.get_num_threads())

    def answer(self, images: list[bytes]) -> list[dict[str, Any]]:
        """The answers as they go over the wire."""
        from marquee.handlers.core.errors import InputError

        return [
            {"error": {"code": answer.code}} if isinstance(answer, InputError) else answer.as_json()
            for answer in self._predictor.predict(images)
        ]
