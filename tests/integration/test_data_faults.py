"""Faults of a data set through the commands: what is refused, what is told, and what report and card say of it."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import QUICK

ONCE = [*QUICK, "--report", "--loop.epochs", 1, "--export.unfamiliar", 0]


def copy(digits: Path, target: Path, digit: int, count: int, start: int = 0) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted((digits / "train" / str(digit)).glob("*.png"))[start : start + count]:
        shutil.copyfile(path, target / path.name)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def overlapping(digits, tmp_path_factory) -> Path:
    """All test images are in train, too; three files of a class are bad; one image has two labels."""
    data = tmp_path_factory.mktemp("overlapping") / "data"
    for digit in (0, 1):
        copy(digits, data / "train" / str(digit), digit, 20)
        copy(digits, data / "test" / str(digit), digit, 8)
    for i in range(3):
        (data / "train" / "1" / f"bad{i}.png").write_bytes(b"nope")
    twice = sorted((data / "train" / "0").iterdir())[-1]
    shutil.copyfile(twice, data / "train" / "1" / f"zero-{twice.name}")
    return data


def test_splits_that_overlap_are_refused(overlapping, script, tmp_path):
    out = tmp_path / "out"
    for command, *arguments in (
        ("train", "--data", overlapping, "--out", out),
        ("select_model", overlapping, "--out", out),
        ("find_lr", "--data", overlapping),
    ):
        result = script(command, *arguments, check=False)
        assert result.returncode == 1
        (line,) = result.stderr.strip().splitlines()
        assert "error: " in line
        assert "16 of 16 test images are also in train" in line
        assert "--checks.overlap drop" in line
    assert not out.exists()


def test_splits_that_overlap_are_told(overlapping, script, tmp_path):
    run = tmp_path / "run"
    result = script("train", "--data", overlapping, "--out", run, *ONCE, "--checks.overlap", "allow")
    assert "16 of 16 test images are also in train" in result.stderr
    page, card = (run / "report.html").read_text(), (run / "MODEL_CARD.md").read_text()
    for text in (page, card):
        assert "16 of 16 test images are also in train" in text
        assert "2 files were left out since the same image lies under several labels" in text
    assert "4 of 32 files of class" in result.stderr
    assert "Left out: 4 of 32 files of class" in card
    assert ">Left out</th>" in page
    assert (run / "config.yaml").read_text().count("overlap: allow") == 1


def test_copies_are_left_out(overlapping, script, tmp_path):
    run = tmp_path / "run"
    result = script("train", "--data", overlapping, "--out", run, *ONCE, "--checks.overlap", "drop")
    assert "the copies, 16 files, are left out of train" in result.stderr
    listed = rows(run / "rejected.csv")
    reasons = Counter((row["reason"].split(":")[0].split(" ")[0], row["class"], row["split"]) for row in listed)
    assert reasons == {
        ("not_an_image", "1", "train"): 3,
        ("the", "0", "train"): 1,
        ("the", "1", "train"): 1,
        ("a", "0", "train"): 8,
        ("a", "1", "train"): 8,
    }
    splits: dict[str, set[str]] = {}
    for row in rows(run / "manifest.csv"):
        splits.setdefault(row["sha256"], set()).add(row["split"])
    assert {len(found) for found in splits.values()} == {1}
    page, card = (run / "report.html").read_text(), (run / "MODEL_CARD.md").read_text()
    assert "are also in train" not in page + card
    assert "16 files were left out since they are copies of evaluated images" in card
    # A run that began before rejected.csv had classes has a report, too.
    (run / "rejected.csv").write_text("path,reason\n/a.png,bad\n")
    script("report", run)


def test_a_class_that_is_lost(digits, script, tmp_path):
    data = tmp_path / "data"
    for digit in (0, 1):
        copy(digits, data / str(digit), digit, 10)
    (data / "cat").mkdir()
    for i in range(5):
        (data / "cat" / f"{i}.jpg").write_bytes(b"nope")
    result = script("train", "--data", data, "--out", tmp_path / "run", *ONCE, check=False)
    assert result.returncode == 1
    assert "class 'cat' has no usable image: all of its 5 files are left out" in result.stderr.splitlines()[-1]
    assert "--checks.lost-classes allow" in result.stderr
    result = script("train", "--data", data, "--out", tmp_path / "run", *ONCE, "--checks.lost-classes", "allow")
    assert "left out: 5 of 5 files of class 'cat'" in result.stderr
    assert "20 images of 2 classes, the smallest '0' with 10: " in result.stderr
    for name in ("report.html", "MODEL_CARD.md"):
        assert "5 of 5 files of class" in (tmp_path / "run" / name).read_text()


def test_a_run_in_its_data(digits, script, tmp_path):
    copy(digits, tmp_path / "data" / "0", 0, 5)
    copy(digits, tmp_path / "data" / "1", 1, 5)
    for command, *data in (("train", "--data", tmp_path / "data"), ("select_model", tmp_path / "data")):
        result = script(command, *data, "--out", tmp_path / "data" / "run", check=False)
        assert result.returncode == 1
        assert "lies in the data set" in result.stderr
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["0", "1"]


NAMES = ["label", "path", "predicted", 'a, "b"', "=1+1", "two\nlines", "Ic\ron", "x|y", "p(label)", "<b>", "$a_b*"]


@pytest.fixture(scope="module")
def odd_names(digits, script, tmp_path_factory) -> tuple[Path, Path]:
    """A data set with odd class names, and a run on it."""
    folder = tmp_path_factory.mktemp("names")
    for number, name in enumerate(NAMES):
        copy(digits, folder / "data" / name, number % 10, 8, start=8 * (number // 10))
    script("train", "--data", folder / "data", "--out", folder / "run", *ONCE)
    return folder / "data", folder / "run"


def test_odd_names_of_classes(odd_names, script):
    data, run = odd_names
    for listing in ("manifest.csv", "predictions.csv"):
        with open(run / listing, newline="", encoding="utf-8") as stream:
            table = list(csv.reader(stream))
        assert len(set(table[0])) == len(table[0])
        assert {len(row) for row in table} == {len(table[0])}
        assert {row["label"] for row in rows(run / listing)} == set(NAMES)
    answers = rows(run / "predictions.csv")
    assert all(row["predicted"] in NAMES for row in answers)
    assert all(sum(map(float, list(row.values())[3:])) == pytest.approx(1, abs=1e-6) for row in answers)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert sorted(row["label"] for row in evaluation["per_class"]) == sorted(NAMES)
    page, card = (run / "report.html").read_text(), (run / "MODEL_CARD.md").read_text()
    assert "&lt;b&gt;" in page
    assert "<b></bdi>" not in page
    assert card.count("\n| ") >= len(NAMES)
    shown = script("evaluate", run, "--data", data, "--seen").stdout
    assert "two\\nlines" in shown
    assert "two\nlines" not in shown


def test_one_class_alone_is_evaluated(odd_names, script, tmp_path):
    data, run = odd_names
    shutil.copytree(data / "label", tmp_path / "one" / "label")
    metrics = json.loads(script("evaluate", run, "--data", tmp_path / "one", "--seen", "--json").stdout)
    assert metrics["images"] == 8
    assert metrics["auroc"] is None
    assert metrics["balanced_accuracy"] == metrics["accuracy"]
    shown = script("evaluate", run, "--data", tmp_path / "one", "--seen").stdout
    assert "undefined" in shown
    (tmp_path / "high").mkdir()
    shutil.move(tmp_path / "one", tmp_path / "high" / "one")
    shutil.copytree(data / "path", tmp_path / "high" / "one" / "path")
    result = script("evaluate", run, "--data", tmp_path / "high", "--seen", check=False)
    assert result.returncode == 1
    assert f"did you mean --data {tmp_path / 'high' / 'one'}?" in result.stderr


def test_what_evaluation_loses_is_told(odd_names, script, tmp_path):
    data, run = odd_names
    shutil.copytree(data / "label", tmp_path / "data" / "label")
    (tmp_path / "data" / "path").mkdir()
    for i in range(30):
        (tmp_path / "data" / "path" / f"{i}.png").write_bytes(b"nope")
    shutil.copyfile(next((data / "label").iterdir()), tmp_path / "data" / "label" / "copy.png")
    result = script("evaluate", run, "--data", tmp_path / "data", "--seen")
    assert "class 'path' has no usable image" in result.stderr
    assert "1 of 9 images are copies of others" in result.stderr
    assert result.stdout.count("left out: ") == 21
    assert "left out: 10 more; --json lists all" in result.stdout


def test_more_classes_than_can_be_shown(digits, script, tmp_path):
    files = sorted((digits / "train").rglob("*.png"))
    for number in range(60):
        folder = tmp_path / "data" / f"class {number:02d}"
        folder.mkdir(parents=True)
        for path in files[4 * number : 4 * number + 4]:
            shutil.copyfile(path, folder / f"{path.parent.name}-{path.name}")
    run = tmp_path / "run"
    result = script("train", "--data", tmp_path / "data", "--out", run, *ONCE)
    assert len(result.stdout + result.stderr) < 6000
    shown = script("evaluate", run, "--data", tmp_path / "data", "--seen").stdout
    assert len(shown) < 5000
    assert "20 of 60 classes" in shown
    card = (run / "MODEL_CARD.md").read_text()
    assert "The 50 of 60 classes with the lowest recall; `evaluation.json` has all." in card
    assert card.count("\n| class ") == 50
