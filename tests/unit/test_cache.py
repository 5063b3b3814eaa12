"""The decoded cache gives the pixels that decoding gives."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marquee.handlers.core.bundle import sha256_file
from marquee.handlers.inputs.image.decode import decode, prepare
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.training.core.errors import DataError
from marquee.training.core.progress import Progress
from marquee.training.tasks.image_classification.data.cache import UNLIMITED, ImageCache, build_cache, decoded_bytes
from marquee.training.tasks.image_classification.data.loading import EvaluationImages, TargetEncoder
from marquee.training.tasks.image_classification.data.manifest import Record

QUIET = Progress(quiet=True)


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    records = []
    for i, size in enumerate([(40, 30), (30, 40), (200, 100), (33, 33), (40, 30)]):
        pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        if i == 4:  # the same picture twice
            path.write_bytes((tmp_path / "0.png").read_bytes())
        records.append(Record(str(path), "a", "train", sha256_file(path), *size, "RGB"))
    return records


@pytest.mark.parametrize("channels", [1, 3])
def test_as_decoded_and_as_prepared(photos, tmp_path, channels):
    spec = ImageSpec(channels=channels, resize=36, crop=32, mean=(0.5,) * channels, std=(0.5,) * channels)
    build_cache(tmp_path / "whole", photos, spec, UNLIMITED, QUIET)
    build_cache(tmp_path / "prepared", photos, spec, None, QUIET)
    whole, prepared = ImageCache(tmp_path / "whole"), ImageCache(tmp_path / "prepared")
    plain = EvaluationImages(photos, TargetEncoder(["a"]), spec)
    cached = EvaluationImages(photos, TargetEncoder(["a"]), spec, prepared)
    for i, record in enumerate(photos):
        image = decode(Path(record.path).read_bytes(), spec)
        assert np.array_equal(np.asarray(whole.image(record)), np.asarray(image))
        assert np.array_equal(prepared.array(record), prepare(image, spec))
        assert plain[i][0].equal(cached[i][0])
    assert (tmp_path / "prepared" / "pixels.bin").stat().st_size == 4 * 32 * 32 * channels  # four different ones
    assert decoded_bytes(photos, spec, None) == 5 * 32 * 32 * channels
    assert decoded_bytes(photos, spec, UNLIMITED) == (3 * 1200 + 20000 + 33 * 33) * channels


def test_large_images_are_shrunk_to_what_crops_need(photos, tmp_path):
    spec = ImageSpec(channels=1, resize=16, crop=16)
    build_cache(tmp_path / "c", photos, spec, 32, QUIET)
    cache = ImageCache(tmp_path / "c")
    assert [cache.image(record).size for record in photos] == [(40, 30), (30, 40), (64, 32), (32, 32), (40, 30)]


def test_scaled_decoding_reaches_the_cache(tmp_path):
    """What is cached as it is decoded, or as it is served, has the served pixels; crops have the pixels they need."""
    path = tmp_path / "0.jpg"
    Image.linear_gradient("L").resize((800, 800)).save(path)
    record = Record(str(path), "a", "train", sha256_file(path), 800, 800, "L")
    spec = ImageSpec(channels=1, resize=36, crop=32, decode="scaled")
    served = prepare(decode(path.read_bytes(), spec), spec)
    assert not np.array_equal(served, prepare(decode(path.read_bytes(), replace(spec, decode="full")), spec))

    def cached(spec, short_side) -> ImageCache:
        build_cache(tmp_path / "c", [record], spec, short_side, QUIET)
        return ImageCache(tmp_path / "c")

    assert np.array_equal(cached(spec, None).array(record), served)
    whole = cached(spec, UNLIMITED).image(record)
    assert whole.size == (100, 100)
    assert np.array_equal(prepare(whole, spec), served)
    assert cached(spec, 150).image(record).size == (150, 150)  # from 400, not from 100
    before = (tmp_path / "c" / "pixels.bin").stat().st_mtime_ns
    cached(replace(spec, decode="full"), 150)
    assert (tmp_path / "c" / "pixels.bin").stat().st_mtime_ns != before


def test_it_is_used_again_only_for_the_same_images(photos, tmp_path):
    spec = ImageSpec(channels=1, resize=16, crop=16)
    file = tmp_path / "c" / "pixels.bin"

    def built(*arguments) -> int:
        build_cache(tmp_path / "c", *arguments, QUIET)
        return file.stat().st_mtime_ns

    first = built(photos, spec, 32)
    assert built(photos, spec, 32) == first
    assert (second := built(photos, spec, 33)) != first
    assert (third := built(photos[:3], spec, 33)) != second
    file.write_bytes(file.read_bytes()[:-1])
    assert built(photos[:3], spec, 33) != third


def test_a_changed_image_leaves_no_cache(photos, tmp_path):
    Image.new("L", (9, 9)).save(photos[2].path)
    with pytest.raises(DataError, match=r"2\.png: has changed"):
        build_cache(tmp_path / "c", photos, ImageSpec(channels=1, resize=16, crop=16), 32, QUIET)
    assert not list(tmp_path.glob("*c*"))


def test_loader_processes_map_the_file_themselves(photos, tmp_path):
    build_cache(tmp_path / "c", photos, ImageSpec(channels=1, resize=16, crop=16), 32, QUIET)
    cache = ImageCache(tmp_path / "c")
    expected = cache.array(photos[0])
    sent = pickle.dumps(cache)
    assert len(sent) < 2000
    assert np.array_equal(pickle.loads(sent).array(photos[0]), expected)
