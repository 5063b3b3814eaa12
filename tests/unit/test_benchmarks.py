"""The benchmarks' machinery on tiny inputs; nothing here is timed, and no number is judged."""

import dataclasses
import gzip
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.kept import kept
from benchmarks.render import PAGE, SERVER_PAGE, fill_page, render, table
from benchmarks.results import RESULTS, Machine, Origin, Result, read_result, summarise, write_result
from benchmarks.serving.archives import RESULTS as SERVER_RESULTS
from benchmarks.training.class_folders import choose, write_class_folders
from benchmarks.training.fashion import NAMES, read_idx, write_fashion_mnist, write_tuning_set
from benchmarks.training.overfitting import OFF, VARIANTS, flags_of
from benchmarks.training.pace import Pace, as_epoch, warm_values
from benchmarks.training.processes import NO_AUGMENTATION, supported_flags
from marquee.training.config import AugmentConfig
from marquee.training.errors import DataError, TrainingError
from tests.conftest import ROOT

EACH = 8
TINY = (
    "--model.arch test_resnet --loop.epochs 1 --loop.batch-size 8 --loop.workers 0 --split.val 0.25 "
    "--loop.precision fp32"
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
    [
        b"no gzip",
        idx(np.zeros((2, 2), np.uint8))[:-12],
        gzip.compress(b""),
        gzip.compress(b"\0\0\x08"),
        gzip.compress(struct.pack(">HBBI", 0, 8, 1, 5) + bytes(4)),
        gzip.compress(struct.pack(">HBBI", 0, 0x0D, 1, 4) + bytes(4)),
    ],
    ids=["not gzip", "cut off", "empty", "short header", "too few values", "floats"],
)
def test_a_damaged_idx_file_is_one_line(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.gz: .*dataset-fashion-mnist again"):
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


def test_a_data_set_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(IndexError):
        write_class_folders(tmp_path / "d", np.zeros((1, 2, 2), np.uint8), np.zeros(1, int), ["a"], {"t": [0, 1]})
    assert list(tmp_path.iterdir()) == []


MACHINE = Machine(cpu="A CPU", cores=2, isa="AVX2", isa_flags=("avx2",), threads=2, platform="Linux", load=0.0)
SERIES = {
    "plain": {"images_per_second": [10.0, 20.0, 40.0]},
    "ours": {"images_per_second": [30.0, 40.0, 60.0], "data_share": [0.1, 0.2, 0.3]},
}


def make(series=SERIES, baseline="plain", name="throughput") -> Result:
    return Origin(
        benchmark=name, command="python -m x", date="2026-01-02T03:04:05+00:00", commit="abc", machine=MACHINE
    ).result({"arch": "resnet18"}, series, baseline)


def test_a_ratio_is_taken_within_each_round():
    summary = summarise(SERIES, "plain")["ours"]["images_per_second"]
    assert (summary.median, summary.low, summary.high) == (40, 30, 60)
    assert summary.ratio == 2.0
    # 5, 2 and 2; the medians' own ratio would be 2.5.
    assert summarise({"a": {"m": [1.0, 10.0, 2.0]}, "b": {"m": [5.0, 20.0, 4.0]}}, "a")["b"]["m"].ratio == 2.0
    assert summarise({"a": {"m": [0.0]}, "b": {"m": [1.0]}}, "a")["b"]["m"].ratio is None
    assert summarise(SERIES)["ours"]["images_per_second"].ratio is None


def test_a_result_file_reads_back_equal(tmp_path):
    result = make()
    assert read_result(write_result(tmp_path, result)) == result
    document = json.loads((tmp_path / "throughput.json").read_text())
    assert {"command", "machine", "versions", "date", "commit", "settings", "rounds", "series", "summary"} <= set(
        document
    )
    assert document["machine"]["isa"] == "AVX2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["series"]["ours"]["images_per_second"].pop(), "2 values in 3 rounds"),
        (lambda d: d["series"]["ours"]["images_per_second"].__setitem__(1, 90.0), "does not follow"),
        (lambda d: d.__setitem__("baseline", "nobody"), "'nobody' is not one"),
        (lambda d: d["machine"].pop("cpu"), r"machine\.cpu: missing"),
        (lambda d: d.__setitem__("schema_version", 2), "schema_version"),
    ],
)
def test_a_result_that_was_edited_is_refused(tmp_path, change, message):
    path = write_result(tmp_path, make())
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(TrainingError, match=rf"throughput\.json: .*{message}"):
        read_result(path)


def test_the_table_shows_medians_ranges_ratios_and_the_machine():
    lines = table(make()).splitlines()
    assert lines[0] == "|  | images/s | beside plain | waiting for data |"
    assert lines[2] == "| plain | 20.0 (10.0 to 40.0) | 1.00x | – |"
    assert lines[3] == "| ours | 40.0 (30.0 to 60.0) | 2.00x | 20 % (10 % to 30 %) |"
    assert "A CPU, 2 cores, AVX2" in lines[5]
    assert "2026-01-02" in lines[5]
    assert lines[6] == "`python -m x`"


def test_accuracies_are_compared_by_difference():
    result = make({"plain": {"test_accuracy": [0.9]}, "ours": {"test_accuracy": [0.925]}}, name="accuracy_digits")
    assert "| plain | 90.00 % | – |\n| ours | 92.50 % | +2.50 points |" in table(result)
    assert "One run; A CPU" in table(result)


def test_the_page_is_filled_in_again_and_again(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("a\n<!-- results: throughput -->\n<!-- end -->\nb\n<!-- results: other -->\nold\n<!-- end -->\nc\n")
    assert fill_page(check=True, page=page, results=tmp_path) == 1
    write_result(tmp_path, make())
    assert fill_page(page=page, results=tmp_path) == 0
    text = page.read_text()
    assert text.count("| ours |") == 1
    assert "old" not in text
    assert "Not measured yet." in text
    assert re.sub(r"<!-- results.*?end -->", "", text, flags=re.DOTALL) == "a\n\nb\n\nc\n"
    assert fill_page(check=True, page=page, results=tmp_path) == 0
    write_result(tmp_path, make(name="homeless"))
    with pytest.raises(TrainingError, match="no place"):
        render(text, tmp_path)


def test_the_projects_own_page_is_what_its_result_files_give():
    for page, results in ((PAGE, RESULTS), (SERVER_PAGE, SERVER_RESULTS)):
        assert render(page.read_text("utf-8"), results) == page.read_text("utf-8")


def test_the_first_epoch_is_left_out():
    epochs = [
        {"images_per_second": 1.0, "seconds": 100.0, "data_seconds": 90.0},
        {"images_per_second": 10.0, "seconds": 2.0, "data_seconds": 1.0},
        {"images_per_second": 20.0, "seconds": 8.0, "data_seconds": 1.0},
    ]
    assert warm_values(epochs) == {"images_per_second": 18.0, "data_share": 0.2}
    for epoch in epochs:
        del epoch["data_seconds"]
    assert warm_values(epochs) == {"images_per_second": 18.0}


def test_a_pace_counts_every_image_once():
    pace = Pace()
    assert [labels for _, labels in pace.batches([("x", [1, 2]), ("y", [3])])] == [[1, 2], [3]]
    assert pace.images == 3
    assert 0 <= pace.data_seconds <= pace.seconds
    assert as_epoch(pace)["seconds"] == pace.seconds


def test_kept_values_are_not_computed_again(tmp_path):
    path = tmp_path / "kept" / "a.json"
    assert kept(path, {"lr": 1}, lambda: {"accuracy": 0.5}) == {"accuracy": 0.5}
    assert kept(path, {"lr": 1}, lambda: pytest.fail("computed again")) == {"accuracy": 0.5}
    with pytest.raises(TrainingError, match="other settings"):
        kept(path, {"lr": 2}, lambda: pytest.fail("computed again"))
    path.write_text("[]")
    with pytest.raises(TrainingError, match="remove it"):
        kept(path, {"lr": 1}, dict)


def test_no_kind_of_augmentation_is_forgotten():
    strengths = {"augment.crop_ratio", "augment.mix_probability"}
    fields = {f"augment.{field.name}" for field in dataclasses.fields(AugmentConfig)}
    assert fields - strengths <= set(NO_AUGMENTATION)
    assert supported_flags({"augment.crop_scale": 1, "augment.of_next_year": 2}) == ["--augment.crop-scale", "1"]


def test_each_variant_switches_the_others_off():
    assert set(VARIANTS) == {"none", "all", *(f"{name} only" for name in OFF)}
    assert "--model.dropout" not in flags_of("dropout only", "digits", [])
    assert "--augment.rotation" in flags_of("dropout only", "digits", [])
    assert flags_of("all", "fashion-mnist", ["--loop.epochs", "1"]) == ["--loop.epochs", "1"]
    # A variant is what it is called, whatever else is asked for.
    assert flags_of("none", "digits", ["--model.dropout", "0.5"])[-6:-4] == ["--model.dropout", "0"]


def command(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", f"benchmarks.training.{name}", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_fashion_mnist_from_files_to_a_result(tmp_path, source):
    place = ["--source", source, "--data", tmp_path, "--out", tmp_path / "run", "--results", tmp_path / "results"]
    done = command("fashion_mnist", *place, *TINY)
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "results" / "fashion_mnist.json")
    values = result.series["fashion_mnist"]
    assert {"test_accuracy", "val_accuracy", "epochs", "train_minutes", "wall_minutes"} == set(values)
    assert values["epochs"] == [1.0]
    assert result.settings["config"]["model"]["arch"] == "test_resnet"
    assert result.settings["measured_on"] == "80 test images, once"


@pytest.mark.slow
def test_throughput_compares_all_kinds_of_contenders(tmp_path):
    chosen = ["torchvision-style fp32", "timm bf16 channels_last", "marquee fp32", "marquee bf16 cache progressive"]
    small = "--arch test_resnet --size 32 --batch-size 8 --images 16 --workers 0 --rounds 1".split()
    done = command("throughput", "--work", tmp_path, "--results", tmp_path, *small, "--contenders", *chosen)
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "throughput.json")
    assert list(result.series) == chosen
    assert all(len(metrics["images_per_second"]) == 1 for metrics in result.series.values())
    assert len(list((tmp_path / "photos-16" / "train").rglob("*.jpg"))) == 16


def test_a_wrong_number_is_a_usage_error(tmp_path):
    done = command("throughput", "--rounds", "0", "--work", tmp_path, "--results", tmp_path)
    assert done.returncode == 2
    assert "rounds: expected at least 1" in done.stderr


def test_an_unknown_contender_is_one_line(tmp_path):
    done = command("throughput", "--work", tmp_path, "--results", tmp_path, "--contenders", "nobody")
    assert done.returncode == 1
    assert done.stderr.startswith("error: contender 'nobody': unknown")
    assert len(done.stderr.splitlines()) == 1
