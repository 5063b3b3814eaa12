"""The report in a real browser, and the model card, of a real run."""

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from marquee.training.core.errors import TrainingError
from marquee.training.tasks.classification.metrics import classification_metrics
from marquee.training.tasks.image_classification.report import write_model_card, write_report
from marquee.training.tasks.image_classification.report.measures import coverage_curve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium not found: scripts/install_debian_packages installs it"
)
HOSTILE = {
    "0": "<script>document.title='broken'</script>",
    "1": '"><img src=https://example.org/x onerror="document.title=1">',
    "2": "path",
    "3": "label",
    "4": "{{ 7 * 7 }} | `code` $x$",
    "5": "</style></svg><h1>x",
    "6": "a_name_of_" + "very_" * 30 + "many_letters",
}


class Page(HTMLParser):
    """Tags with attributes, and the texts between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data):
        self.texts.append(data)


def browse(page: Path, tmp_path: Path, *flags: str, fragment: str = "") -> tuple[str, str]:
    """Opens ``page`` and returns the document that the browser made of it, and the console's messages."""
    result = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000", "--hide-scrollbars"),
            *(f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri() + fragment),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout, "\n".join(line for line in result.stderr.splitlines() if "CONSOLE" in line)


def rewrite(path: Path, change) -> None:
    """Changes the rows of a CSV file in place."""
    with open(path, newline="") as stream:
        rows = [change(number, row) for number, row in enumerate(csv.reader(stream))]
    with open(path, "w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)


def copied(run: Path, parent: Path) -> Path:
    """A copy of the run without its report and what no report reads."""
    unread = shutil.ignore_patterns("checkpoints", "tensorboard", "report.html", "*.md")
    return Path(shutil.copytree(run, parent / "copy", ignore=unread))


def written(folder: Path) -> Path:
    """``folder`` with its page and its card."""
    before = dict(matplotlib.rcParams)
    write_report(folder)
    assert dict(matplotlib.rcParams) == before
    write_model_card(folder)
    return folder


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run that may be changed."""
    return copied(run, tmp_path)


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    """A copy of the run with its page and its card. This and the next two are shared: no test changes them."""
    return written(copied(run, tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def hostile(run, tmp_path_factory):
    """The run with class names and file names that try to be something else."""
    copy = copied(run, tmp_path_factory.mktemp("hostile"))
    rename = {**{str(i): str(i) for i in range(10)}, **HOSTILE}
    rewrite(copy / "manifest.csv", lambda number, row: [row[0], rename.get(row[1], row[1]), *row[2:]])
    rewrite(
        copy / "predictions.csv",
        lambda number, row: (
            [row[0], rename[row[1]], rename[row[2]], *row[3:]]
            if number
            else row[:3] + [rename[name] for name in row[3:]]
        ),
    )
    spec = json.loads((copy / "bundle" / "spec.json").read_text())
    spec["output"]["labels"] = [rename[label] for label in spec["output"]["labels"]]
    (copy / "bundle" / "spec.json").write_text(json.dumps(spec))
    evaluation = json.loads((copy / "evaluation.json").read_text())
    for row in evaluation["per_class"]:
        row["label"] = rename[row["label"]]
    (copy / "evaluation.json").write_text(json.dumps(evaluation))
    with open(copy / "rejected.csv", "a") as stream:
        stream.write("/data/<script>alert(1)</script>.png,<b>damaged</b>\n")
    return written(copy)


@pytest.fixture(scope="module")
def complete(run, tmp_path_factory):
    """The run with every measure that an evaluation may have; the numbers are easy to find again."""
    copy = copied(run, tmp_path_factory.mktemp("complete"))
    evaluation = json.loads((copy / "evaluation.json").read_text())
    rows = [{"label": str(i), "images": 30 + i, "precision": 0.5, "recall": 0.9 - i / 20, "f1": 0.6} for i in range(10)]
    evaluation |= {
        "accuracy_interval": [0.8123, 0.9876],
        "brier": 0.0471,
        "auroc": 0.9917,
        "per_class": rows,
        "reliability": [{"lower": 0.0, "upper": 1.0, "count": 7, "confidence": 0.8, "accuracy": 0.75}],
        "calibration": {
            "temperature": 0.5,
            "images": 217,
            "nll_before": 0.4321,
            "nll_after": 0.3219,
            "ece_before": 0.1357,
            "ece_after": 0.0246,
        },
        "uncalibrated": {"nll": 0.5, "ece": 0.1122},
        "abstain": {"min_probability": 0.7345, "wanted_error": 0.01, "accepted": 0.8765, "error": 0.0099},
        "ood": {"max_distance": 3.25, "flagged": 0.0192},
    }
    (copy / "evaluation.json").write_text(json.dumps(evaluation))
    spec = json.loads((copy / "bundle" / "spec.json").read_text())
    spec["output"]["calibration"]["temperature"] = 0.5
    (copy / "bundle" / "spec.json").write_text(json.dumps(spec))
    return written(copy)


def test_the_command_writes_both_and_names_them(copy, script):
    lines = script("report", copy).stdout.split()
    assert lines == [str(copy / "report.html"), str(copy / "MODEL_CARD.md")]
    first = (copy / "report.html").read_bytes()
    answer = json.loads(script("report", copy, "--json").stdout)
    assert answer == {"report": lines[0], "model_card": lines[1]}
    assert (copy / "report.html").read_bytes() == first
    (copy / "evaluation.json").unlink()
    failed = script("report", copy, check=False)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "evaluation.json" in failed.stderr


def test_the_page_says_what_was_measured(plain):
    text = (plain / "report.html").read_text("utf-8")
    page = Page(text)
    shown = " ".join(" ".join(page.texts).replace("\u00a0", " ").split())
    evaluation = json.loads((plain / "evaluation.json").read_text())
    low, high = evaluation["accuracy_interval"]
    assert f"{100 * evaluation['accuracy']:.1f} %" in shown
    assert f"{100 * low:.1f} % to {100 * high:.1f} %" in shown
    assert f"{100 * evaluation['ece']:.2f} %" in shown
    assert f"best epoch ({evaluation['best_epoch']})" in shown
    sections = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    assert sections >= {"headline", "classes", "confusion", "confidence", "coverage", "mistakes", "training", "data"}
    matrix = re.search(r'<table class="matrix">(.*?)</table>', text, re.S)[1]
    counts = [int(count) for count in re.findall(r">(\d+)</td>", matrix)]
    confusion = np.array(evaluation["confusion_matrix"])
    assert counts == confusion.ravel().tolist()
    pairs = Page(re.search(r'<table class="pairs">(.*?)</table>', text, re.S)[1]).texts
    truth, predicted, count, share = [item.strip().replace("\u00a0", " ") for item in pairs if item.strip()][4:8]
    row = confusion[int(truth)]
    assert int(count) == row[int(predicted)] == (confusion - np.diag(np.diag(confusion))).max()
    assert share == f"{100 * int(count) / row.sum():.1f} %"


def test_measures_of_a_fuller_evaluation_are_used(complete):
    page = Page((complete / "report.html").read_text("utf-8"))
    shown = " ".join(" ".join(page.texts).replace("\u00a0", " ").split())
    for number in ("81.2 % to 98.8 %", "0.9917", "0.0471", "73.5 %", "87.6 %", "3.25", "1.9 %"):
        assert number in shown
    assert "from 13.57 % to 2.46 %" in shown
    assert "before temperature scaling 11.22 %" in shown
    assert "Weakest class: 9 , of which 45.0 % of 39 images" in shown
    card = (complete / "MODEL_CARD.md").read_text("utf-8").replace("\u00a0", " ")
    for number in ("81.23 % to 98.76 %", "0.9917", "0.0471", "0.7345", "13.57 %, 2.46 %", "3.25", "1.92 %"):
        assert number in card


def test_nothing_is_loaded_from_elsewhere(hostile):
    page = Page((hostile / "report.html").read_text("utf-8"))
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "form", "h4"}
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert [tag for tag, _ in page.tags].count("h1") == 1
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name, "#")
            assert value.startswith("data:image/webp;base64," if tag == "img" and name == "src" else "#"), (tag, value)
        assert "url(" not in attributes.get("style", "").replace("url(#", "")
        if tag == "img":
            assert attributes["alt"]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "49" not in {text.strip() for text in page.texts}


@needs_browser
def test_a_browser_shows_it_without_complaint(hostile, tmp_path):
    document, console = browse(hostile / "report.html", tmp_path, "--dump-dom")
    assert console == ""
    assert 'data-ready="true"' in document
    assert "<title>copy: training report</title>" in document
    classes = Page(re.search(r"<table class=\"wide-table\" data-sortable.*?</table>", document, re.S)[0])
    for name in HOSTILE.values():
        assert name in classes.texts


@needs_browser
def test_the_browser_test_would_notice_a_complaint(plain, tmp_path):
    """Twin of the test above: the same browser does report what that test hopes not to see."""
    page = tmp_path / "page.html"
    text = (plain / "report.html").read_text()
    page.write_text(text.replace("</main>", '<img src="https://example.org/x.png"></main>'))
    _, console = browse(page, tmp_path, "--dump-dom")
    assert "Content Security Policy" in console


@needs_browser
def test_headings_sort(complete, tmp_path):
    page = complete / "report.html"

    def first_column(fragment: str) -> list[str]:
        document, console = browse(page, tmp_path, "--dump-dom", fragment=fragment)
        assert console == ""
        table = re.search(r"<table class=\"wide-table\" data-sortable.*?</table>", document, re.S)[0]
        return re.findall(r"<bdi>(\d)</bdi>", table)

    assert first_column("") == list("0123456789")
    assert first_column("#sort=recall") == list("9876543210")
    assert first_column("#sort=images,descending") == list("9876543210")


@needs_browser
@pytest.mark.parametrize("flags", [[], ["--blink-settings=preferredColorScheme=0"]], ids=["light", "dark"])
def test_screenshots_are_not_blank(plain, tmp_path, flags):
    shot = tmp_path / "page.png"
    browse(plain / "report.html", tmp_path, f"--screenshot={shot}", "--window-size=1280,5000", *flags)
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("L")).astype(int)
    assert pixels.shape == (5000, 1280)
    assert (np.median(pixels) < 60) == bool(flags)
    # Every part of the page holds something: ink on its ground.
    assert all(band.std() > 3 for band in np.split(pixels, 10))


def test_images_that_have_gone_are_told_of(copy):
    gone = copy.parent / "nowhere"
    rewrite(copy / "manifest.csv", lambda number, row: [str(gone / Path(row[0]).name), *row[1:]] if number else row)
    rewrite(copy / "predictions.csv", lambda number, row: [str(gone / Path(row[0]).name), *row[1:]] if number else row)
    text = write_report(copy).read_text("utf-8")
    assert "<img" not in text
    assert "12 of these 12 image files are missing or have changed" in text
    assert "training images are missing or have changed" in text


def test_galleries_show_what_the_model_is_given(plain):
    from marquee.handlers.core.bundle import read_spec
    from marquee.training.tasks.image_classification.config import AugmentConfig
    from marquee.training.tasks.image_classification.data.augment import Augmentation
    from marquee.training.tasks.image_classification.data.loading import EvaluationImages, TargetEncoder, TrainingImages
    from marquee.training.tasks.image_classification.report.facts import read_facts
    from marquee.training.tasks.image_classification.report.pictures import augmentation_samples, data_uri, least_sure

    facts, spec = read_facts(plain), read_spec(plain / "bundle")
    pictures = least_sure(facts, 5)
    assert [picture.confidence for picture in pictures] == sorted(facts.predictions.confidence)[:5]
    for picture in pictures:
        assert picture.uri == data_uri(
            EvaluationImages([picture.record], TargetEncoder(spec.output.labels), spec.input)[0][0].numpy()
        )
    facts = replace(facts, config=replace(facts.config, augment=AugmentConfig()))  # the run was trained without
    records = facts.manifest.split("train")
    augment = Augmentation(facts.config.augment, spec.input, spec.input.mean)
    trained = TrainingImages(records, TargetEncoder(spec.output.labels), spec.input, augment, facts.config.loop.seed)
    for sample in augmentation_samples(facts, 3, 2):
        index = records.index(sample.record)
        assert sample.drawn == tuple(data_uri(trained[epoch, index][0].numpy()) for epoch in (0, 1))
        assert len({sample.original, *sample.drawn}) == 3


def test_the_card_has_the_run_s_numbers_and_keeps_its_owner_s_words(copy):
    evaluation = json.loads((copy / "evaluation.json").read_text())
    path = write_model_card(copy)
    card = path.read_text("utf-8")
    headings = re.findall(r"^## (.+)$", card, re.M)
    assert headings == [
        "Model Details",
        "Intended Use",
        "Factors",
        "Metrics",
        "Evaluation Data",
        "Training Data",
        "Quantitative Analyses",
        "Ethical Considerations",
        "Caveats and Recommendations",
    ]
    table = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card.replace("\u00a0", " "), re.M))
    assert table["Images"] == str(evaluation["images"])
    assert table["Accuracy"] == f"{100 * evaluation['accuracy']:.2f} %"
    assert table["Expected calibration error"] == f"{100 * evaluation['ece']:.2f} %"
    assert table["Log loss (nats)"] == f"{evaluation['nll']:.4g}"
    questions = card.count("**To be filled in by the owner:**")
    assert questions >= 5
    licence = "**To be filled in by the owner:** the licence of the model and of its starting weights."
    path.write_text(card.replace(licence, "Apache-2.0,\nas agreed."), "utf-8")
    again = write_model_card(copy).read_text("utf-8")
    assert again == card.replace(licence, "Apache-2.0,\nas agreed.")
    assert again.count("**To be filled in by the owner:**") == questions - 1


def test_names_are_text_in_the_card(hostile):
    card = (hostile / "MODEL_CARD.md").read_text("utf-8")
    assert not re.search(r"<(?!!-- )", card)
    rows = [line for line in card.splitlines() if line.startswith("| ") and "code" in line]
    assert rows
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows)


def test_many_classes_have_a_list_instead_of_a_matrix(copy, monkeypatch):
    monkeypatch.setattr("marquee.training.tasks.image_classification.report.page.MATRIX_CLASSES", 9)
    text = write_report(copy).read_text("utf-8")
    assert '<table class="matrix">' not in text
    assert '<table class="pairs">' in text


@pytest.mark.parametrize("name", ["metrics.jsonl", "predictions.csv", "environment.json", "bundle/spec.json"])
def test_damaged_runs_are_refused_by_file(copy, name):
    (copy / name).write_text('a,b,c\n"x",\n{')
    with pytest.raises(TrainingError, match=name):
        write_report(copy)
    assert not (copy / "report.html").exists()


def test_the_measures_agree_with_known_values():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.5] * 4, 500)
    targets = np.array([rng.choice(4, p=row) for row in probabilities])
    metrics = classification_metrics(probabilities, targets)
    gaps = [row["count"] * abs(row["confidence"] - row["accuracy"]) for row in metrics["reliability"]]
    assert sum(gaps) / 500 == pytest.approx(metrics["ece"], abs=1e-6)
    shares, errors = coverage_curve(np.array([0.9, 0.5, 0.9, 0.7]), np.array([True, False, True, False]))
    assert shares.tolist() == [0.5, 0.75, 1.0]
    assert errors.tolist() == [0.0, pytest.approx(1 / 3), 0.5]
