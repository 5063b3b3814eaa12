"""Images with several labels, from a table to a served answer."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marquee.handlers.core.predictor import Predictor
from tests.conftest import QUICK, SETTINGS

pytestmark = pytest.mark.slow  # what they share takes that long to make


@pytest.fixture(scope="module")
def pairs(digits, tmp_path_factory) -> Path:
    """A table of pictures that show two of the digits 0 to 3 side by side, or nothing."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    files = {label: sorted((digits / "train" / label).glob("*.png")) for label in "0123"}
    with open(folder / "table.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        for i in range(500):
            shown = rng.choice(list("0123"), 2) if i % 10 else []
            canvas = Image.new("L", (32, 32))
            canvas.putpixel((i % 32, i // 32), 1)  # so that those that show nothing are no copies of each other
            for place, label in enumerate(shown):
                with Image.open(files[label][rng.integers(len(files[label]))]) as digit:
                    canvas.paste(digit.resize((16, 16)), (16 * place, 8))
            canvas.save(folder / f"{i}.png")
            writer.writerow([f"{i}.png", "|".join(sorted(set(shown))) or "|"])
    return folder / "table.csv"


@pytest.fixture(scope="module")
def pairs_run(pairs, script, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pairs"
    flags = ["--report", "--model.multi-label", "--loss.name", "bce", "--loop.epochs", 6]
    script("train", "--data", pairs, "--out", out, *QUICK, *flags)
    return out


def test_it_learns_and_is_measured(pairs_run, pairs, script):
    evaluation = json.loads((pairs_run / "evaluation.json").read_text())
    assert evaluation["mean_average_precision"] > 0.8  # about 0.4 of the pictures show any one digit
    assert evaluation["f1_micro"] > 0.6
    assert [row["label"] for row in evaluation["per_class"]] == list("0123")
    assert "confusion_matrix" not in evaluation
    spec = json.loads((pairs_run / "bundle" / "spec.json").read_text())
    assert spec["task"] == "multi-label-classification"
    assert spec["output"]["labels"] == list("0123")
    shown = script("evaluate", pairs_run, "--data", pairs).stdout
    assert "mean_average_precision" in shown
    assert "confusion" not in shown
    page = (pairs_run / "report.html").read_text()
    assert "whose labels are all right" in page
    assert 'id="confusion"' not in page
    assert "all of whose labels are right" in (pairs_run / "MODEL_CARD.md").read_text()


def test_answers_have_the_labels(pairs_run):
    predictor = Predictor.load(pairs_run / "bundle")
    with open(pairs_run / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    answers = predictor.predict([Path(row["path"]).read_bytes() for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        assert "|".join(sorted(answer.labels)) == row["predicted"]
        assert all((answer.probabilities[i] >= 0.5) == (str(i) in answer.labels) for i in range(4))
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert right == pytest.approx(json.loads((pairs_run / "evaluation.json").read_text())["accuracy"])
    assert any(not answer.labels for answer in answers)
    assert any(len(answer.labels) == 2 for answer in answers)


def test_it_is_served(pairs_run, script, tmp_path, free_port):
    from marquee.serving import server

    store, state = tmp_path / "store", tmp_path / "state"
    script("package", pairs_run, "--name", "pairs", "--store", store)
    script("serve", "start", "pairs", "--store", store, "--state", state, "--port", free_port)
    try:
        with open(pairs_run / "predictions.csv", newline="") as stream:
            row = next(row for row in csv.DictReader(stream) if "|" in row["predicted"])
        for answer in (
            server.connect(state).predict("pairs", Path(row["path"]).read_bytes()),
            server.connect(state).predict_grpc("pairs", Path(row["path"]).read_bytes()),
        ):
            assert "|".join(sorted(answer.body["labels"])) == row["predicted"]
        shown = script("predict", "pairs", row["path"], "--state", state).stdout
        assert ", ".join(answer.body["labels"]) in shown
    finally:
        script("serve", "stop", "--state", state)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("find_lr", ["--steps", 20]), ("find_batch_size", ["--from", 256])])
def test_the_finders_take_several_labels(name, options, pairs, script):
    quick = [*SETTINGS[: SETTINGS.index("--loop.epochs")], "--model.multi-label", "--loss.name", "bce"]
    found = json.loads(script(name, "--data", pairs, "--json", *quick, *options).stdout)
    assert found["rates"] if name == "find_lr" else found["largest"] == 256


def test_what_is_refused(pairs, script, tmp_path):
    flags = ["--data", pairs, "--out", tmp_path / "x", *QUICK, "--model.multi-label"]
    result = script("train", *flags, check=False)
    assert result.returncode == 2
    assert "requires bce" in " ".join(result.stderr.replace("│", " ").split())
    result = script(
        "select_model", pairs, "--out", tmp_path / "y", "--model.multi-label", "--loss.name", "bce", check=False
    )
    assert result.returncode == 1
    assert "several labels are not supported" in result.stderr
