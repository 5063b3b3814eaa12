"""Explanations of rows: on games and models whose values are known, and within requests."""

import json
import math
import sys
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from torch import nn
from ts.context import Context, RequestProcessor

from marquee.handlers.core.arrays import rows
from marquee.handlers.core.bundle import Bundle, sha256_file
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.handler import Handler
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import EXPECTED_FILE, GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.core.worker_config import WorkerConfig
from marquee.handlers.explain import explainer_for
from marquee.handlers.explain.batch import Explanations
from marquee.handlers.explain.cells import cells_of
from marquee.handlers.explain.columns import RowExplainer
from marquee.handlers.explain.evaluations import MOST_EVALUATIONS, log_odds
from marquee.handlers.explain.game import Games, exact, left_out, sampled, shapley
from marquee.handlers.explain.request import RowRequest, parse
from marquee.handlers.inputs.table.spec import CODES, MISSING, NUMBERS, UNSEEN, Column, TableSpec
from marquee.handlers.inputs.table.values import date_text, parse_date
from marquee.handlers.outputs.classification import ClassificationCalibration, ClassificationSpec
from marquee.handlers.outputs.regression import RegressionSpec
from marquee.training.core.export import export_program

TABLE = TableSpec(
    columns=(
        Column(name="carat", kind="number", low=0.2, high=5.0),
        Column(name="cut", kind="category", categories=("Fair", "Good", "Ideal")),
        Column(name="id", kind="number", role="ignore"),
        Column(name="depth", kind="number", low=50.0, high=70.0, may_be_missing=True),
        Column(name="sold", kind="date", low=0.0, high=20000.0),
        Column(name="label", kind="category", categories=("A", "B"), may_be_missing=True),
        Column(name="lab", kind="boolean"),
        Column(name="price", kind="number", role="target"),
    )
)
NAMES = [column.name for column in TABLE.features]
ROW = {"carat": 1.2, "cut": "Ideal", "depth": 61.5, "sold": "2024-02-29", "label": "B", "lab": True}
BACKGROUND = [
    {"carat": 0.3, "cut": "Fair", "depth": 60.0, "sold": "2024-01-01", "label": "A", "lab": False},
    {"carat": 0.7, "cut": "Ideal", "depth": None, "sold": "2023-07-01", "label": "A", "lab": True},
    {"carat": 2.0, "cut": "Good", "depth": 63.0, "sold": "2020-12-24", "label": None, "lab": False},
    {"carat": 1.2, "cut": "Good", "depth": 58.0, "sold": "2024-02-29", "label": "B", "lab": True},
    ROW,
]


class Network(nn.Module):
    """Numbers and codes -> float64 (N, outputs), in which columns act upon each other unless ``additive``."""

    def __init__(self, outputs: int, additive: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(4, outputs, generator=generator, dtype=torch.float64))
        self.tables = nn.Parameter(torch.randn(2, 5, outputs, generator=generator, dtype=torch.float64))
        self.additive, self.is_number = additive, outputs == 1

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        known = torch.where(numbers.isnan(), 55.0, numbers) / torch.tensor([1.0, 60.0, 20000.0, 1.0])
        sums = known @ self.weights + self.tables[0][codes[:, 0]] + self.tables[1][codes[:, 1]]
        if not self.additive:
            sums = sums + torch.sin(3 * known[:, :1] * self.tables[0][codes[:, 0]]) * known[:, 1:2]
        return sums[:, 0] if self.is_number else sums


def with_golden(bundle: Bundle, variant: VariantSpec, engine, bodies: list) -> Predictor:
    """A predictor with the bodies, and its own answers for them, as golden samples."""
    golden = bundle.folder / "golden"
    golden.mkdir(exist_ok=True)
    predictor = Predictor(bundle, variant, engine)
    entries, files = [], []
    for number, body in enumerate(bodies):
        files.append(f"golden/{number:03d}.json")
        (bundle.folder / files[-1]).write_text(json.dumps(body))
        entries.append({"file": files[-1], **predictor.answer(body)[0].golden()})
    (bundle.folder / EXPECTED_FILE).write_text(json.dumps(entries))
    digests = {name: sha256_file(bundle.folder / name) for name in (*files, EXPECTED_FILE)}
    spec = replace(bundle.spec, golden=GoldenSpec(files=digests))
    return Predictor(Bundle(bundle.folder, spec), variant, engine)


def spec_of(output, table=TABLE, files=None) -> ModelSpec:
    name = "value" if isinstance(output, RegressionSpec) else "logits"
    files = files or {"model.pt2": "0" * 64}
    variant = VariantSpec(name="fp64", engine="exported", precision="fp64", files=files, outputs=(name,))
    return ModelSpec(
        schema_version=3, task="tables", input=table, output=output, variants=(variant,), golden=GoldenSpec()
    )


PRICE = RegressionSpec(target="price", low=0.0, high=10.0)


def exported(output, network: nn.Module, folder) -> Predictor:
    """A predictor of a network as it is exported."""
    export_program(network.eval(), TABLE, folder / "model.pt2")
    spec = spec_of(output, files={"model.pt2": sha256_file(folder / "model.pt2")})
    bundle = Bundle(folder, spec)
    return with_golden(bundle, spec.variants[0], load_engine(bundle, spec.variants[0], "cpu"), BACKGROUND)


@pytest.fixture(scope="module")
def prices(tmp_path_factory) -> Predictor:
    return exported(PRICE, Network(1), tmp_path_factory.mktemp("prices"))


@pytest.fixture(scope="module")
def labels(tmp_path_factory) -> Predictor:
    output = ClassificationSpec(
        labels=("cheap", "fair", "dear"), calibration=ClassificationCalibration(temperature=1.7)
    )
    return exported(output, Network(3), tmp_path_factory.mktemp("labels"))


def arrays_of(predictor: Predictor, *bodies) -> dict:
    return predictor.input.collate(list(predictor.input.opener().items(list(bodies))[0])).inputs


def explain(predictor: Predictor, body=ROW, seconds=60, **settings):
    inputs = arrays_of(predictor, body)
    (prediction,) = predictor.predict_arrays(inputs)
    explainer, request = explainer_for(predictor), RowRequest(**settings)
    explainer.check(request)
    return explainer.explain(inputs, prediction, request, seconds)


def by_column(explanation, names=NAMES) -> np.ndarray:
    values = {entry["column"]: entry["contribution"] for entry in explanation.as_json()["contributions"]}
    return np.array([values[name] for name in names])


class RandomGame:
    """Games in which any columns act upon each other, or only two at a time."""

    def __init__(self, columns=5, order=5) -> None:
        generator = np.random.default_rng(0)
        self.row, self.background = generator.normal(size=columns), generator.normal(size=(6, columns))
        self.background[1, 2:] = self.row[2:]
        self.background[2] = self.row
        self.background[3, 0] = self.row[0]
        groups = [group for size in range(1, order + 1) for group in combinations(range(columns), size)]
        self.effects = [(list(group), generator.normal()) for group in groups]
        self.games = Games(self.background != self.row, self.answers(self.background), self.answers(self.row[None])[0])

    def answers(self, table: np.ndarray) -> np.ndarray:
        return sum(effect * table[:, group].prod(axis=1) for group, effect in self.effects)

    def worth(self, number, coalitions) -> np.ndarray:
        parts = [coalitions(start, min(start + 7, number)) for start in range(0, number, 7)]
        tables = [np.where(members, self.row, self.background[chosen]) for chosen, members in parts]
        return np.concatenate([self.answers(table) for table in tables] or [np.zeros(0)])

    def by_definition(self) -> np.ndarray:
        """The mean over all orders of what a column adds to the mean answer when it joins."""
        columns = len(self.row)
        added = np.zeros(columns)
        for order in permutations(range(columns)):
            table = self.background.copy()
            for column in order:
                before = self.answers(table).mean()
                table[:, column] = self.row[column]
                added[column] += self.answers(table).mean() - before
        return added / math.factorial(columns)


class TestGame:
    def test_gloves(self):
        """Player 0 has a left glove, 1 and 2 have right ones, and only a pair is worth something."""
        worth = np.array([float(number & 1 and number >> 1 > 0) for number in range(8)])
        assert shapley(worth) == pytest.approx([2 / 3, 1 / 6, 1 / 6], abs=1e-15)
        assert shapley(np.array([3.0])).shape == (0,)
        assert shapley(np.array([3.0, 5.0])) == pytest.approx([2.0])

    def test_exact_values_are_those_of_the_definition(self):
        game = RandomGame()
        values = exact(game.games, game.worth)
        assert values == pytest.approx(game.by_definition(), abs=1e-12)
        assert values.sum() == pytest.approx(game.games.answer - game.games.base, abs=1e-12)

    def test_samples_come_close_and_say_how_close(self):
        game = RandomGame()
        truth = game.by_definition()
        values, errors = sampled(game.games, game.worth, 400, 1000)
        assert (errors > 0).all()
        assert (np.abs(values - truth) < 4 * errors).all()
        assert errors.max() < 0.2 * np.abs(truth).max()
        coarse = sampled(game.games, game.worth, 20, 1000)
        assert (coarse[1] > errors).all()

    def test_every_sample_adds_up(self):
        game = RandomGame()
        values, _ = sampled(game.games, game.worth, 2, 1)
        assert values.sum() == pytest.approx(game.games.answer - game.games.base, abs=1e-12)

    def test_one_pair_is_exact_where_no_three_columns_act_together(self):
        game = RandomGame(columns=7, order=2)
        values, errors = sampled(game.games, game.worth, 2, 1000)
        assert values == pytest.approx(exact(game.games, game.worth), abs=1e-12)
        assert errors == pytest.approx(np.zeros(7), abs=1e-12)

    def test_how_many_are_asked_for_at_once_changes_nothing(self):
        game = RandomGame()
        for first, second in zip(*(sampled(game.games, game.worth, 9, at_once) for at_once in (1, 500)), strict=True):
            assert first == pytest.approx(second, abs=1e-12)

    def test_left_out(self):
        game = RandomGame()
        expected = []
        for column in range(5):
            table = np.tile(game.row, (6, 1))
            table[:, column] = game.background[:, column]
            expected.append(game.games.answer - game.answers(table).mean())
        assert left_out(game.games, game.worth) == pytest.approx(expected, abs=1e-12)

    def test_a_row_like_all_others(self):
        games = Games(np.zeros((3, 4), bool), np.full(3, 2.0), 2.0)
        nobody = RandomGame(columns=4).worth
        assert not exact(games, lambda number, coalitions: np.full(number, 2.0)).any()
        assert not sampled(games, nobody, 2, 10)[0].any()
        assert not left_out(games, nobody).any()


class TestRegression:
    def test_contributions_of_a_linear_model_are_known(self, tmp_path):
        network = Network(1, additive=True)
        predictor = exported(PRICE, network, tmp_path)
        row, others = (arrays_of(predictor, *bodies) for bodies in ([ROW], BACKGROUND))
        scale, weights = np.array([1, 60, 20000, 1]), network.weights.detach().numpy()[:, 0]
        filled = [np.nan_to_num(arrays[NUMBERS], nan=55.0) / scale for arrays in (row, others)]
        tables = network.tables.detach().numpy()[..., 0]
        numeric = weights * (filled[0][0] - filled[1].mean(axis=0))
        categorical = [tables[i, row[CODES][0, i]] - tables[i, others[CODES][:, i]].mean() for i in (0, 1)]
        expected = [numeric[0], categorical[0], numeric[1], numeric[2], categorical[1], numeric[3]]
        for settings in ({}, {"samples": 2}, {"method": "occlusion"}):
            assert by_column(explain(predictor, **settings)) == pytest.approx(expected, rel=1e-9, abs=1e-12)

    def test_the_answer_is_the_base_and_all_contributions(self, prices):
        for body in (ROW, *BACKGROUND, {**ROW, "depth": None, "cut": "never seen"}):
            (prediction,) = prices.answer([body])
            for settings in ({}, {"samples": 3}):
                told = explain(prices, body, **settings).as_json()
                parts = [entry["contribution"] for entry in told["contributions"]]
                assert told["answer"] == pytest.approx(prediction.value, rel=1e-12)
                assert told["base_value"] + sum(parts) == pytest.approx(told["answer"], rel=1e-9)

    def test_the_answer_in_full(self, prices):
        told = explain(prices).as_json()
        golden = [prediction.value for prediction in prices.answer(BACKGROUND)]
        assert list(told)[:6] == ["method", "variant", "settings", "scale", "base_value", "answer"]
        assert (told["method"], told["variant"], told["scale"]) == ("shapley", "fp64", "value")
        assert told["base_value"] == pytest.approx(np.mean(golden), rel=1e-12)
        # Of the five rows one is the row itself, and three, four and all of the others' columns differ from it.
        coalitions = 2**6 + 2**4 + 2**6 + 2**2 + 1
        assert told["settings"] == {"background": 5, "evaluations": 6 + coalitions, "exact": True}
        sizes = [abs(entry["contribution"]) for entry in told["contributions"]]
        assert sizes == sorted(sizes, reverse=True)
        assert {entry["column"]: entry["value"] for entry in told["contributions"]} == ROW
        assert all(set(entry) == {"column", "value", "contribution"} for entry in told["contributions"])
        json.dumps(told, allow_nan=False)

    def test_samples_are_told(self, prices):
        asked, again = (explain(prices, samples=50) for _ in range(2))
        told = asked.as_json()
        assert told["settings"]["exact"] is False
        assert told["settings"]["samples"] == 50
        assert told == again.as_json()
        truth = by_column(explain(prices))
        errors = {entry["column"]: entry["standard_error"] for entry in told["contributions"]}
        apart = np.abs(by_column(asked) - truth)
        assert (apart <= 4 * np.array([errors[name] for name in NAMES]) + 1e-12).all()

    def test_a_row_of_the_background_has_contributions_all_the_same(self, prices):
        assert np.abs(by_column(explain(prices, BACKGROUND[0]))).max() > 0.1

    def test_captum_gives_the_same(self, prices):
        attr = pytest.importorskip("captum.attr")
        row, others = arrays_of(prices, ROW), arrays_of(prices, *BACKGROUND)
        at = {NUMBERS: [0, 2, 3, 5], CODES: [1, 4]}

        def mean_answers(members: torch.Tensor) -> torch.Tensor:
            means = []
            for chosen in members.bool().numpy():
                mixed = {name: np.where(chosen[at[name]], row[name], others[name]) for name in at}
                means.append(prices.outputs(mixed)["value"].mean())
            return torch.tensor(means, dtype=torch.float64)

        everybody = torch.ones(1, 6, dtype=torch.float64)
        values = attr.ShapleyValues(mean_answers).attribute(everybody, perturbations_per_eval=6)
        # Captum adds them up in float32.
        assert by_column(explain(prices)) == pytest.approx(values[0].numpy(), abs=1e-5)
        changes = attr.FeatureAblation(mean_answers).attribute(everybody, perturbations_per_eval=6)
        assert by_column(explain(prices, method="occlusion")) == pytest.approx(changes[0].numpy(), abs=1e-5)

    def test_a_number_has_no_label(self, prices):
        with pytest.raises(InputError, match="answers a number") as caught:
            explain(prices, label="cheap")
        assert caught.value.code == "bad_request"


class TestClassification:
    def test_the_log_odds_of_the_answered_label(self, labels):
        (prediction,) = labels.answer([ROW])
        told = explain(labels).as_json()
        assert (told["label"], told["index"], told["scale"]) == (prediction.label, prediction.index, "log_odds")
        calibrated = math.log(prediction.probability / (1 - prediction.probability))
        assert told["answer"] == pytest.approx(calibrated, rel=1e-9)
        parts = [entry["contribution"] for entry in told["contributions"]]
        assert told["base_value"] + sum(parts) == pytest.approx(calibrated, rel=1e-9)

    def test_another_label(self, labels):
        told = [explain(labels, label=label).as_json() for label in ("cheap", "fair", "dear")]
        odds = 1 / (1 + np.exp([-each["answer"] for each in told]))
        assert odds == pytest.approx(labels.answer([ROW])[0].probabilities, rel=1e-9)
        with pytest.raises(InputError, match="no label 'free'"):
            explain(labels, label="free")

    def test_log_odds_of_sure_labels_are_finite(self):
        logits = np.array([[2000.0, 0.0, 0.0], [0.0, 1e300, -1e300], [1.0, 1.0, 1.0]])
        assert log_odds(logits, 0) == pytest.approx([2000 - math.log(2), -1e300, -math.log(2)])
        assert log_odds(logits + 7, 0)[2] == pytest.approx(-math.log(2))
        pair = np.array([[3.0, 1.0]])
        assert log_odds(pair, 0) == -log_odds(pair, 1) == 2.0


class TestCells:
    def test_cells_are_as_they_were_sent(self):
        numbers = np.array([[0.25, np.nan, 19782.5208333333333, 0.0]])
        told = cells_of(TABLE, {NUMBERS: numbers, CODES: np.array([[UNSEEN, MISSING]])})
        assert told == [
            {"column": "carat", "value": 0.25},
            {"column": "cut", "value": None, "unseen": True},
            {"column": "depth", "value": None},
            {"column": "sold", "value": "2024-02-29T12:30:00Z"},
            {"column": "label", "value": None},
            {"column": "lab", "value": False},
        ]

    @pytest.mark.parametrize(
        ("days", "shown"),
        [
            (0.0, "1970-01-01"),
            (-1.0, "1969-12-31"),
            (0.5, "1970-01-01T12:00:00Z"),
            (1e9, "1e+09 days after 1970-01-01"),
        ],
    )
    def test_dates(self, days, shown):
        table = TableSpec(columns=(Column(name="day", kind="date"),))
        assert cells_of(table, {NUMBERS: np.array([[days]])}) == [{"column": "day", "value": shown}]

    @pytest.mark.parametrize("days", [2932896.9, 2932897.0, 2932897.5, -719162.5, 2e6 + 0.123456, 1e300, -1e300])
    def test_any_day_has_a_text(self, days):
        table = TableSpec(columns=(Column(name="sold", kind="date", low=days, high=days),))
        (cell,) = cells_of(table, {NUMBERS: np.array([[days]])})
        described = table.describe()["columns"][0]
        assert cell["value"] == described["low"] == described["high"] == date_text(days)
        assert abs(days) > 1e299 or parse_date(cell["value"]) == pytest.approx(days, abs=1e-9)

    def test_a_date_is_in_iso_8601(self):
        texts = ["2024-02-29", "2024-02-29T12:30:00Z", "1969-12-31T23:59:59.999999Z", "9999-12-31T23:59:00-23:59"]
        assert [date_text(parse_date(text)) for text in texts] == texts
        assert date_text(parse_date("9999-12-31T23:00-05:00")) == "9999-12-31T04:01:00-23:59"
        assert date_text(parse_date("0001-01-01T00:30+01:00")) == "0001-01-01T23:29:00+23:59"

    def test_columns_of_one_kind(self):
        table = TableSpec(columns=(Column(name="cut", kind="category", categories=("Fair",)),))
        assert cells_of(table, {CODES: np.array([[2]])}) == [{"column": "cut", "value": "Fair"}]


@dataclass
class Engine:
    """The sum of all pairs' products, in time that passes only here."""

    each: float = 0.0
    now: float = 0.0
    seen: int = 0
    largest: int = 0

    def __call__(self, inputs):
        self.now += self.each * rows(inputs)
        self.seen += rows(inputs)
        self.largest = max(self.largest, rows(inputs))
        numbers = inputs[NUMBERS]
        return {"value": (numbers.sum(axis=1) ** 2 - (numbers**2).sum(axis=1)) / 2}

    def clock(self) -> float:
        return self.now


def wide(engine, columns: int, folder, others: int = 4) -> RowExplainer:
    """A model of many numbers."""
    table = TableSpec(columns=tuple(Column(name=f"c{i}", kind="number") for i in range(columns)))
    spec = spec_of(PRICE, table)
    bodies = np.random.default_rng(0).normal(size=(others, columns)).tolist()
    predictor = with_golden(Bundle(folder, spec), spec.variants[0], engine, bodies)
    if not isinstance(engine, Engine):
        return RowExplainer(predictor)
    engine.now, engine.seen = 0.0, 0
    return RowExplainer(predictor, clock=engine.clock)


class TestBudget:
    @pytest.mark.parametrize(("each", "exactly"), [(1e-6, True), (1e-3, False), (3e-3, False)])
    def test_all_coalitions_where_there_is_time(self, each, exactly, tmp_path):
        engine = Engine(each)
        explainer = wide(engine, 10, tmp_path)
        row = np.arange(10.0)[None]
        explanation = explainer.explain({NUMBERS: row}, None, RowRequest(), 2.0)
        assert explanation.settings["exact"] is exactly
        assert engine.now <= 2.0
        assert engine.largest * each <= 0.25
        # A model of pairs is explained exactly by samples, too: each pair's difference is shared out equally.
        assert explanation.contributions.sum() == pytest.approx(explanation.answer - explanation.base, rel=1e-9)
        assert (explanation.errors is None) is exactly
        if not exactly:
            assert explanation.errors == pytest.approx(np.zeros(10), abs=1e-9)

    @pytest.mark.parametrize("settings", [{}, {"method": "occlusion"}])
    def test_a_model_that_is_too_slow_is_told(self, settings, tmp_path):
        engine = Engine(0.1)
        explainer = wide(engine, 10, tmp_path)
        with pytest.raises(InputError, match="100 ms each here") as caught:
            explainer.explain({NUMBERS: np.arange(10.0)[None]}, None, RowRequest(**settings), 2.0)
        assert caught.value.code == "too_slow"
        assert engine.now <= 2.0

    def test_what_is_cheaper_where_the_time_does_not_suffice(self, tmp_path):
        explainer, row = wide(Engine(5e-4), 300, tmp_path), {NUMBERS: np.arange(300.0)[None]}
        told = explainer.explain(row, None, RowRequest(), 2.0).as_json()
        assert (told["method"], told["note"][:19]) == ("occlusion", "occlusion, because ")
        for request in (RowRequest(method="shapley"), RowRequest(samples=2)):
            with pytest.raises(InputError, match=r"0\.5000 ms each here"):
                explainer.explain(row, None, request, 2.0)

    def test_samples_that_do_not_fit(self, tmp_path):
        explainer = wide(Engine(1e-3), 10, tmp_path)
        with pytest.raises(InputError, match="it takes 36000 passes"):
            explainer.explain({NUMBERS: np.arange(10.0)[None]}, None, RowRequest(samples=500), 2.0)

    @pytest.mark.parametrize("columns", [1, 40, 300])
    def test_evaluations_are_bounded_whatever_the_time(self, columns, tmp_path):
        engine = Engine(1e-9)
        explanation = wide(engine, columns, tmp_path).explain(
            {NUMBERS: np.ones((1, columns))}, None, RowRequest(), 600.0
        )
        assert explanation.settings["evaluations"] <= MOST_EVALUATIONS + 5
        assert engine.seen <= MOST_EVALUATIONS + 4 * TableSpec.chunk
        assert engine.largest <= TableSpec.chunk

    @pytest.mark.parametrize(
        ("answer", "message"),
        [(lambda row: 1e308 * row[:, 0], "not finite"), (lambda row: 1e308 * (row[:, 0] - row[:, 1]), "mixtures")],
    )
    def test_answers_that_are_too_large(self, answer, message, tmp_path):
        """The row and the background have finite answers; their differences, or those of mixtures, are not."""
        explainer = wide(lambda inputs: {"value": answer(inputs[NUMBERS])}, 3, tmp_path)
        with pytest.raises(InputError, match=message) as caught, np.errstate(over="ignore"):
            explainer.explain({NUMBERS: np.array([[1.7, 1.5, 0.0]])}, None, RowRequest(), 2.0)
        assert caught.value.code == "inference_failed"


class TestRequest:
    def explainer(self) -> RowExplainer:
        return RowExplainer(Predictor(Bundle(None, spec_of(PRICE)), spec_of(PRICE).variants[0], None))

    def read(self, request, is_asked=True):
        return parse(request, is_asked, RowRequest, self.explainer().own_names)

    def test_settings_beside_rows(self):
        document = {"instances": [[1]], "method": "occlusion", "samples": 5, "label": "x"}
        expected = RowRequest(method="occlusion", samples=5, label="x")
        assert self.read({"body": document}) == (expected, {"body": {"instances": [[1]]}})
        assert self.read({"body": json.dumps(document).encode()}) == (expected, {"body": {"instances": [[1]]}})
        form = {"data": b"1,2\n", "method": b"shapley", "samples": "5"}
        assert self.read(form) == (RowRequest(method="shapley", samples=5), {"data": b"1,2\n"})

    def test_a_columns_name_is_its_cell(self):
        """The table has a column ``label``."""
        row = {"carat": 1, "label": "B"}
        assert self.read({"body": {**row, "method": "shapley"}}) == (RowRequest(method="shapley"), {"body": row})
        assert self.read({"body": row}) == (RowRequest(), {"body": row})

    def test_bodies_without_settings(self):
        for body in ([[1, 2]], b"1,2\n", b'{"carat": 1}\n{"carat": 2}\n'):
            assert self.read({"body": body}) == (RowRequest(), {"body": body})
            assert self.read({"body": body}, False) is None

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"method": "gradcam"}, "method: expected auto, shapley, occlusion, got 'gradcam'"),
            ({"samples": 1}, "samples: expected 2 to 1000"),
            ({"samples": 2.5}, "samples: expected 2 to"),
            ({"label": 3}, "label: expected a name"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises(InputError, match=message):
            self.read({"body": {"instances": [[1]], **settings}})


def service(predictor: Predictor, **config) -> Handler:
    loaded = Handler()
    loaded._predictor, loaded._model = predictor, {"name": "prices"}
    loaded._explanations = Explanations(predictor, "cpu", WorkerConfig(explain_seconds=30, **config))
    return loaded


def ask(loaded: Handler, *requests) -> list[tuple[int, dict]]:
    """Status and body of each; all come to ``/explanations``."""
    context = Context("prices", "", {}, len(requests), None, "0")
    context.request_processor = [RequestProcessor({"explain": "True"}) for _ in requests]
    bodies = loaded.handle(list(requests), context)
    return [(context.get_response_status(i)[0], json.loads(body)) for i, body in enumerate(bodies)]


CSV = ",".join(NAMES) + "\n1.2,Ideal,61.5,2024-02-29,B,true\n"


class TestService:
    def test_every_form_of_one_row_gets_the_same_explanation(self, prices):
        bodies = (ROW, [ROW], [list(ROW.values())], {"instances": [ROW]}, CSV.encode(), json.dumps(ROW).encode())
        answers = ask(service(prices), *({"body": body} for body in bodies))
        assert [status for status, _ in answers] == [200] * len(bodies)
        assert all(answer["explanation"] == answers[0][1]["explanation"] for _, answer in answers)
        value = answers[0][1]["value"]
        assert answers[1][1]["predictions"][0]["value"] == pytest.approx(value, rel=1e-12)
        assert answers[0][1]["explanation"]["answer"] == pytest.approx(value, rel=1e-12)

    @pytest.mark.parametrize(
        "body", [[ROW, ROW], {"instances": [ROW, ROW]}, [{**ROW, "carat": "x"}, ROW], (CSV * 2).encode()]
    )
    def test_several_rows(self, prices, body):
        ((status, answer),) = ask(service(prices), {"body": body})
        assert (status, answer["error"]["code"]) == (400, "bad_request")
        assert "of one input" in answer["error"]["message"]

    def test_several_rows_are_counted_without_being_decoded(self, prices):
        """An explanation is of one row; how many a request has is known before they are decoded."""
        decoded = set()

        def watch(frame, event, argument):
            if event == "call" and frame.f_code.co_filename.endswith("table/decode.py"):
                decoded.add(frame.f_code.co_name)

        loaded = service(prices)
        for body in ([ROW] * 20, json.dumps({"instances": [ROW] * 20, "explain": True}).encode(), CSV.encode() * 2):
            sys.setprofile(watch)
            try:
                ((status, answer),) = ask(loaded, {"body": body})
            finally:
                sys.setprofile(None)
            assert (status, answer["error"]["code"], decoded) == (400, "bad_request", set())

    @pytest.mark.parametrize("is_asked", [True, False])
    def test_the_size_of_a_request_is_limited_with_explanations_as_without(self, prices, is_asked):
        table = replace(TABLE, max_bytes=400)
        small = Predictor(Bundle(None, replace(prices.spec, input=table)), prices.variant, prices.engine)
        loaded = service(small)
        document = json.dumps({"instances": [ROW], "explain": True})
        for body in (document + " " * 400, document.encode() + b" " * 400):
            for form in ({"body": body}, {"data": body, "explain": "true"}):
                context = Context("prices", "", {}, 1, None, "0")
                context.request_processor = [RequestProcessor({"explain": "True"} if is_asked else {})]
                (answer,) = loaded.handle([form], context)
                assert context.get_response_status(0)[0] == 413
                assert json.loads(answer)["error"]["code"] == "too_large"

    def test_a_bad_row_gets_its_own_error(self, prices):
        ((status, answer),) = ask(service(prices), {"body": [{**ROW, "carat": "x"}]})
        assert status == 400
        assert "explanation" not in answer

    def test_switched_off(self, prices):
        ((status, answer),) = ask(service(prices, explain=False), {"body": ROW})
        assert (status, answer["error"]["code"]) == (501, "not_supported")

    def test_settings_reach_the_explainer(self, labels):
        loaded = service(labels)
        form = {"data": json.dumps(ROW).encode(), "method": b"occlusion", "label": b"cheap"}
        ((status, answer),) = ask(loaded, form)
        assert status == 200
        assert (answer["explanation"]["method"], answer["explanation"]["label"]) == ("occlusion", "cheap")
        for bad in ({"body": {"instances": [ROW], "method": "lime"}}, {**form, "label": b"free"}):
            ((status, answer),) = ask(loaded, bad)
            assert (status, answer["error"]["code"]) == (400, "bad_request")

    def test_without_golden_rows_nothing_is_explained(self, prices, tmp_path):
        bare = Predictor(Bundle(tmp_path, prices.spec), prices.variant, prices.engine)
        ((status, answer),) = ask(service(bare), {"body": ROW})
        assert (status, answer["error"]["code"]) == (501, "not_supported")
