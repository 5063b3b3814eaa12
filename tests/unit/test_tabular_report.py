"""The report and the model card of runs on tables, with names of columns and classes that try to be something else."""

import csv
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine

from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.table.spec import CODES, NUMBERS
from marquee.handlers.outputs.regression import VALUE
from marquee.training.core.config import merge_config
from marquee.training.core.errors import TrainingError
from marquee.training.core.run import train, write_report
from marquee.training.report.text import amount, breakable, counted, setting
from marquee.training.tasks.tabular.config import TabularClassificationConfig, TabularRegressionConfig
from marquee.training.tasks.tabular.importance import permutation_importance, root_mean_squared_error
from marquee.training.tasks.tabular.manifest import arrays_of, numbers_of, read_manifest
from marquee.training.tasks.tabular.report import write_model_card
from marquee.training.tasks.tabular.report.facts import read_facts
from marquee.training.tasks.tabular.report.figures import MOST_POINTS, drawn, error_histogram
from marquee.training.tasks.tabular.report.measures import expected_coverage, parts_by_value
from marquee.training.tasks.tabular.report.rows import MOST_COLUMNS, row_table

SCRIPT = "<script>document.title='broken'</script>"
IMAGE = '"><img src=x onerror="document.title=1">'
MARKDOWN = "{{ 7 * 7 }} | `code` $x$"
CLOSING = "</style></svg><h1>x"
TARGET = "<u>price</u> | $\\frac{"
LABELS = ("<i>first</i>", "se|cond", "$third$")
HEADINGS = [
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

    @property
    def shown(self) -> str:
        return " ".join(" ".join(self.texts).replace("\u00a0", " ").split())


def write_rows(path: Path, header, rows) -> Path:
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def change_rows(path: Path, change) -> None:
    with open(path, newline="") as stream:
        header, *rows = csv.reader(stream)
    write_rows(path, header, map(change, rows))


def change_object(path: Path, change) -> None:
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value), "utf-8")


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    """A finished run on the diabetes, with a category, missing values, and a row that is left out."""
    folder = tmp_path_factory.mktemp("regression")
    values, targets = load_diabetes(return_X_y=True, scaled=False)
    header = [SCRIPT, IMAGE, MARKDOWN, CLOSING, "colour", "always", TARGET]
    rows = [
        [row[2], row[8], "" if number % 7 == 0 else row[3], row[0], ("<b>red</b>", "blue")[int(row[1]) - 1], 1, target]
        for number, (row, target) in enumerate(zip(values[:200], targets[:200], strict=True))
    ]
    data = write_rows(folder / "data.csv", header, [*rows, ["1", "2", "3", "4", "blue", "1", "many"]])
    config = merge_config(TabularRegressionConfig(), {"table": {"target": TARGET, "units": {TARGET: "<b>€</b>"}}})
    train(config, data, folder / "run", report=False)
    write_report(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def classification(tmp_path_factory):
    """A finished run on the wines."""
    folder = tmp_path_factory.mktemp("classification")
    wine = load_wine()
    header = [SCRIPT, IMAGE, *wine.feature_names[2:], "label"]
    rows = [[*row, LABELS[label]] for row, label in zip(wine.data, wine.target, strict=True)]
    data = write_rows(folder / "data.csv", header, rows)
    settings = {"table": {"target": "label"}, "loop": {"epochs": 3}, "export": {"max_error": 0.01}}
    train(merge_config(TabularClassificationConfig(), settings), data, folder / "run", report=False)
    write_report(folder / "run")
    return folder / "run"


@pytest.fixture
def run(request, tmp_path):
    """A copy of a run, of the fixture named by the parameter, that may be changed."""
    unread = shutil.ignore_patterns("checkpoints", "tensorboard", "report.html", "*.md")
    return Path(shutil.copytree(request.getfixturevalue(request.param), tmp_path / "run", ignore=unread))


a_regression = pytest.mark.parametrize("run", ["regression"], indirect=True)
a_classification = pytest.mark.parametrize("run", ["classification"], indirect=True)
each = pytest.mark.parametrize("run", ["regression", "classification"], indirect=True)


def page_of(run: Path) -> Page:
    return Page((run / "report.html").read_text("utf-8"))


def test_the_page_says_what_was_measured(regression):
    shown, evaluation = page_of(regression).shown, json.loads((regression / "evaluation.json").read_text())
    low, high = evaluation["coverage_interval"]
    for value in ("rmse", "mae", "median_error"):
        assert f"{amount(evaluation[value])} <b>€</b>" in shown
    assert f"{100 * evaluation['coverage']:.1f} % of the 90 % intervals contain the truth" in shown
    assert f"95 % confidence interval {100 * low:.1f} % to {100 * high:.1f} %" in shown
    assert f"± {amount(evaluation['interval_width'] / 2)} <b>€</b>" in shown
    sections = {attributes["id"] for tag, attributes in page_of(regression).tags if tag == "section"}
    assert sections >= {"headline", "errors", "intervals", "importance", "largest", "unfamiliar", "training", "data"}


def test_the_page_of_classes_says_what_was_measured(classification):
    shown, evaluation = page_of(classification).shown, json.loads((classification / "evaluation.json").read_text())
    low, high = evaluation["accuracy_interval"]
    assert f"{100 * evaluation['accuracy']:.1f} % 95 % interval {100 * low:.1f} % to {100 * high:.1f} %" in shown
    text = (classification / "report.html").read_text("utf-8")
    matrix = re.search(r'<table class="matrix">(.*?)</table>', text, re.S)[1]
    counts = [int(count) for count in re.findall(r">(\d+)</td>", matrix)]
    assert counts == np.ravel(evaluation["confusion_matrix"]).tolist()
    sections = {attributes["id"] for tag, attributes in page_of(classification).tags if tag == "section"}
    assert sections >= {
        "classes",
        "confusion",
        "mistakes",
        "confidence",
        "coverage",
        "importance",
        "unfamiliar",
        "data",
    }


@pytest.mark.parametrize("name", ["regression", "classification"])
def test_names_are_text_and_nothing_is_loaded(request, name):
    page = page_of(request.getfixturevalue(name))
    tags = [tag for tag, _ in page.tags]
    assert not set(tags) & {"link", "iframe", "object", "embed", "base", "form", "img", "u"}
    assert [tags.count(tag) for tag in ("script", "h1", "title")] == [1, 1, 1]
    for tag, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")], tag
        for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attributes.get(key, "#").startswith("#"), (tag, attributes)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "49" not in {text.strip() for text in page.texts}
    assert SCRIPT in page.texts


@each
@pytest.mark.slow
def test_equal_runs_give_equal_bytes(run):
    paths = write_report(run)
    assert set(paths) == {"report", "model_card"}
    first = {name: path.read_bytes() for name, path in paths.items()}
    assert {name: path.read_bytes() for name, path in write_report(run).items()} == first


def test_the_largest_errors_come_first(regression):
    text = (regression / "report.html").read_text("utf-8")
    table = re.search(r'aria-label="Largest errors"><table.*?</table>', text, re.S)[0]
    errors = [float(cell.replace(",", "")) for cell in re.findall(r"<td><b><bdi>(.*?)</bdi>", table)[2::3]]
    with open(regression / "predictions.csv", newline="") as stream:
        expected = sorted((float(r["value"]) - float(r["target"]) for r in csv.DictReader(stream)), key=abs)[::-1]
    assert errors == [pytest.approx(error, rel=1e-3) for error in expected[: len(errors)]]
    assert 'class="missing"' in table


def test_the_columns_are_listed_with_role_kind_range_and_missing_values(regression):
    text = (regression / "report.html").read_text("utf-8")
    table = re.search(r'aria-label="Columns"><table.*?</table>', text, re.S)[0]
    rows = [
        [" ".join(Page(cell).texts).replace("\u00a0", " ") for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr>.*?</tr>", table, re.S)[1:]
    ]
    found = {row[0]: row[1:] for row in rows}
    assert list(found) == [SCRIPT, IMAGE, MARKDOWN, CLOSING, "colour", "always", TARGET]
    assert found["colour"][:4] == ["feature", "category", "–", "<b>red</b>, blue"]
    assert found["always"][0] == "ignore"
    assert found[TARGET][:3] == ["target", "number", "<b>€</b>"]
    assert found[SCRIPT][4:6] == ["0.0 %", "no"]
    assert 10 < float(found[MARKDOWN][4].split()[0]) < 20
    assert found[MARKDOWN][5] == "yes"
    assert re.fullmatch(r"\d+ to \d+", found[CLOSING][3])


def test_rows_that_were_left_out_are_listed(regression):
    shown = page_of(regression).shown
    assert "1 row of the table could not be used" in shown
    assert "data.csv:202" in shown


def test_unfamiliar_rows_are_listed_with_what_training_saw(classification):
    facts = read_facts(classification)
    assert facts.unfamiliar.any()
    shown = page_of(classification).shown
    assert f"{int(facts.unfamiliar.sum())} of the {len(facts.measured)} test rows" in shown
    place = int(np.flatnonzero(facts.unfamiliar)[0])
    assert facts.measured[place].path in shown
    with open(classification / "predictions.csv", newline="") as stream:
        assert len(list(csv.reader(stream))) == len(facts.outside) + 1


def test_only_the_most_important_of_many_features_are_shown(classification):
    facts = read_facts(classification)
    table = row_table(facts, [0])
    assert table.all_columns == 13
    most = {column.column for column in facts.importances.columns[:MOST_COLUMNS]}
    assert set(table.columns) == most
    values = json.loads(facts.measured[0].row)
    assert [cell.text for cell in table.rows[0].cells] == [amount(values[name], 6) for name in table.columns]


# --- importance


@pytest.fixture(scope="module")
def measured(regression):
    """The bundle, its measured rows and their targets."""
    manifest = read_manifest(regression / "manifest.csv")
    records = manifest.split("test")
    return Predictor.load(regression / "bundle"), arrays_of(manifest.spec, records), numbers_of(records)


def importance(measured, seed=0, trained=10**6):
    return permutation_importance(*measured, root_mean_squared_error(), seed, trained)


def test_importance_follows_from_the_seed(measured):
    assert importance(measured) == importance(measured)
    assert importance(measured) != importance(measured, seed=1)


def test_importance_is_the_rise_of_the_error(measured):
    predictor, inputs, targets = measured
    found = {column.column: column for column in importance(measured).columns}
    base = np.sqrt(((predictor.outputs(inputs)[VALUE] - targets) ** 2).mean())
    assert importance(measured).base == pytest.approx(base)
    rng = np.random.default_rng(0)
    for name, array, place in ((IMAGE, NUMBERS, 1), ("colour", CODES, 0)):
        rises = []
        for _ in range(200):
            shuffled = {key: values.copy() for key, values in inputs.items()}
            shuffled[array][:, place] = rng.permutation(shuffled[array][:, place])
            rises.append(np.sqrt(((predictor.outputs(shuffled)[VALUE] - targets) ** 2).mean()) - base)
        assert abs(np.mean(rises) - found[name].rise) < 4 * np.std(rises) / np.sqrt(10)
    assert [column.rise for column in found.values()] == sorted((c.rise for c in found.values()), reverse=True)


def test_importance_leaves_its_inputs_as_they_are(measured):
    before = {name: values.copy() for name, values in measured[1].items()}
    importance(measured)
    for name, values in measured[1].items():
        np.testing.assert_array_equal(values, before[name])


def test_a_constant_column_has_no_importance(measured):
    predictor, inputs, targets = measured
    inputs = {name: values.copy() for name, values in inputs.items()}
    inputs[NUMBERS][:, 0] = 25.0
    inputs[NUMBERS][:, 2] = np.nan
    found = {column.column: column for column in importance((predictor, inputs, targets)).columns}
    assert [column for column, values in found.items() if values.constant] == [SCRIPT, MARKDOWN]
    assert found[SCRIPT].rise == found[SCRIPT].spread == 0


def test_importance_is_bounded(measured):
    predictor, inputs, targets = measured
    many = {name: np.resize(values, (5000, values.shape[1])) for name, values in inputs.items()}
    found = importance((predictor, many, np.resize(targets, 5000)))
    assert (found.rows, found.of, found.shuffles) == (1000, 5000, 10)
    found = importance((predictor, many, np.resize(targets, 5000)), trained=1)
    assert found.rows * found.shuffles * len(found.columns) <= 20_000
    assert importance((predictor, {name: values[:1] for name, values in inputs.items()}, targets[:1])) is None


# --- runs that are unlike others


@a_regression
def test_without_a_test_split_the_numbers_are_called_optimistic(run):
    change_rows(run / "manifest.csv", lambda row: [row[0], "val" if row[1] == "test" else "train", *row[2:]])
    change_object(run / "evaluation.json", lambda evaluation: evaluation.update(split="val"))
    write_report(run)
    shown = page_of(run).shown
    assert "There was no test split" in shown
    assert "fitted on these very rows" in shown
    assert "is to be expected" not in shown
    assert "There was no test split" in (run / "MODEL_CARD.md").read_text("utf-8")


@a_regression
def test_too_few_rows_for_intervals(run):
    def without(spec):
        spec["output"]["calibration"]["half_width"] = None

    def forget(evaluation):
        for key in ("coverage", "coverage_interval", "interval_width"):
            del evaluation[key]

    change_object(run / "bundle" / "spec.json", without)
    change_object(run / "evaluation.json", forget)
    write_report(run)
    assert "too few validation rows" in page_of(run).shown
    assert "too few validation rows" in (run / "MODEL_CARD.md").read_text("utf-8")


@a_regression
@pytest.mark.parametrize("change", [lambda target: target + 5.0, lambda target: target, lambda target: 100.0])
def test_errors_and_answers_may_all_be_equal(run, change):
    change_rows(run / "predictions.csv", lambda row: [*row[:2], repr(change(float(row[1]))), *row[3:]])
    change_object(run / "evaluation.json", lambda evaluation: evaluation.update(r2=None, rmse=0.0))
    write_report(run)
    assert "the measured rows all have the same value" in page_of(run).shown


@a_classification
def test_classes_may_never_be_answered(run):
    labels = sorted(LABELS)

    def all_first(row):
        return [*row[:2], labels[0], "1.0", "0.0", "0.0"]

    def never(evaluation):
        counts = np.array(evaluation["confusion_matrix"]).sum(axis=1)
        evaluation["confusion_matrix"] = [[int(count), 0, 0] for count in counts]
        for row in evaluation["per_class"][1:]:
            row.update(precision=None, recall=0.0, f1=0.0)

    change_rows(run / "predictions.csv", all_first)
    change_object(run / "evaluation.json", never)
    write_report(run)
    assert f"Never answered: {labels[1]} , {labels[2]} ." in page_of(run).shown


@each
@pytest.mark.parametrize("name", ["metrics.jsonl", "predictions.csv", "environment.json", "bundle/spec.json"])
def test_damaged_runs_are_refused_by_file(run, name):
    (run / name).write_text('a,b,c\n"x",\n{')
    with pytest.raises(TrainingError, match=name):
        write_report(run)
    assert not (run / "report.html").exists()


@a_regression
def test_a_damaged_model_is_refused(run):
    with open(run / "bundle" / "model.pt2", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(TrainingError, match=r"model\.pt2"):
        write_report(run)


@a_regression
def test_predictions_of_other_rows_are_refused(run):
    change_rows(run / "predictions.csv", lambda row: ["elsewhere.csv:1", *row[1:]])
    with pytest.raises(TrainingError, match=r"predictions\.csv: its rows are not those"):
        write_report(run)


@a_regression
def test_long_trainings_show_some_epochs_and_the_best(run):
    line = {"lr": 0.1, "train_loss": 0.5, "val_loss": 0.6, "val_rmse": 50.0, "val_mae": 40.0, "seconds": 0.1}
    lines = [json.dumps({"epoch": epoch, **line}) for epoch in range(1, 2001)]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    change_object(run / "evaluation.json", lambda evaluation: evaluation.update(best_epoch=1234))
    write_report(run)
    shown = page_of(run).shown
    assert "of the 2,000 epochs are shown" in shown
    assert "1234 (best)" in shown
    assert (run / "report.html").stat().st_size < 500_000


@a_regression
def test_variants_are_compared_in_their_own_measure(run):
    measured = {
        "accuracy": 0.4873, "drop": -1e-8, "drop_interval": [-5e-8, 3e-8], "agreement": 1.0, "ece": 0.0091,
        "latency_p50_ms": 0.09, "latency_p99_ms": 6.0, "images_per_second": {"1": 1e4, "8": 8e4, "4096": 840_123.0},
        "load_seconds": 3.6, "memory_bytes": 5e8, "file_bytes": 33643, "refused": None,
    }  # fmt: skip
    optimization = {
        "chosen": "fp64", "frontier": ["fp64"], "left_out": {"int8": "<b>not built</b>"},
        "variants": {"fp64": measured, "openvino-fp32": {**measured, "accuracy": 0.4873 + 1e-8}},
        "ranking": {"host": {"cpu": "a CPU", "cores": 2}, "max_accuracy_drop": 0.005, "p99_ms": None},
    }  # fmt: skip
    (run / "optimization.json").write_text(json.dumps(optimization))
    write_report(run)
    shown = page_of(run).shown
    assert "0.50 % of the R2" in shown
    assert "at 4096" in shown
    assert "840,123" in shown
    assert "-0.00 %" not in shown
    assert "<b>not built</b>" in shown


# --- model card


@pytest.mark.parametrize("name", ["regression", "classification"])
def test_the_card_has_the_headings_and_names_are_text_in_it(request, name):
    card = (request.getfixturevalue(name) / "MODEL_CARD.md").read_text("utf-8")
    assert re.findall(r"^## (.+)$", card, re.M) == HEADINGS
    assert not re.search(r"<(?!!-- )", card)
    for table in re.findall(r"(?:^\|.*\n)+", card, re.M):
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(columns) == 1, table
    assert "\n\n\n\n" not in card


def test_the_card_has_the_runs_numbers(regression):
    evaluation = json.loads((regression / "evaluation.json").read_text())
    card = (regression / "MODEL_CARD.md").read_text("utf-8").replace("\u00a0", " ")
    table = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card, re.M))
    assert table["Rows"] == str(evaluation["rows"])
    assert table["RMSE"] == amount(evaluation["rmse"], 5)
    assert table["Coverage of the 90.0 % intervals"] == f"{100 * evaluation['coverage']:.2f} %"
    assert "exchangeable" in card


@each
def test_the_card_keeps_its_owners_words(run):
    path = write_model_card(run)
    card = path.read_text("utf-8")
    licence = "**To be filled in by the owner:** the licence of the model and of the data that it was trained on."
    changed = card.replace(licence, "Apache-2.0,\nas agreed.")
    assert changed != card
    path.write_text(changed, "utf-8")
    assert write_model_card(run).read_text("utf-8") == changed


# --- numbers


def test_parts_hold_every_row_once_and_equal_answers_together():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, 101).astype(float)
    targets = values + rng.normal(size=101)
    inside = np.abs(values - targets) < 1
    parts = parts_by_value(values, targets, inside, [str(number) for number in range(101)])
    assert sum(part.rows for part in parts) == 101
    assert all(first.high < second.low for first, second in itertools.pairwise(parts))
    for part in parts:
        chosen = (values >= part.low) & (values <= part.high)
        assert part.coverage == pytest.approx(inside[chosen].mean())
        assert part.rmse == pytest.approx(np.sqrt(((values - targets)[chosen] ** 2).mean()))


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_parts_of_few_rows(rows):
    values = np.arange(rows, dtype=float)
    parts = parts_by_value(values, values, None, [""] * rows)
    assert sum(part.rows for part in parts) == rows
    assert len(parts) == min(rows, 4)
    assert len(parts_by_value(np.zeros(rows), values, None, [""] * rows)) == 1


def test_the_expected_coverage_is_that_of_a_simulation():
    rng = np.random.default_rng(0)
    rank = 45  # ceil(50 x 0.9)
    widths = np.sort(rng.random((20_000, 49)), axis=1)[:, rank - 1]
    coverages = (rng.random((20_000, 60)) <= widths[:, None]).mean(axis=1)
    low, high = expected_coverage(60, 49, 0.9)
    assert low == pytest.approx(np.quantile(coverages, 0.025), abs=1 / 60 + 1e-9)
    assert high == pytest.approx(np.quantile(coverages, 0.975), abs=1 / 60 + 1e-9)


def test_of_many_rows_those_with_the_largest_errors_are_drawn():
    errors = np.random.default_rng(0).normal(size=20_000)
    errors[7] = np.nan
    places = drawn(errors)
    assert len(places) == MOST_POINTS
    assert 7 not in places
    assert int(np.nanargmax(np.abs(errors))) in places
    assert len(drawn(errors[:100])) == 99


@pytest.mark.parametrize("errors", [np.zeros(3), np.full(3, 1e300), np.array([np.nan]), np.array([-5.0, 1e-300])])
def test_odd_errors_have_a_histogram(errors):
    assert error_histogram("x", errors, None).startswith("<svg")


def test_values_are_shown_without_exponents():
    shown = [amount(value) for value in (4675.0, 54321.9, 0.012345, 1e-9, 3e12, 0.0, -12.0, None, float("nan"), 9999.7)]
    assert shown == ["4675", "54,322", "0.01235", "1e-09", "3e+12", "0", "-12", "–", "–", "10,000"]
    assert breakable("flipper_length_mm") == "flipper_<wbr>length_<wbr>mm"
    assert breakable("a_b") == "a_b"
    assert breakable("<b>_long_enough") == "&lt;b&gt;_<wbr>long_<wbr>enough"
    assert [counted(items, "row") for items in (0, 1, 1234)] == ["0 rows", "1 row", "1,234 rows"]
    assert [setting(value) for value in (["a", 1.5], {}, {"x": True}, ())] == ["a, 1.5", "none", "x: true", "none"]
