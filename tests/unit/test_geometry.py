"""How an image of any shape becomes the square that a model sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from marquee.handlers.core.bundle import sha256_file
from marquee.handlers.inputs.image.decode import decode, framed, hidden_share, load, prepare
from marquee.handlers.inputs.image.reader import ImageReader
from marquee.handlers.inputs.image.spec import PIXELS, ImageSpec
from marquee.training.core.progress import Progress
from marquee.training.tasks.image_classification.config import AugmentConfig
from marquee.training.tasks.image_classification.data.augment import Augmentation
from marquee.training.tasks.image_classification.data.cache import UNLIMITED, ImageCache, build_cache
from marquee.training.tasks.image_classification.data.loading import EvaluationImages, TargetEncoder
from marquee.training.tasks.image_classification.data.manifest import Record

CROP = ImageSpec(channels=3, resize=32, crop=32, mean=(0.5,) * 3, std=(1.0,) * 3, background=9)
SQUASH, PAD = replace(CROP, fit="squash"), replace(CROP, fit="pad")
ALL = pytest.mark.parametrize("spec", [CROP, SQUASH, PAD], ids=["crop", "squash", "pad"])


def striped(width: int, height: int) -> Image.Image:
    """Red, green and blue thirds along the longer side."""
    image = Image.new("RGB", (width, height))
    for i, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255))):
        box = (width * i // 3, 0, width * (i + 1) // 3, height)
        image.paste(colour, box if width >= height else (0, height * i // 3, width, height * (i + 1) // 3))
    return image


def shares(pixels: np.ndarray) -> list[float]:
    """Of red, green, blue and the background, in the pixels that are one of them."""
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9))
    return [float((pixels == colour).all(axis=-1).mean()) for colour in colours]


class TestPrepare:
    @pytest.mark.parametrize("size", [(96, 32), (32, 96), (300, 100)])
    def test_crop_shows_the_centre(self, size):
        assert shares(prepare(striped(*size), CROP)) == pytest.approx([0, 1, 0, 0], abs=0.1)

    @pytest.mark.parametrize("size", [(96, 32), (32, 96), (300, 100), (7, 3)])
    def test_squash_shows_all_of_it(self, size):
        assert shares(prepare(striped(*size), SQUASH))[:3] == pytest.approx([1 / 3] * 3, abs=0.25 if 7 in size else 0.1)

    @pytest.mark.parametrize("size", [(96, 32), (32, 96), (300, 100)])
    def test_pad_shows_all_of_it_between_bars(self, size):
        pixels = prepare(striped(*size), PAD)
        assert shares(pixels) == pytest.approx([1 / 9, 1 / 9, 1 / 9, 2 / 3], abs=0.06)
        bars = pixels[:10], pixels[-10:]
        assert all((bar == 9).all() for bar in (bars if size[0] > size[1] else (pixels[:, :10], pixels[:, -10:])))

    def test_squash_is_one_plain_resize(self):
        image = striped(90, 40)
        assert np.array_equal(prepare(image, SQUASH), np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)))

    def test_the_margin_of_squash_and_pad(self):
        image = striped(90, 30)
        wide = np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR).crop((8, 8, 40, 40))).astype(int)
        assert np.abs(prepare(image, replace(SQUASH, resize=48)).astype(int) - wide).max() <= 2
        padded = prepare(image, replace(PAD, resize=48))
        assert shares(padded)[1] == pytest.approx(shares(prepare(image, PAD))[1] * 48**2 / 32**2, rel=0.3)
        assert (padded[16, 0] != 9).any()  # the strip reaches the edges

    @ALL
    def test_a_square_is_the_same_with_each(self, spec):
        assert np.array_equal(prepare(striped(64, 64), spec), prepare(striped(64, 64), CROP))

    @ALL
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (3, 7), (31, 33)])
    def test_any_shape_fits(self, spec, size, channels):
        spec = replace(spec, channels=channels, mean=(0.5,) * channels, std=(1.0,) * channels)
        pixels = prepare(Image.new("RGB" if channels == 3 else "L", size), spec)
        assert pixels.shape == (32, 32, channels)

    def test_bars_have_the_background_of_a_grey_model(self):
        grey = ImageSpec(channels=1, resize=8, crop=8, fit="pad", background=200)
        assert prepare(Image.new("L", (8, 2)), grey)[:, 0, 0].tolist() == [200] * 3 + [0] * 2 + [200] * 3

    @ALL
    def test_scaled_decoding_keeps_what_it_needs(self, spec, tmp_path):
        path = tmp_path / "0.jpg"
        Image.linear_gradient("L").resize((1200, 400)).convert("RGB").save(path, quality=95)
        scaled = replace(spec, decode="scaled")
        assert decode(path.read_bytes(), scaled).size == (300, 100)
        assert np.abs(load(path.read_bytes(), scaled).astype(int) - load(path.read_bytes(), spec)).max() <= 4

    @pytest.mark.parametrize(
        ("spec", "size", "share"),
        [
            (CROP, (64, 64), 0),
            (CROP, (160, 90), 1 - 90 / 160),
            (CROP, (90, 160), 1 - 90 / 160),
            (replace(CROP, resize=64), (100, 100), 0.75),
            (SQUASH, (160, 90), 0),
            (PAD, (160, 90), 0),
            (replace(PAD, resize=64), (100, 50), 0.5),
        ],
    )
    def test_hidden_share(self, spec, size, share):
        assert hidden_share(*size, spec) == pytest.approx(share)


class TestTraining:
    @ALL
    def test_evaluation_and_serving_see_the_same(self, spec, tmp_path):
        path = tmp_path / "0.png"
        striped(90, 40).save(path)
        record = Record(str(path), "a", "test", sha256_file(path), 90, 40, "RGB")
        evaluated = EvaluationImages([record], TargetEncoder(["a"]), spec)[0][0].numpy()
        reader = ImageReader(spec)
        served = reader.collate([reader.opener().file(path.read_bytes())]).inputs[PIXELS][0]
        assert np.array_equal(evaluated, served)
        build_cache(tmp_path / "cache", [record], spec, None, Progress(quiet=True))
        assert np.array_equal(ImageCache(tmp_path / "cache").array(record), served)
        build_cache(tmp_path / "whole", [record], spec, UNLIMITED, Progress(quiet=True))
        assert np.array_equal(prepare(ImageCache(tmp_path / "whole").image(record), spec), served)

    @ALL
    def test_without_random_crops_training_sees_what_is_served(self, spec):
        off = AugmentConfig(crop_scale=1, horizontal_flip=0, rotation=0, zoom=0, color=0)
        augmented = Augmentation(off, spec, (0.5,) * 3)(striped(90, 40)).numpy()
        assert np.array_equal(augmented, prepare(striped(90, 40), spec))

    @pytest.mark.parametrize(("spec", "sides"), [(SQUASH, True), (PAD, True), (CROP, False)])
    def test_random_crops_are_taken_of_the_square(self, spec, sides):
        """Of a strip of three colours, crops of most of the area show all of them only if it was squeezed."""
        config = AugmentConfig(crop_scale=0.95, crop_ratio=1, horizontal_flip=0, rotation=0, zoom=0, color=0)
        augment = Augmentation(config, spec, (0.5,) * 3)
        torch.manual_seed(0)
        for _ in range(20):
            red, _, blue, _ = shares(augment(striped(300, 60)).numpy())
            assert (min(red, blue) > 0.05) is sides

    def test_what_crops_are_taken_from(self):
        image = striped(300, 60)
        assert framed(image, 100, CROP) is image
        assert framed(image, 100, SQUASH).size == (100, 100)
        assert framed(image, 100, PAD).size == (100, 100)
        assert framed(striped(30, 20), 100, SQUASH).size == (30, 30)  # not enlarged twice
        assert framed(striped(30, 20), 100, PAD).size == (30, 30)
