"""The benchmarks' machinery on tiny inputs; nothing here is timed, and no number is judged."""

import dataclasses
import gzip
import json
import re
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.photographs import write_photographs
from benchmarks.render import pages, render, tables
from benchmarks.results import Result, kept, origin, read_result, summarise, write_result
from benchmarks.training.accuracy import OFF, PLAIN, VARIANTS, Accuracy, contenders, variant_settings
from benchmarks.training.data import NAMES, choose, read_idx, write_fashion_mnist, write_slice, write_tuning_set
from benchmarks.training.runs import NO_AUGMENTATION, Pace, flags, warm_values
from benchmarks.training.throughput import Throughput, measure
from marquee.training.core.errors import DataError, TrainingError
from marquee.training.tasks.image_classification.config import AugmentConfig
from tests.conftest import ROOT
from tests.forked import Forked

EACH = 8
TINY = (
    "--model.arch cnn4_w8 --loop.epochs 1 --loop.batch-size 8 --loop.workers 0 --split.val 0.25 --loop.precision fp32"
).split()


def idx(values: np.ndarray) -> bytes:
    """A gzipped idx file."""
    return gzip.compress(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes(), 1)


def write_source(folder: Path, parts: tuple[str, ...]) -> Path:
    """Files as Debian's package has them, with EACH images of each class."""
    folder.mkdir()
    for number, part in enumerate(parts):
        labels = np.arange(EACH * len(NAMES), dtype=np.uint8) % len(NAMES)
        images = np.random.default_rng(number).integers(0, 256, (len(labels), 28, 28), np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    return folder


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source", ("train", "t10k"))


def test_an_idx_file_is_read_as_its_header_says(tmp_path):
    values = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a.gz").write_bytes(idx(values))
    assert np.array_equal(read_idx(tmp_path / "a.gz"), values)


@pytest.mark.parametrize(
    "content",
    [b"no gzip", idx(np.zeros((2, 2), np.uint8))[:-12], gzip.compress(b""), gzip.compress(b"\0\0\x08\x01\0")],
    ids=["no gzip", "cut off", "empty", "half a header"],
)
def test_a_damaged_idx_file_is_one_line(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.gz: .*install the Debian package dataset-fashion-mnist"):
        read_idx(tmp_path / "a.gz")


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(DataError, match="install the Debian package dataset-fashion-mnist"):
        write_fashion_mnist(tmp_path / "data", tmp_path)
    assert not (tmp_path / "data").exists()


def test_fashion_mnist_becomes_class_folders(tmp_path, source):
    write_fashion_mnist(tmp_path / "data", source)
    images = read_idx(source / "t10k-images-idx3-ubyte.gz")
    first_bag = NAMES.index("Bag")
    written = tmp_path / "data" / "test" / "Bag" / f"{EACH * 10 + first_bag:05d}.png"
    assert np.array_equal(np.asarray(Image.open(written)), images[first_bag])
    for split in ("train", "test"):
        assert {path.name for path in (tmp_path / "data" / split).iterdir()} == set(NAMES)
        assert len(list((tmp_path / "data" / split).rglob("*.png"))) == EACH * 10
    # Only once: what is there stays, even without the source.
    written.unlink()
    write_fashion_mnist(tmp_path / "data", tmp_path / "nowhere")
    assert not written.exists()


def test_tuning_never_opens_the_test_images(tmp_path):
    source = write_source(tmp_path / "train only", ("train",))
    write_tuning_set(tmp_path / "data", source, held_out=2)
    numbers = {split: {path.stem for path in (tmp_path / "data" / split).rglob("*.png")} for split in ("train", "test")}
    assert len(numbers["test"]) == 20
    assert numbers["train"] | numbers["test"] == {f"{i:05d}" for i in range(EACH * 10)}
    assert not numbers["train"] & numbers["test"]


def test_splits_are_disjoint_balanced_and_seeded():
    labels = np.repeat([0, 1, 2], 10)
    parts = choose(labels, {"train": 4, "val": 2}, seed=1)
    assert [np.bincount(labels[part]).tolist() for part in parts.values()] == [[4] * 3, [2] * 3]
    assert not set(parts["train"]) & set(parts["val"])
    assert np.array_equal(parts["train"], choose(labels, {"train": 4, "val": 2}, seed=1)["train"])
    assert not np.array_equal(parts["train"], choose(labels, {"train": 4, "val": 2}, seed=2)["train"])
    with pytest.raises(DataError, match="10 images, but 11"):
        choose(labels, {"train": 11})


MACHINE = {"cpu": "A CPU", "cores": 2, "isa": "AVX2", "isa_flags": ["avx2"], "threads": 2, "load": 0.0}
SERIES = {
    "plain": {"images_per_second": [10.0, 20.0, 40.0]},
    "ours": {"images_per_second": [30.0, 40.0, 60.0], "data_share": [0.1, 0.2, 0.3]},
}


def made(folder: Path, series=SERIES, baseline="plain", name="throughput") -> Result:
    source = {**origin(name), "machine": MACHINE, "date": "2026-01-02T03:04:05+00:00", "command": "python -m x"}
    return read_result(write_result(folder, source, {"arch": "resnet18"}, series, baseline))


def test_a_result_says_where_it_comes_from(tmp_path):
    source = origin("a")
    result = read_result(write_result(tmp_path, source, {"lr": 1}, {"x": {"m": [1.0]}}))
    assert result == {**source, "settings": {"lr": 1}, "rounds": 1, "baseline": "", "series": {"x": {"m": [1.0]}}}
    assert result["machine"]["threads"] > 0
    assert {"command", "date", "commit", "versions"} <= set(result)


def test_a_ratio_is_taken_within_each_round(tmp_path):
    summary = summarise(made(tmp_path), "ours", "images_per_second")
    assert (summary.median, summary.low, summary.high, summary.ratio) == (40, 30, 60, 2.0)
    # 5, 2 and 2; the medians' own ratio would be 2.5.
    result = made(tmp_path, {"a": {"m": [1.0, 10.0, 2.0]}, "b": {"m": [5.0, 20.0, 4.0]}}, "a")
    assert summarise(result, "b", "m").ratio == 2.0
    assert summarise(made(tmp_path, {"a": {"m": [0.0]}, "b": {"m": [1.0]}}, "a"), "b", "m").ratio is None
    assert summarise(made(tmp_path, baseline="nobody"), "ours", "images_per_second").ratio is None
    assert summarise(result, "b", "other") is None


def test_a_result_that_lacks_a_round_is_refused(tmp_path):
    made(tmp_path)
    path = tmp_path / "throughput.json"
    document = json.loads(path.read_text())
    document["series"]["ours"]["data_share"].pop()
    path.write_text(json.dumps(document))
    with pytest.raises(TrainingError, match=r"throughput\.json: .*ours, data_share: 2 values in 3 rounds"):
        read_result(path)
    path.write_text("{}")
    with pytest.raises(TrainingError, match="repeat the benchmark"):
        read_result(path)


def test_the_table_shows_medians_ranges_ratios_and_the_machine(tmp_path):
    lines = tables(made(tmp_path)).splitlines()
    assert lines[0] == "|  | images/s | beside plain | waiting for data |"
    assert lines[2] == "| plain | 20.0 (10.0 to 40.0) | 1.00x | – |"
    assert lines[3] == "| ours | 40.0 (30.0 to 60.0) | 2.00x | 20 % (10 % to 30 %) |"
    assert "A CPU, 2 cores, AVX2" in lines[5]
    assert "2026-01-02" in lines[5]
    assert lines[6] == "`python -m x`"


def test_accuracies_are_compared_by_difference(tmp_path):
    result = made(tmp_path, {"plain": {"test_accuracy": [0.9]}, "ours": {"test_accuracy": [0.925]}})
    assert "| plain | 90.00 % | – |\n| ours | 92.50 % | +2.50 points |" in tables(result)
    assert "One run; A CPU" in tables(result)


def test_the_page_is_filled_in_again_and_again(tmp_path):
    page, results = tmp_path / "README.md", tmp_path / "results"
    page.write_text("a\n<!-- results: throughput -->\n<!-- end -->\nb\n<!-- results: other -->\nold\n<!-- end -->\nc\n")
    made(results)
    text = render(page)
    assert text.count("| ours |") == 1
    assert "old" not in text
    assert "Not measured yet." in text
    assert re.sub(r"<!-- results.*?end -->", "", text, flags=re.DOTALL) == "a\n\nb\n\nc\n"
    page.write_text(text)
    assert render(page) == text
    made(results, name="homeless")
    with pytest.raises(TrainingError, match="no place"):
        render(page)


def test_the_projects_own_pages_are_what_their_result_files_give():
    assert {page.parent.name for page in pages()} >= {"training", "optimize", "serving"}
    for page in pages():
        assert render(page) == page.read_text("utf-8"), page


def test_a_pace_counts_every_image_once_and_the_first_epoch_is_left_out():
    pace = Pace()
    assert [labels for _, labels in pace.batches([("x", [1, 2]), ("y", [3])])] == [[1, 2], [3]]
    (epoch,) = pace.epochs
    assert epoch["images_per_second"] * epoch["seconds"] == pytest.approx(3)
    assert 0 <= epoch["data_seconds"] <= epoch["seconds"]
    warm = [
        {"images_per_second": 10.0, "seconds": 2.0, "data_seconds": 1.0},
        {"images_per_second": 20.0, "seconds": 8.0, "data_seconds": 1.0},
    ]
    assert warm_values([epoch, *warm]) == {"images_per_second": 18.0, "data_share": 0.2}


def test_kept_values_are_not_computed_again(tmp_path):
    path = tmp_path / "kept" / "a.json"
    assert kept(path, {"lr": 1}, lambda: {"accuracy": 0.5}) == {"accuracy": 0.5}
    assert kept(path, {"lr": 1}, lambda: pytest.fail("computed again")) == {"accuracy": 0.5}
    with pytest.raises(TrainingError, match="other settings"):
        kept(path, {"lr": 2}, lambda: pytest.fail("computed again"))


def test_photographs_have_their_size_and_are_made_once(tmp_path):
    make = partial(write_photographs, size=(64, 48), count=9)
    paths = make(tmp_path / "a")
    before = [path.read_bytes() for path in paths]
    assert before == [path.read_bytes() for path in make(tmp_path / "b")]
    assert before != [path.read_bytes() for path in make(tmp_path / "c", grain=6.0)]
    assert {Image.open(path).size for path in paths} == {(64, 48)}
    paths[0].write_bytes(b"mine")
    assert make(tmp_path / "a")[0].read_bytes() == b"mine"
    by_class = make(tmp_path / "d", by_class=True)
    assert [path.read_bytes() for path in by_class] == before
    assert by_class[0].parent.name == by_class[7].parent.name != by_class[1].parent.name


def test_no_kind_of_augmentation_is_forgotten():
    strengths = {"augment.crop_ratio", "augment.mix_probability"}
    fields = {f"augment.{field.name}" for field in dataclasses.fields(AugmentConfig)}
    assert fields - strengths <= set(NO_AUGMENTATION) <= fields
    assert flags({"augment.crop_scale": 1, "loop.compile": True}) == ["--augment.crop-scale", "1", "--loop.compile"]


def test_each_variant_switches_the_others_off():
    assert set(VARIANTS) == {"none", "all", *(f"{name} only" for name in OFF)}
    only = variant_settings("dropout only", "fashion-mnist")
    assert "model.dropout" not in only
    assert only["augment.rotation"] == only["augment.horizontal_flip"] == only["optimizer.weight_decay"] == 0
    assert variant_settings("all", "fashion-mnist")["augment.horizontal_flip"] == 0.5
    assert variant_settings("none", "digits")["model.dropout"] == 0


@pytest.fixture
def forked(monkeypatch):
    """The benchmark's processes need not import torch."""
    monkeypatch.setattr(subprocess, "Popen", Forked)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("settings", "contender", "small", "metrics"),
    [
        (Accuracy(epochs=1), PLAIN, {"arch": "cnn4_w8"}, {"test_accuracy"}),
        (
            Accuracy(epochs=1, regularisers=True),
            "dropout only",
            {"model.arch": "cnn4_w8", "loop.workers": 0},
            {"train_accuracy", "test_accuracy", "gap", "test_nll"},
        ),
    ],
)
def test_accuracy_runs_a_contender_of_each_process(tmp_path, settings, contender, small, metrics):
    write_slice(tmp_path / "data", "digits", {"train": 8, "val": 4, "test": 4})
    how, used = contenders(settings)[contender]
    values = how({**used, **small}, tmp_path / "data", tmp_path / "run", 1)
    assert set(values) == metrics
    assert 0 <= values["test_accuracy"] <= 1
    assert values.get("gap") == (values["train_accuracy"] - values["test_accuracy"] if "gap" in metrics else None)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_fashion_mnist_from_files_to_a_result(tmp_path, source):
    place = ["--source", source, "--data", tmp_path, "--out", tmp_path / "run", "--results", tmp_path / "results"]
    command = [sys.executable, "-m", "benchmarks.training.fashion_mnist", *map(str, place), *TINY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "results" / "fashion_mnist.json")
    values = result["series"]["fashion_mnist"]
    assert {"test_accuracy", "val_accuracy", "epochs", "train_minutes", "wall_minutes"} == set(values)
    assert values["epochs"] == [1.0]
    assert result["command"].startswith("python -m benchmarks.training.fashion_mnist --source ")
    assert result["settings"]["config"]["model"]["arch"] == "cnn4_w8"
    assert result["settings"]["measured_on"] == "80 test images, once"


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_throughput_compares_all_kinds_of_contenders(tmp_path):
    chosen = ("torchvision-style fp32", "timm bf16 channels_last", "marquee bf16 cache progressive")
    small = Throughput(arch="cnn4_w8", size=32, batch_size=8, images=16, workers=0, rounds=1, contenders=chosen)
    result = read_result(measure(dataclasses.replace(small, work=tmp_path, results=tmp_path)))
    assert tuple(result["series"]) == chosen
    assert all(metrics["images_per_second"][0] > 0 for metrics in result["series"].values())
    assert len(list((tmp_path / "photos-16" / "train").rglob("*.jpg"))) == 16


def test_wrong_numbers_and_names_are_refused():
    with pytest.raises(ValueError, match="rounds: expected at least 1"):
        Throughput(rounds=0)
    with pytest.raises(ValueError, match="images: expected at least 32"):
        Throughput(images=31)
    with pytest.raises(TrainingError, match="contender 'nobody': unknown"):
        measure(Throughput(contenders=("nobody",)))
