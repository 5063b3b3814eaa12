"""A batch is decoded on several threads, in order, an error for each item."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from marquee.handlers.core.errors import InputError
from marquee.handlers.inputs.image import reader as batches
from marquee.handlers.inputs.image.decode import from_nested_list, load, open_image
from marquee.handlers.inputs.image.reader import ImageReader
from marquee.handlers.inputs.image.spec import ImageSpec

SPEC = ImageSpec(channels=3, resize=36, crop=32, mean=(0.5,) * 3, std=(0.5,) * 3, decode="scaled")


def jpeg(seed: int, size: tuple[int, int] = (200, 160)) -> bytes:
    """Smooth noise, another for each seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize(size).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def files() -> list[bytes]:
    return [jpeg(seed, (200 + 40 * seed, 160)) for seed in range(8)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_pixels_of_each_image_alone(files, threads):
    batch = ImageReader(SPEC, threads).collate([open_image(data, SPEC) for data in files])
    assert batch.inputs["pixels"].dtype == np.uint8
    assert batch.inputs["pixels"].flags.c_contiguous
    assert np.array_equal(batch.inputs["pixels"], np.stack([load(data, SPEC) for data in files]))
    assert batch.errors == (None,) * len(files)


@pytest.mark.parametrize("threads", [1, 3])
def test_errors_stay_in_their_places(files, threads):
    refused = InputError("empty", "nothing")
    cut = open_image(files[1][:-300], SPEC)
    images = [refused, open_image(files[0], SPEC), cut, from_nested_list([[7]], SPEC), refused]
    batch = ImageReader(SPEC, threads).collate(images)
    assert np.array_equal(batch.inputs["pixels"], np.stack([load(files[0], SPEC), np.full((32, 32, 3), 7)]))
    answers = batch.with_errors(["first", "second"])
    assert [getattr(answer, "code", answer) for answer in answers] == [
        "empty",
        "first",
        "corrupt_image",
        "second",
        "empty",
    ]


@pytest.mark.parametrize("images", [[], [InputError("empty", "nothing")]])
def test_nothing_to_decode(images):
    batch = ImageReader(SPEC, 2).collate(images)
    assert batch.inputs["pixels"].shape == (0, 32, 32, 3)
    assert batch.with_errors([]) == images


@pytest.mark.parametrize(
    ("error", "code"), [(MemoryError(), "too_large"), (ZeroDivisionError(), "internal_error")], ids=str
)
def test_whatever_an_image_brings_to_light_is_its_own_error(files, monkeypatch, error, code):
    real = batches.decode_opened

    def decode_opened(image, spec):
        if image.width == 240:
            raise error
        return real(image, spec)

    monkeypatch.setattr(batches, "decode_opened", decode_opened)
    batch = ImageReader(SPEC, 2).collate([open_image(data, SPEC) for data in files[:3]])
    assert [error and error.code for error in batch.errors] == [None, code, None]
    assert np.array_equal(batch.inputs["pixels"], np.stack([load(files[0], SPEC), load(files[2], SPEC)]))


def test_images_are_decoded_at_the_same_time_and_one_alone_on_the_callers_thread(files, monkeypatch):
    """Two decoders wait for each other: alone, one would wait in vain."""
    real, together, seen = batches.decode_opened, threading.Barrier(2), []

    def decode_opened(image, spec):
        seen.append(threading.current_thread())
        if len(opened) > 1:
            together.wait(timeout=30)
        return real(image, spec)

    monkeypatch.setattr(batches, "decode_opened", decode_opened)
    loader = ImageReader(SPEC, 2)
    opened = [open_image(data, SPEC) for data in files]
    assert loader.collate(opened).errors == (None,) * 8
    assert threading.current_thread() not in seen
    opened = [open_image(files[0], SPEC)]
    seen.clear()
    loader.collate(opened)
    assert seen == [threading.current_thread()]


def test_decoded_pixels_are_let_go_of(files):
    opened = [open_image(data, SPEC) for data in files[:3]]
    ImageReader(SPEC, 2).collate(opened)
    for image in opened:
        with pytest.raises(ValueError, match="closed"):
            image.getpixel((0, 0))


def test_several_callers_at_once(files):
    loader = ImageReader(replace(SPEC, decode="full"), 2)
    expected = [load(data, replace(SPEC, decode="full")) for data in files]

    def ask(turn: int) -> bool:
        order = [(turn + i) % len(files) for i in range(len(files))]
        batch = loader.collate([open_image(files[i], SPEC) for i in order])
        return np.array_equal(batch.inputs["pixels"], np.stack([expected[i] for i in order]))

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(ask, range(16)))
