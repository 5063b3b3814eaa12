"""Models whose input was prepared in another way: the warning names the option with which they are right."""

import re

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import pytest
from PIL import Image

from marquee.training.core.progress import Progress
from marquee.training.importing.bundle import Imported, import_bundle
from marquee.training.importing.config import ImportConfig

SIDE = 16
COLOURS = {
    "amber": (205, 150, 40),
    "brown": (120, 75, 50),
    "grass": (90, 170, 60),
    "night": (25, 30, 70),
    "rose": (230, 160, 190),
    "teal": (40, 140, 130),
}
PER_CLASS = 10


def write_model(path, mean=(0.0,), std=(1.0,), white=1, bgr=False, names=tuple(COLOURS)):
    """Answers with the colour that is nearest to an image's mean colour; ``names`` are those of its outputs."""
    centres = np.array([COLOURS[name] for name in names], np.float64)
    centres = centres[:, ::-1] if bgr else centres
    centres = (centres / 255 * white - np.array(mean)) / np.array(std)
    # |x - c|^2 without |x|^2, which is the same for all classes; divided, so that no softmax of them is exact.
    scale = np.abs(centres).max() ** 2 / 40
    images = ops.parameter([-1, 3, SIDE, SIDE], np.float32)
    means = ops.reduce_mean(images, [2, 3])
    products = ops.matmul(means, ops.constant((2 * centres.T / scale).astype(np.float32)), False, False)
    logits = ops.add(products, ops.constant((-(centres**2).sum(axis=1) / scale).astype(np.float32)))
    ov.save_model(ov.Model([logits], [images]), path, compress_to_fp16=False)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Class folders of noisy images of a colour."""
    return write_images(tmp_path_factory.mktemp("doubts") / "images", lambda colour: colour)


def write_images(folder, draw, size=(24, 20)):
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            noise = rng.integers(-12, 13, (*size, 3))
            pixels = np.clip(draw(np.broadcast_to(np.array(colour), (*size, 3))) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def bring(model, images, out, names=tuple(COLOURS), **options) -> Imported:
    (out.parent / "labels.txt").write_text("\n".join(names))
    config = ImportConfig(model=model, labels=out.parent / "labels.txt", images=images, **options)
    return import_bundle(config, out, Progress(quiet=True))


@pytest.mark.parametrize(
    ("model", "options", "advice"),
    [
        ({"bgr": True}, {}, "with --channel-order bgr 60 of 60 would be right: it was trained on BGR images"),
        ({}, {"channel_order": "bgr"}, "with --channel-order rgb 60 of 60"),
        (
            {"white": 255},
            {},
            "with --input-range 255 --mean 0 --std 1 60 of 60 would be right: it takes 0 to 255: .* twice",
        ),
        ({}, {"input_range": 255}, "with --input-range 1 --mean 0 --std 1 60 of 60"),
        ({"mean": (0.5,), "std": (0.5,)}, {}, "with --input-range 1 --mean 0.5 --std 0.5 60 of 60"),
        (
            {"mean": (103.939, 116.779, 123.68), "white": 255, "bgr": True},
            {},
            "with --input-range 255 --mean 103.939 116.779 123.68 --std 1 --channel-order bgr 60 of 60",
        ),
    ],
)
def test_the_option_that_is_missing_is_named(model, options, advice, images, tmp_path):
    path = write_model(tmp_path / "net.xml", **model)
    (warning,) = bring(path, images, tmp_path / "run", **options).warnings
    assert re.search(advice, warning)
    assert "\n" not in warning


def test_a_model_that_is_right_gets_no_warning(images, tmp_path):
    for name, model, options in (
        ("rgb", {}, {}),
        ("bgr", {"bgr": True}, {"channel_order": "bgr"}),
        (
            "caffe",
            {"mean": (103.9, 116.8, 123.7), "white": 255, "bgr": True},
            {"mean": (103.9, 116.8, 123.7), "input_range": 255, "channel_order": "bgr"},
        ),
    ):
        imported = bring(write_model(tmp_path / f"{name}.xml", **model), images, tmp_path / name, **options)
        assert (imported.agreeing, imported.warnings) == ((60, 60), ())


def test_squashed_where_it_was_cropped(tmp_path):
    """The sides of wide images have the colours of other classes."""

    def between_others(colour):
        # Three further: no exchange of channels or labels mends that, whatever a CPU rounds.
        classes = list(COLOURS.values())
        other = classes[(classes.index(tuple(colour[0, 0].tolist())) + 3) % len(classes)]
        wide = np.broadcast_to(np.array(other), colour.shape) * 1
        wide[:, 22:42] = colour[:, 22:42]
        return wide

    images = write_images(tmp_path / "images", between_others, size=(20, 64))
    model = write_model(tmp_path / "net.xml")
    assert bring(model, images, tmp_path / "cropped").warnings == ()
    (warning,) = bring(model, images, tmp_path / "squashed", fit="squash").warnings
    assert "with --fit crop --resize" in warning
    assert "60 of 60 would be right: images were cropped where it was trained" in warning


def test_labels_in_another_order(images, tmp_path):
    ordered = tuple(COLOURS)
    shuffled = ("teal", "brown", "night", "amber", "rose", "grass")
    for number, (outputs, given, advice) in enumerate((
        (ordered, ordered[::-1], "with the labels in alphabetical order 60 of 60 would be right"),
        (ordered, shuffled, "with the labels in alphabetical order 60 of 60"),
        (shuffled, ordered, "in another order 60 of 60 would be right: the model answers '[a-z]+' for images"),
        ((*ordered[1:], ordered[0]), ordered, "with the labels moved by one"),
    )):  # fmt: skip
        path = write_model(tmp_path / f"{number}.xml", names=outputs)
        (warning,) = bring(path, images, tmp_path / f"run{number}", names=given).warnings
        assert re.search(advice, warning)


def test_without_labelled_images_the_causes_are_listed(images, script, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in COLOURS:
        (flat / f"{name}.png").write_bytes((images / name / "0.png").read_bytes())
    path = write_model(tmp_path / "net.xml", white=255)
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS))
    options = ["--model", path, "--labels", tmp_path / "labels.txt", "--images", flat, "--out", tmp_path / "run"]
    told = script("import_model", *options).stdout
    line = next(line for line in told.splitlines() if line.startswith("warning: "))
    assert "all 6 images get the label 'night'" in line
    for cause in ("scaled twice", "BGR", "squashed", "labels in another order", "images in class folders would tell"):
        assert cause in line


def test_a_setting_that_is_hardly_better_is_no_remedy(tmp_path):
    """One class is right in the other order of channels; all others look alike, so that at most one of them is."""
    images = write_images(tmp_path / "images", lambda colour: colour * 0 + COLOURS["grass"])
    for path in (images / "amber").iterdir():
        Image.new("RGB", (20, 24), COLOURS["amber"][::-1]).save(path)
    (warning,) = bring(write_model(tmp_path / "net.xml"), images, tmp_path / "run").warnings
    assert "as many as by guessing (10), and no common setting" in warning


def test_images_of_something_else_have_no_remedy(tmp_path):
    brown = write_images(tmp_path / "images", lambda colour: colour * 0 + COLOURS["brown"])
    (warning,) = bring(write_model(tmp_path / "net.xml"), brown, tmp_path / "run").warnings
    assert (
        "all 60 images get the label 'brown', and no common setting gives clearly more right answers; likely causes"
        in warning
    )
