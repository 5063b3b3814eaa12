"""``marquee evaluate`` measures what the run has not seen, by the images' content."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from marquee.commands.evaluate import main
from marquee.training.core.errors import DataError
from marquee.training.core.run import train
from tests.unit.tiny import manifest_of, settings


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    """Ten of the photographs: seven to learn from, three to choose by."""
    out = tmp_path_factory.mktemp("runs") / "ab"
    train(settings("cnn4_w8"), None, out, manifest=manifest_of(photos[:10], "ab"))
    return out


@pytest.fixture
def folder(photos, tmp_path) -> Path:
    """All twelve, in other places and under other names."""
    for number, path in enumerate(photos):
        place = tmp_path / "all" / "ab"[number % 2] / f"copy {number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return tmp_path / "all"


@pytest.fixture
def evaluate(monkeypatch, capsys):
    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["marquee evaluate", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return call


def test_only_what_is_new_to_it(run, folder, evaluate, tmp_path):
    metrics = json.loads(evaluate(run, "--data", folder, "--json", "--predictions", tmp_path / "p.csv"))
    assert metrics["images"] == 2
    assert metrics["seen"] == {"train": 7, "val": 3, "measured": False}
    listed = (tmp_path / "p.csv").read_text()
    assert "copy 10.png" in listed
    assert "copy 11.png" in listed
    assert len(listed.splitlines()) == 3


def test_all_of_them_when_asked(run, folder, evaluate):
    metrics = json.loads(evaluate(run / "bundle", "--data", folder, "--json", "--seen"))
    assert metrics["images"] == 12
    assert metrics["seen"] == {"train": 7, "val": 3, "measured": True}


def test_people_read_what_it_means(run, folder, evaluate):
    shown = {line.split("  ")[0]: line for line in evaluate(run, "--data", folder).splitlines()}
    assert shown["seen"].split(maxsplit=4)[1:4] == ["7", "+", "3"]
    assert "--seen measures them, too" in shown["seen"]
    assert "calibration error" in shown["ece"]
    assert "log-likelihood" in shown["nll"]
    assert all(len(shown[name].split()) > 4 for name in ("accuracy", "balanced_accuracy", "auroc", "brier"))
    shown = {line.split("  ")[0]: line for line in evaluate(run, "--data", folder, "--seen").splitlines()}
    assert "measured with the others" in shown["seen"]


def test_a_test_split_is_preferred(run, folder, evaluate):
    """Of the twelve, three lie in test/, and the run was trained on one of these."""
    for number in (9, 10, 11):
        (old,) = folder.rglob(f"copy {number}.png")
        new = folder.parent / "split" / "test" / old.parent.name / old.name
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(old, new)
    shutil.move(folder, folder.parent / "split" / "train")
    metrics = json.loads(evaluate(run, "--data", folder.parent / "split", "--json"))
    assert metrics["images"] == 2
    assert metrics["seen"] == {"train": 1, "val": 0, "measured": False}


def test_nothing_is_left(run, folder, evaluate):
    for number in (10, 11):
        next(folder.rglob(f"copy {number}.png")).unlink()
    with pytest.raises(DataError, match="the run has seen all 10 images.* --seen") as caught:
        evaluate(run, "--data", folder)
    assert "\n" not in str(caught.value)


def test_a_bundle_without_its_run(run, folder, evaluate, tmp_path):
    shutil.copytree(run / "bundle", tmp_path / "alone")
    assert json.loads(evaluate(tmp_path / "alone", "--data", folder, "--json"))["seen"] is None
    shown = {line.split("  ")[0]: line for line in evaluate(tmp_path / "alone", "--data", folder).splitlines()}
    assert "all images were measured" in shown["seen"]
    assert shown["images"].split()[1] == "12"


def test_a_bundle_that_cannot_be_put_in_its_place_leaves_the_answers_of_the_one_before(run, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    shutil.rmtree(out / "bundle")
    (out / "bundle").symlink_to("nowhere")  # no folder can be renamed to that
    answers = out / "predictions.csv"
    answers.write_text("of the bundle before")
    config = settings("cnn4_w8")
    with pytest.raises(NotADirectoryError):
        train(replace(config, loop=replace(config.loop, epochs=2)), None, out, resume=True)
    assert answers.read_text() == "of the bundle before"
    assert not list(out.glob(".bundle*"))
