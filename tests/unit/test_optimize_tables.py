"""Variants of models of tables: the same answers in float32, how a loss of quality is judged, and what is built."""

import csv
import datetime
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as ops
from sklearn.metrics import r2_score

from marquee.handlers.core.accuracy import Quality, accuracy_refusal, paired_difference
from marquee.handlers.core.arrays import Arrays, concatenate, rows, take
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.engines.float_parts import LARGEST, in_parts, parts
from marquee.handlers.core.engines.openvino import OpenVinoEngine
from marquee.handlers.core.engines.openvino_core import core
from marquee.handlers.core.host import this_host
from marquee.handlers.core.measurement import Measurement, Ranking
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.handlers.inputs.table.spec import CODES, MISSING, NUMBERS, UNSEEN, Column, TableSpec
from marquee.handlers.outputs.classification import ClassificationSpec
from marquee.handlers.outputs.outside import OUTSIDE
from marquee.handlers.outputs.regression import VALUE, RegressionCalibration, RegressionSpec
from marquee.training.core.config import merge_config
from marquee.training.core.errors import OptimizeError
from marquee.training.core.progress import Progress
from marquee.training.core.run import train
from marquee.training.core.task import task_for
from marquee.training.optimize.build import Builder, Network
from marquee.training.optimize.builds import Builds, check_pruning, kinds_for
from marquee.training.optimize.config import OptimizeConfig, PruningConfig
from marquee.training.optimize.datasets import Datasets, read_datasets, read_run
from marquee.training.optimize.judge import Order
from marquee.training.optimize.optimize import Optimized
from marquee.training.optimize.table import table
from marquee.training.tasks import default_config, task_named
from marquee.training.tasks.tabular.edges import edge_rows
from marquee.training.tasks.tabular.float32 import NumbersInParts, OutsideInParts
from marquee.training.tasks.tabular.manifest import TableManifest
from marquee.training.tasks.tabular.network import Served
from marquee.training.tasks.tabular.preprocessing import FittedNumber, NumberPreparation, Outside
from marquee.training.tasks.tabular.regression import TabularRegression

QUIET = Progress(quiet=True)
START = datetime.datetime(2024, 10, 1, tzinfo=datetime.timezone.utc)
MODELS = {
    "linear": {"model": {"name": "linear"}},
    "mlp": {"model": {"name": "mlp", "width": 16}, "prepare": {"clip": "iqr", "indicator": True}},
    "tabm": {
        "model": {"name": "tabm", "width": 16, "members": 3, "embeddings": "periodic"},
        "prepare": {"categories": "embedding"},
    },
}


def write_readings(path: Path) -> Path:
    """Times within a day and counters above a thousand million: numbers of which float32 tells few apart."""
    generator, lines = np.random.default_rng(0), [["when", "counter", "site", "valve", "level", "y", "state"]]
    for _ in range(240):
        second, more = int(generator.integers(0, 86_400)), int(generator.integers(0, 50))
        when = (START + datetime.timedelta(seconds=second)).isoformat()
        site, valve = str(generator.choice(["north", "south", ""])), str(generator.choice(["true", "false"]))
        level = "" if generator.random() < 0.2 else repr(float(generator.normal()))
        answer = second / 3600 + 0.3 * more + (site == "north") + float(generator.normal()) * 0.1
        lines.append([when, str(10**9 + more), site, valve, level, repr(answer), "high" if answer > 20 else "low"])
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows(lines)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("readings")


@pytest.fixture(scope="module")
def readings(folder) -> Path:
    return write_readings(folder / "readings.csv")


def trained(folder: Path, readings: Path, name: str, task: str) -> Path:
    """The run of one of :data:`MODELS`, of two epochs where it would have more."""
    run, classifies = folder / f"{name}-{task}", task == "tabular-classification"
    if not run.exists():
        columns = {"target": "state", "ignore": ("y",)} if classifies else {"target": "y", "ignore": ("state",)}
        settings = {"table": columns, "loop": {"epochs": 2}, **MODELS[name]}
        train(merge_config(default_config(task), settings), readings, run, report=False)
    return run


@pytest.fixture(params=[(name, "tabular-regression") for name in MODELS] + [("mlp", "tabular-classification")])
def run(request, folder, readings) -> Path:
    return trained(folder, readings, *request.param)


@pytest.fixture
def linear(folder, readings) -> Path:
    return trained(folder, readings, "linear", "tabular-regression")


def datasets_of(run: Path, copy: Path) -> Datasets:
    """The data for optimising a copy of a run's bundle."""
    shutil.copytree(run / "bundle", copy)
    bundle = Bundle.read(copy)
    return read_datasets(bundle, read_run(run, bundle.spec), run / "bundle", OptimizeConfig(), QUIET)


def everything(datasets: Datasets) -> Arrays:
    """Every row of the data set, and those at the edges."""
    task, manifest = task_for(datasets.spec), datasets.run.manifest
    return concatenate([*task.batches(datasets.spec, manifest.records, 0), task.edges(datasets.spec)])


class TestParts:
    values = np.random.default_rng(0).normal(size=2000) * 10.0 ** np.random.default_rng(1).integers(-20, 37, 2000)

    def test_their_sum_is_the_number(self):
        summed = parts(self.values).astype(np.float64).sum(axis=1)
        assert np.array_equal(summed, self.values)
        assert parts(self.values.reshape(500, 4)).shape == (500, 3, 4)

    @pytest.mark.parametrize("value", [0.1, -20000.123, 1e9 + 3, 1 / 3, 16777217.0, -7e-21])
    def test_they_are_ordered_like_the_number(self, value):
        others = [np.nextafter(value, -np.inf), value, np.nextafter(value, np.inf)]
        split = parts(np.array(others)).tolist()
        assert split == sorted(split)
        assert len({*map(tuple, split)}) == 3

    def test_missing_and_huge_numbers(self):
        split = parts(np.array([np.nan, 1e300, -np.inf]))
        assert np.isnan(split[0]).all()
        assert np.array_equal(split[1:, 0], np.array([LARGEST, -LARGEST], np.float32))
        assert np.isfinite(split[1:]).all()

    def test_only_float64_is_split(self):
        arrays = {"pixels": np.zeros((2, 4, 4, 1), np.uint8), CODES: np.zeros((2, 3), np.int64)}
        split = in_parts({**arrays, NUMBERS: np.zeros((2, 5))})
        assert all(split[name] is values for name, values in arrays.items())
        assert split[NUMBERS].shape == (2, 3, 5)
        assert split[NUMBERS].dtype == np.float32


SPEC = TableSpec(
    columns=(
        Column(name="when", kind="date", low=20000.123, high=20000.987),
        Column(name="site", kind="category", categories=("north", "south"), may_be_missing=True),
        Column(name="number", kind="number", low=-1e9 / 3, high=1e9 + 3, may_be_missing=True),
        Column(name="flag", kind="boolean"),
    )
)


class TestEdges:
    def test_each_edge_of_each_column_is_there_once(self):
        edges = edge_rows(SPEC)
        assert rows(edges) == 1 + 4 + 5 + 0 + 4
        when = edges[NUMBERS][:, 0]
        assert {20000.123, 20000.987, np.nextafter(20000.987, np.inf)} <= set(when.tolist())
        assert np.isnan(edges[NUMBERS][:, 1]).sum() == 1
        assert {MISSING, UNSEEN} <= set(edges[CODES][:, 0].tolist())

    def test_numbers_or_categories_alone(self):
        for columns in (SPEC.columns[:1], SPEC.columns[1:2]):
            assert rows(edge_rows(TableSpec(columns=columns))) == 5

    def test_outside_is_as_exact_as_in_float64(self):
        generator, edges = np.random.default_rng(0), edge_rows(SPEC)
        near = generator.choice(edges[NUMBERS][:, 0], 500) + generator.integers(-3, 4, 500) * 3.6e-12
        more = {NUMBERS: np.tile(edges[NUMBERS][:1], (500, 1)), CODES: np.full((500, 1), 2)}
        more[NUMBERS][:, 0] = near
        arrays = concatenate([edges, more])
        numbers, codes = torch.from_numpy(arrays[NUMBERS]), torch.from_numpy(arrays[CODES])
        exact = Outside(SPEC)(numbers, codes)
        assert 50 < int(exact.sum()) < len(near)
        assert torch.equal(OutsideInParts(SPEC)(torch.from_numpy(parts(arrays[NUMBERS])), codes), exact)
        # A plain float32 takes some of them for the bound itself.
        assert not torch.equal(Outside(SPEC).float()(numbers.float(), codes), exact)


class TestPreparation:
    spec = TableSpec(columns=(SPEC.columns[0], SPEC.columns[2]))
    fitted = (
        FittedNumber(fill=20000.5, center=20000.5, scale=0.25),
        FittedNumber(fill=0.0, low=-2e8, high=1e9 + 2, center=1e9, scale=3.0, indicator=True),
    )

    def test_it_is_that_of_float64_rounded(self):
        numbers = np.array([[20000.123, 1e9 + 1], [20000.987654, np.nan], [20001.0, 1e300], [19999.25, -np.inf]])
        exact = NumberPreparation(self.fitted)(torch.from_numpy(numbers))
        found = NumbersInParts(NumberPreparation(self.fitted), self.spec)(torch.from_numpy(parts(numbers)))
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), exact, rtol=1e-6, atol=1e-7)

    def test_a_scale_without_a_float32_is_named(self):
        tiny = (self.fitted[0], replace(self.fitted[1], scale=1e-60))
        with pytest.raises(OptimizeError, match="column 'number': its scale, 1e-60, has no float32"):
            NumbersInParts(NumberPreparation(tiny), self.spec)


class TestOpenVino:
    @pytest.mark.slow
    def test_it_answers_as_the_first_variant_does(self, run, tmp_path):
        datasets = datasets_of(run, tmp_path / "bundle")
        variant = Builder(Network(prefix="", model=datasets.run.model), datasets, OptimizeConfig(), QUIET).build(
            "openvino-fp32"
        )
        bundle, first = datasets.bundle, datasets.spec.variants[0]
        assert variant.outputs == first.outputs
        bundle = bundle.with_spec(replace(bundle.spec, variants=(first, variant)))
        one, other = (Predictor(bundle, each, load_engine(bundle, each, "cpu")) for each in (first, variant))
        arrays = everything(datasets)
        expected, found = one.outputs(arrays), other.outputs(arrays)
        assert one.output.differences(found, expected).max() < 0.1 * variant.tolerance
        assert np.array_equal(found[OUTSIDE], expected[OUTSIDE])
        assert expected[OUTSIDE].any(axis=0).tolist() == [True, True, True, False, True]  # no boolean is
        # The same rows get the same answers alone, and in a batch that is shared out among threads.
        alone = other.outputs(take(arrays, slice(0, 1)))
        assert one.output.differences(alone, take(found, slice(0, 1))).max() < 1e-6

    def test_plain_float32_would_not(self, linear):
        """The rows of these tests are such that the parts of the numbers matter."""
        run = read_run(linear, Bundle.read(linear / "bundle").spec)
        spec: TableSpec = Bundle.read(linear / "bundle").spec.input
        exact = Served(run.model, spec).eval()
        (arrays,) = run.task.batches(Bundle.read(linear / "bundle").spec, run.manifest.records, 0)
        tensors = [torch.from_numpy(values) for values in arrays.values()]
        with torch.no_grad():
            expected = exact(*tensors)[0]
            rounded = [values.float().double() if values.is_floating_point() else values for values in tensors]
            apart = (exact(*rounded)[0] - expected).abs().max() / (expected.max() - expected.min())
        assert apart > 0.1

    def test_a_program_in_float64_alone_is_refused(self, linear, tmp_path):
        datasets = datasets_of(linear, tmp_path / "bundle")
        builder = Builder(Network(prefix="", model=None), datasets, OptimizeConfig(), QUIET)
        with pytest.raises(OptimizeError, match="only a program in float64, and OpenVINO computes in float32"):
            builder.build("openvino-fp32")


@pytest.mark.parametrize(("items", "shared"), [(1, 0), (8, 0), (127, 0), (128, 128), (200, 200), (201, 200)])
def test_a_few_rows_are_not_shared_out_among_streams(items, shared):
    values = ops.parameter([-1, 3, 2], np.float32)
    doubled = ov.Model([ops.reduce_sum(values, ops.constant([1]), False)], [values])
    together, alone = (core().compile_model(doubled, "CPU", {"NUM_STREAMS": streams}) for streams in (2, 1))
    engine = OpenVinoEngine(together, alone, ("sum",), least=64)
    numbers = np.random.default_rng(0).normal(size=(items, 2))
    assert np.allclose(engine({NUMBERS: numbers})["sum"], numbers)
    assert engine._rest.input_tensors[0].shape[0] in ({items - shared} if items > shared else {0, 1})


class TestKinds:
    def test_those_of_a_table(self, linear):
        spec = Bundle.read(linear / "bundle").spec
        assert kinds_for(spec, OptimizeConfig(), "cpu") == ["openvino-fp32"]
        assert kinds_for(spec, OptimizeConfig(), "cuda:0") == []
        assert task_for(spec).variant_kinds(spec) == ("openvino-fp32", "compiled-fp64")

    def test_others_are_left_out_with_the_reason(self, linear, tmp_path):
        datasets = datasets_of(linear, tmp_path / "bundle")
        config = OptimizeConfig(variants=("bf16", "openvino-int8"))
        builds = Builds(datasets, config, "cpu", QUIET)
        builds.build(Network(prefix="", model=datasets.run.model), kinds_for(datasets.spec, config, "cpu"))
        reason = "for this model there are only openvino-fp32, compiled-fp64"
        assert builds.left_out == {"bf16": reason, "openvino-int8": reason}
        assert builds.variants == [datasets.spec.variants[0]]

    def test_tables_are_not_pruned(self, linear):
        run = read_run(linear, Bundle.read(linear / "bundle").spec)
        check_pruning(PruningConfig(), run, linear)
        with pytest.raises(OptimizeError, match="networks for tabular-regression cannot be pruned"):
            check_pruning(PruningConfig(weights=0.5), run, linear)

    def test_a_network_in_float64_keeps_its_precision(self, linear):
        run = read_run(linear, Bundle.read(linear / "bundle").spec)
        assert {values.dtype for values in run.model.state_dict().values() if values.is_floating_point()} == {
            torch.float64
        }
        assert isinstance(run.manifest, TableManifest)


class TestQuality:
    output = RegressionSpec(target="y", low=0.0, high=10.0)
    variant = VariantSpec(name="fp64", engine="exported", precision="fp64", files={"m": "0" * 64})
    targets = np.random.default_rng(0).uniform(0, 10, 200)
    values = targets + np.random.default_rng(1).normal(size=200)

    def scores(self, values: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return TabularRegression().scores(self.output.create(self.variant, None), {VALUE: values}, targets)

    def test_the_mean_score_of_numbers_is_r2(self):
        assert self.scores(self.values, self.targets).mean() == pytest.approx(r2_score(self.targets, self.values))
        assert self.scores(np.full(4, 2.0), np.full(4, 3.0)).tolist() == pytest.approx([0.99] * 4)

    def test_a_better_model_scores_more_whatever_its_intervals_are(self):
        worse = self.targets + 2 * (self.values - self.targets)
        drop = paired_difference(self.scores(self.values, self.targets), self.scores(worse, self.targets))
        assert drop.value == pytest.approx(3 * (1 - r2_score(self.targets, self.values)))
        assert 0 < drop.interval[0] < drop.value < drop.interval[1]

    def test_the_interval_covers_the_true_difference(self):
        generator, covered = np.random.default_rng(0), 0
        for _ in range(500):
            before = generator.normal(size=80)
            found = paired_difference(before, before - generator.normal(0.01, 0.05, 80))
            covered += found.interval[0] <= 0.01 <= found.interval[1]
        assert 0.92 * 500 < covered < 0.98 * 500

    def test_rows_that_belong_together_show_less(self):
        before, after = self.scores(self.values, self.targets), self.scores(self.values + 0.1, self.targets)
        wide, narrow = (paired_difference(before, after, effective).interval for effective in (50.0, None))
        assert wide[1] - wide[0] == pytest.approx(2 * (narrow[1] - narrow[0]))

    def test_how_far_the_intervals_are_from_their_level(self):
        task, without = TabularRegression(), self.output.create(self.variant, None)
        assert task.calibration_error(without, {VALUE: self.values}, self.targets) is None
        calibrated = replace(self.variant, calibration=RegressionCalibration(level=0.9, half_width=1e9))
        output = self.output.create(calibrated, None)
        assert task.calibration_error(output, {VALUE: self.values}, self.targets) == pytest.approx(0.1)

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"images": 20}, "20 rows are too few to judge it"),
            ({"drop": 0.0, "drop_interval": (-1e-6, 1e-6)}, None),
            # So few rows would not do for shares of right answers.
            ({"drop": 0.004, "drop_interval": (-0.01, 0.018)}, "may lose 1.80% of the R2, 0.50% are allowed"),
        ],
    )
    def test_who_may_be_served(self, fields, reason):
        quality = Quality(name="R2", unit="rows", graded=True)
        found = accuracy_refusal(measured(**{"images": 60, **fields}), 0.005, quality)
        assert found is None if reason is None else found.startswith(reason)


def measured(**fields) -> Measurement:
    values = {
        "host": this_host(),
        "date": "2026-01-01T00:00:00Z",
        "threads": 2,
        "images": 1000,
        "accuracy": 0.95,
        "drop": 0.0,
        "drop_interval": (-0.001, 0.001),
        "agreement": 1.0,
        "difference": 0.0,
        "latency_p50_ms": 0.086,
        "latency_p99_ms": 1.5,
        "images_per_second": {"1": 11000.0, "8": 80000.0, "32": 300000.0},
        "load_seconds": 1.0,
        "memory_bytes": 1,
        "file_bytes": 1,
    }
    return Measurement(**{**values, **fields})


@pytest.mark.parametrize(
    ("task", "source", "output", "headings"),
    [
        ("tabular-regression", SPEC, TestQuality.output, ["R2", "rows/s 1", "8", "32", "4096"]),
        ("tabular-classification", SPEC, ClassificationSpec(labels=("a", "b")), ["accuracy", "rows/s 1", "4096"]),
        (
            "image-classification",
            ImageSpec(channels=1, resize=8, crop=8),
            ClassificationSpec(labels=("a", "b")),
            ["accuracy", "img/s 1", "8", "32", "load s"],
        ),
    ],
)
def test_the_columns_are_headed_by_what_they_hold(task, source, output, headings):
    sizes = {str(size): 80000.0 for size in task_named(task).batch_sizes}
    answers = "value" if task == "tabular-regression" else "logits"
    variant = VariantSpec(
        name="fp32",
        engine="exported",
        precision="fp32",
        files={"m": "0" * 64},
        outputs=(answers,),
        measurements=(measured(images_per_second=sizes),),
    )
    ranking = Ranking(host=this_host(), date="2026-01-01T00:00:00Z", order=("fp32",), max_accuracy_drop=0.005)
    spec = ModelSpec(
        schema_version=3,
        task=task,
        input=source,
        output=output,
        variants=(variant,),
        golden=GoldenSpec(),
        rankings=(ranking,),
    )
    chosen = Order(("fp32",), "fp32: the only variant that may be served")
    result = Optimized(spec=spec, order=chosen, judged="60 test rows", refused={}, left_out={})
    head, line, judged = table(result).splitlines()
    assert judged.endswith("and agreement: on 60 test rows")
    for heading in headings:
        assert f"  {heading}" in head
    assert "0.086" in line
    assert len(head) == len(line)
