"""ResNet-18 as torchvision's documentation runs it: eager fp32, Pillow, the weights' own transforms."""

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.models import ResNet18_Weights, resnet18

TOP = 5
WEIGHTS = "resnet18.pth"


class Eager:
    """The network and its transforms.

    Args:
        material: folder of the state dict ``resnet18.pth``.
    """

    def __init__(self, material: Path) -> None:
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
            probabilities, indices = self.network(batch).softmax(dim=1).topk(TOP, dim=1)
        rows = zip(indices.tolist(), probabilities.tolist(), strict=True)
        return [dict(zip(map(str, index), probability, strict=True)) for index, probability in rows]
