"""What the steps train on, made on the spot: the digits, photographs, a configuration, and a run on the CPU.

Everything lies in the site's ``shared`` folder, where the first step that wants it makes it.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.gpu.step import Site
from marquee.handlers.core.host import usable_cores
from marquee.training.core.config import merge_config
from marquee.training.core.files import atomic_folder
from marquee.training.core.run import train
from marquee.training.tasks.image_classification.config import ImageRunConfig

SIZES = ((500, 375), (375, 500), (500, 333), (640, 480), (480, 360))
"""Width and height of the photographs in pixels, in turn; the first are those of most photographs in ImageNet."""
CLASSES = 10
TEST_EVERY = 5
"""Every fifth image of a digit is held out."""
_SCENE = (900, 1200)
"""Height and width of what photographs are cut from."""
_SCENES = 12
_GRAIN = 6.0
"""Standard deviation of the noise in grey levels of 255; it makes files as large as a camera's, about 100 kB."""
_DRAWN = 60
"""Images of each digit where scikit-learn is absent and they are drawn."""


def quick_config(site: Site, **sections: Mapping[str, Any]) -> ImageRunConfig:
    """The configuration of a short run on the digits.

    Args:
        site: its device is that of the run.
        sections: fields to change by part, such as ``loop={"epochs": 2}``.
    """
    base: dict[str, dict[str, Any]] = {
        "image": {"size": 32},
        "model": {"arch": "resnet10t" if site.full else "cnn4_w8", "dropout": 0.0},
        "augment": {"crop_scale": 1.0, "horizontal_flip": 0.0, "rotation": 0.0, "zoom": 0.0, "color": 0.0},
        "optimizer": {"lr": 2e-3, "schedule": "one-cycle", "warmup_epochs": 0.0},
        "loop": {
            "epochs": 12 if site.full else 3,
            "batch_size": 64 if site.full else 16,
            "patience": 0,
            "device": site.device,
            "workers": min(4, usable_cores()) if site.full else 0,
        },
    }
    for part, fields in sections.items():
        base[part] = {**base.get(part, {}), **fields}
    return merge_config(ImageRunConfig(), base)


def digits(site: Site) -> Path:
    """The folder of the digits, with ``train/`` and ``test/``; without scikit-learn they are drawn by Pillow.

    On the CPU every second image is left out.
    """
    folder = site.shared / "digits"
    if folder.exists():
        return folder
    images, labels = _digit_images()
    seen: Counter[int] = Counter()
    with atomic_folder(folder) as staging:
        for number in range(0, len(images), 1 if site.full else 2):
            label = int(labels[number])
            seen[label] += 1
            target = staging / ("train" if seen[label] % TEST_EVERY else "test") / str(label) / f"{number:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[number]).save(target)
    return folder


def _digit_images() -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (N, H, W), and labels, int (N,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return draw_digits()
    loaded = load_digits()
    return np.rint(loaded.images * 255 / 16).astype(np.uint8), loaded.target


def draw_digits() -> tuple[np.ndarray, np.ndarray]:
    """Digits in Pillow's own font, shifted, turned and noisy: uint8 (N, 16, 16), and labels, int (N,)."""
    random, font = np.random.default_rng(0), ImageFont.load_default()
    labels = np.tile(np.arange(CLASSES), _DRAWN)
    images = []
    for label in labels:
        image = Image.new("L", (16, 16), 0)
        ImageDraw.Draw(image).text(tuple(random.uniform(2, 6, 2)), str(label), fill=255, font=font)
        turned = image.rotate(float(random.uniform(-15, 15)), Image.Resampling.BILINEAR)
        noisy = np.asarray(turned, np.float32) + random.normal(0, 20, (16, 16))
        images.append(noisy.clip(0, 255).astype(np.uint8))
    return np.stack(images), labels


def photographs(site: Site, count: int) -> Path:
    """A folder of ``count`` JPEG files in class folders, of several sizes; all are different, and equal in every call.

    Natural pictures they are not: coloured shapes and noise at every scale, with a camera's grain, which take as long
    to read and decode as photographs of their size.
    """
    folder = site.shared / f"photographs-{count}"
    if folder.exists():
        return folder
    scenes = [_scene(number) for number in range(_SCENES)]
    with atomic_folder(folder) as staging:
        for label in range(CLASSES):
            (staging / f"class-{label}").mkdir()
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(lambda number: _photograph(scenes, number, staging), range(count)))
    return folder


def _scene(number: int) -> Image.Image:
    """Noise at every scale, as natural pictures have: the amplitude halves with the size."""
    random, (height, width) = np.random.default_rng([number, 7]), _SCENE
    pixels = np.full((height, width, 3), 128, np.float32)
    for octave in range(2, int(math.log2(height))):
        small = random.normal(0, 1, (2**octave, 2**octave, 3)).astype(np.float32)
        grey = ((small * 32 + 128).clip(0, 255)).astype(np.uint8)
        large = Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC)
        pixels += (np.asarray(large, np.float32) - 128) * 2 ** (2.5 - octave / 2)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _photograph(scenes: list[Image.Image], number: int, folder: Path) -> None:
    random, (width, height) = np.random.default_rng([number, 11]), SIZES[number % len(SIZES)]
    scene, share = scenes[number % len(scenes)], random.uniform(0.5, 1.0)
    left, top = random.uniform(0, scene.width * (1 - share)), random.uniform(0, scene.height * (1 - share))
    box = (left, top, left + share * scene.width, top + share * scene.height)
    pixels = np.asarray(scene.resize((width, height), Image.Resampling.BILINEAR, box=box), np.float32)
    grain = random.normal(0, _GRAIN, pixels.shape[:2]).astype(np.float32)[..., None]
    image = Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))
    image.save(folder / f"class-{number % CLASSES}" / f"{number:05d}.jpg", quality=90)


def enlarge(folder: Path, target: Path, count: int, size: tuple[int, int]) -> Path:
    """Writes ``count`` of the photographs in ``folder`` as large as telephones take them, with a camera's grain.

    Args:
        folder: class folders of JPEG files.
        target: has the same class folders afterwards.
        count: how many.
        size: width and height in pixels.
    """
    width, height = size
    grain = np.random.default_rng(0).normal(0, _GRAIN, (height, width, 1)).astype(np.float32)

    def write(numbered: tuple[int, Path]) -> None:
        number, path = numbered
        with Image.open(path) as photograph:
            pixels = np.asarray(photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC), np.float32)
        noisy = (pixels + np.roll(grain, number, axis=1)).clip(0, 255).astype(np.uint8)
        place = target / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(place, quality=85)

    with ThreadPoolExecutor(min(8, usable_cores())) as pool:
        # By the number in the name, so that every class has some.
        list(pool.map(write, enumerate(sorted(folder.rglob("*.jpg"), key=lambda path: path.name)[:count])))
    return target


def cpu_run(site: Site) -> Path:
    """The run folder of the digits on the CPU in fp32: what the GPU's runs are compared with, and a bundle to measure.

    Its settings are those of :func:`quick_config`, but for the device.
    """
    folder = site.shared / "cpu-run"
    if not (folder / "evaluation.json").is_file():
        config = quick_config(site, loop={"device": "cpu", "precision": "fp32"})
        train(config, digits(site), folder, resume=(folder / "checkpoints" / "last").is_file(), report=False)
    return folder


def accuracy(run: Path) -> float:
    """The accuracy on the test images, 0 to 1, of a finished run."""
    return float(json.loads((run / "evaluation.json").read_text("utf-8"))["accuracy"])
