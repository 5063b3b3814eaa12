"""Training on tables: the loss by hand, least squares against the closed form, when it stops, and how it resumes."""

import ast
import csv
import inspect
import itertools
import json
import math
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn import metrics as sk
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

import marquee
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.schema import to_dict
from marquee.handlers.inputs.table.spec import CODES, NUMBERS, Column, TableSpec
from marquee.training.core.assemble import build_trainer
from marquee.training.core.checkpoint import CheckpointStore, TrainingState, load_weights
from marquee.training.core.config import load_run_config, merge_config
from marquee.training.core.context import RunContext
from marquee.training.core.distributed import ProcessGroup
from marquee.training.core.errors import TrainingError
from marquee.training.core.progress import Progress
from marquee.training.core.records import prepare_folder
from marquee.training.core.run import train
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.sampler import DistributedBatchSampler
from marquee.training.core.seeding import derive_seed, seed_step
from marquee.training.core.task import task_of
from marquee.training.tasks import default_config
from marquee.training.tasks.tabular.batches import EvaluationBatches, TrainingBatches, share_of
from marquee.training.tasks.tabular.config import TableAugmentConfig, TableLossConfig, TableRunConfig
from marquee.training.tasks.tabular.manifest import TableManifest, arrays_of, numbers_of, read_manifest
from marquee.training.tasks.tabular.network import Served, TabularNetwork, build_network, tensors
from marquee.training.tasks.tabular.objective import ClassificationObjective, RegressionObjective, class_weights
from marquee.training.tasks.tabular.preprocessing import fit_target
from marquee.training.tasks.tabular.read import read_table
from marquee.training.tasks.tabular.resolve import (
    OPEN_LOOP,
    OPEN_OPTIMIZER,
    Curvature,
    curvature,
    is_least_squares,
    resolve,
)
from marquee.training.tasks.tabular.split import assign_splits

REGRESSION, CLASSIFICATION = "tabular-regression", "tabular-classification"


def config(task: str = REGRESSION, **settings) -> TableRunConfig:
    result: TableRunConfig = merge_config(default_config(task), {"table": {"target": "y"}, **settings})
    return result


def write(path: Path, names: Sequence[str], rows) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def diabetes(tmp_path_factory) -> Path:
    """Ten columns in units of their own, and one of redundant categories."""
    data = load_diabetes(scaled=False)
    ages = np.digitize(data.data[:, 0], [40, 55]).tolist()
    rows = [
        [*values, ["young", "middle", "old"][age], target]
        for values, age, target in zip(data.data.tolist(), ages, data.target.tolist(), strict=True)
    ]
    return write(tmp_path_factory.mktemp("diabetes") / "diabetes.csv", [*data.feature_names, "stage", "y"], rows)


@pytest.fixture(scope="module")
def iris(tmp_path_factory) -> Path:
    data = load_iris()
    rows = [[*row, data.target_names[label]] for row, label in zip(data.data.tolist(), data.target, strict=True)]
    return write(tmp_path_factory.mktemp("iris") / "iris.csv", ["a", "b", "c", "d", "y"], rows)


def documented_settings(part: type) -> dict[str, str]:
    """The text below each field of a part of the configuration, which --help shows."""
    body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0].body
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def manifest_of(data: Path, run: TableRunConfig) -> TableManifest:
    kind = "regression" if run.task == REGRESSION else "classification"
    manifest, _, _ = read_table(data, run.table, kind)
    return assign_splits(manifest, run)[0]


class Fit:
    """A training without export.

    Args:
        data: the table.
        out: folder of the run.
        run: the configuration.
    """

    def __init__(self, data: Path, out: Path, run: TableRunConfig) -> None:
        quiet = Progress(quiet=True)
        self.config, self.manifest = prepare_folder(run, data, out, False, ProcessGroup(), quiet)
        network = task_of(run).build(self.config, self.manifest)
        self.network: TabularNetwork = network.model
        context = RunContext(folder=RunFolder(out), device=torch.device("cpu"), progress=quiet)
        self.trainer = build_trainer(self.config, self.manifest, network, context)
        self.state = self.trainer.fit(TrainingState())

    def answers(self, split: str = "test") -> np.ndarray:
        """Of a regression, not clipped."""
        arrays = arrays_of(self.manifest.spec, self.manifest.split(split))
        with torch.no_grad():
            outputs = self.network.eval()(*map(torch.from_numpy, arrays.values()))
        target = self.network.target
        result: np.ndarray = (outputs * target.scale + target.center).numpy()
        return result

    def reference(self, model, split: str = "test") -> np.ndarray:
        """The answers of a model of scikit-learn that is fitted on the same rows, with the same preparation."""
        columns = list(range(10))
        prepare = make_column_transformer((StandardScaler(), columns), (OneHotEncoder(sparse_output=False), [10]))
        train, other = (self.manifest.split(name) for name in ("train", split))
        targets = numbers_of(train)
        scaler = StandardScaler().fit(targets[:, None])
        fitted = make_pipeline(prepare, model).fit(cells(train), scaler.transform(targets[:, None])[:, 0])
        result: np.ndarray = scaler.inverse_transform(fitted.predict(cells(other))[:, None])[:, 0]
        return result


def network(labels: int = 0, **settings) -> TabularNetwork:
    """Two numbers, standardised; targets have mean 20 and deviation 10."""
    run = config(CLASSIFICATION if labels else REGRESSION, **settings)
    spec = TableSpec(columns=tuple(Column(name=name, kind="number", low=-9.0, high=9.0) for name in "ab"))
    train = {NUMBERS: np.random.default_rng(0).normal(3, 2, (50, 2))}
    result = build_network(run, spec, train, fit_target(np.array([10.0, 30.0]), "standard", clip=False), labels)
    torch.manual_seed(0)
    for parameter in result.parameters():
        torch.nn.init.normal_(parameter)
    return result


OUTPUTS = torch.tensor([0.5, -1.0, 3.0, 0.0], dtype=torch.float64)
TARGETS = torch.tensor([20.0, 10.0, 20.0, 55.0], dtype=torch.float64)
SCALED = (TARGETS - 20) / 10


class TestRegressionLoss:
    @staticmethod
    def loss(outputs: torch.Tensor = OUTPUTS, **settings) -> float:
        objective = RegressionObjective(network(), TableLossConfig(**settings), TableAugmentConfig())
        rows = torch.zeros(4, 2, dtype=torch.float64)
        return objective.loss(outputs, (rows,), (rows, TARGETS)).item()

    def test_mse_and_mae_are_those_of_scikit_learn_in_units_of_the_scaled_target(self):
        assert self.loss() == pytest.approx(sk.mean_squared_error(SCALED, OUTPUTS), rel=1e-14)
        assert self.loss(name="mse") == self.loss()
        assert self.loss(name="mae") == pytest.approx(sk.mean_absolute_error(SCALED, OUTPUTS), rel=1e-14)

    @pytest.mark.parametrize("delta", [0.25, 1.0, 10.0])
    def test_huber_by_hand(self, delta):
        errors = (OUTPUTS - SCALED).abs()
        expected = torch.where(errors <= delta, errors**2 / 2, delta * (errors - delta / 2)).mean().item()
        assert self.loss(name="huber", huber_delta=delta) == pytest.approx(expected, rel=1e-14)

    @pytest.mark.parametrize("name", ["mse", "mae", "huber"])
    def test_members_of_an_ensemble_each_have_a_loss(self, name):
        members = torch.stack([OUTPUTS, OUTPUTS + 1, -OUTPUTS], dim=1)
        each = [self.loss(member, name=name) for member in members.unbind(1)]
        assert self.loss(members, name=name) == pytest.approx(sum(each) / 3, rel=1e-14)
        assert self.loss(members, name=name) > self.loss(members.mean(1), name=name)

    def test_penalties_are_for_weights_and_not_for_the_intercept(self):
        weight = network().body.weight
        assert self.loss(l1=0.1) - self.loss() == pytest.approx(0.1 * weight.abs().sum().item(), rel=1e-12)
        assert self.loss(l2=0.1) - self.loss() == pytest.approx(0.1 * weight.square().sum().item(), rel=1e-12)
        assert (network().body.bias != 0).all()

    def test_validation_is_in_the_targets_own_unit(self):
        objective = RegressionObjective(network(), TableLossConfig(name="mae"), TableAugmentConfig())
        sums = objective.validate(OUTPUTS, (TARGETS,))
        values = OUTPUTS.numpy() * 10 + 20
        score = objective.score({**sums, "items": 4})
        assert score.values["val_rmse"] == pytest.approx(sk.root_mean_squared_error(TARGETS, values), rel=1e-14)
        assert score.values["val_mae"] == pytest.approx(sk.mean_absolute_error(TARGETS, values), rel=1e-14)
        assert -score.value == score.loss == pytest.approx(sk.mean_absolute_error(SCALED, OUTPUTS), rel=1e-14)


class TestClassificationLoss:
    LOGITS = torch.tensor([[2.0, 0, -1], [0, 0, 0], [1, 5, 0], [0.5, 0, 3]], dtype=torch.float64)
    LABELS = torch.tensor([0, 0, 2, 1])

    def loss(self, logits=None, weights=None, **settings) -> float:
        objective = ClassificationObjective(network(3), TableLossConfig(**settings), TableAugmentConfig(), weights)
        rows = torch.zeros(4, 2, dtype=torch.float64)
        return objective.loss(self.LOGITS if logits is None else logits, (rows,), (rows, self.LABELS)).item()

    def test_cross_entropy_is_that_of_scikit_learn(self):
        probabilities = self.LOGITS.softmax(1).numpy()
        assert self.loss() == pytest.approx(sk.log_loss(self.LABELS, probabilities, labels=[0, 1, 2]), rel=1e-12)

    def test_class_weights_are_the_balanced_ones_of_scikit_learn(self):
        labels = torch.tensor([0] * 70 + [1] * 25 + [2] * 5)
        weights = class_weights(labels, 3)
        expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
        assert weights.dtype == torch.float64
        assert weights.numpy() == pytest.approx(expected, rel=1e-14)
        assert weights[labels].mean() == pytest.approx(1)
        assert class_weights(torch.tensor([0, 0, 2]), 3)[[0, 2]].tolist() == [0.75, 1.5]

    def test_weighted_rows(self):
        weights = class_weights(self.LABELS, 3)
        expected = sk.log_loss(
            self.LABELS, self.LOGITS.softmax(1).numpy(), labels=[0, 1, 2], sample_weight=weights[self.LABELS].numpy()
        )
        assert self.loss(weights=weights) == pytest.approx(expected, rel=1e-12)

    def test_label_smoothing_by_hand(self):
        logs = self.LOGITS.log_softmax(1)
        true = torch.full((4, 3), 0.3 / 3, dtype=torch.float64)
        true[range(4), self.LABELS] += 0.7
        assert self.loss(label_smoothing=0.3) == pytest.approx(-(true * logs).sum(1).mean().item(), rel=1e-12)

    def test_members_of_an_ensemble_each_have_a_loss_and_answer_with_the_mean_probability(self):
        members = torch.stack([self.LOGITS, 2 * self.LOGITS, -self.LOGITS], dim=1)
        each = [self.loss(member) for member in members.unbind(1)]
        assert self.loss(members) == pytest.approx(sum(each) / 3, rel=1e-12)
        answer = network(3).eval().combine(members).softmax(1)
        torch.testing.assert_close(answer, members.softmax(2).mean(1), rtol=1e-12, atol=0)

    def test_validation_ignores_weights_and_smoothing(self):
        weights = torch.tensor([9.0, 1, 1])
        loss = TableLossConfig(label_smoothing=0.5)
        objective = ClassificationObjective(network(3), loss, TableAugmentConfig(), weights)
        score = objective.score({**objective.validate(self.LOGITS, (self.LABELS,)), "items": 4})
        assert score.loss == pytest.approx(self.loss(), rel=1e-12)
        assert score.values == {"val_accuracy": 0.5}


class TestMixup:
    @staticmethod
    def parts(kind, labels: int, targets: torch.Tensor, alpha: float = 0.4):
        net = network(labels, augment={"mixup": alpha})
        objective = kind(net, TableLossConfig(), TableAugmentConfig(mixup=alpha))
        rows = torch.from_numpy(np.random.default_rng(1).normal(3, 2, (len(targets), 2)))
        seed_step(0, "step", 3, 0)
        return net.train(), objective, rows, objective.prepare((rows, targets), 3)

    def test_rows_and_targets_of_a_pair_are_blended_alike(self):
        targets = torch.from_numpy(np.random.default_rng(2).normal(20, 10, 64))
        net, objective, rows, part = self.parts(RegressionObjective, 0, targets)
        own, own_targets, others, other_targets, shares = part
        assert torch.equal(own, rows)
        partners = [int((rows == other).all(1).nonzero()) for other in others]
        assert sorted(partners) == list(range(64))
        assert torch.equal(other_targets, targets[partners])
        assert ((shares >= 0.5) & (shares <= 1)).all()
        assert shares.std() > 0.05
        inputs = objective.inputs(part, 3)
        blend = shares[:, None] * net.numbers(own) + (1 - shares[:, None]) * net.numbers(others)
        outputs = net(*inputs)
        torch.testing.assert_close(outputs, functional.linear(blend, net.body.weight, net.body.bias)[:, 0])
        scaled = (shares * own_targets + (1 - shares) * other_targets - 20) / 10
        expected = functional.mse_loss(outputs, scaled).item()
        assert objective.loss(outputs, inputs, part).item() == pytest.approx(expected, rel=1e-12)

    def test_classes_are_blended_by_their_losses(self):
        targets = torch.tensor([0, 1, 2, 1, 0, 2] * 5)
        net, objective, _, part = self.parts(ClassificationObjective, 3, targets)
        outputs, shares = net(*objective.inputs(part, 3)), part[-1]
        soft = shares[:, None] * functional.one_hot(part[1], 3) + (1 - shares[:, None]) * functional.one_hot(part[3], 3)
        expected = functional.cross_entropy(outputs, soft).item()
        assert objective.loss(outputs, (), part).item() == pytest.approx(expected, rel=1e-12)

    def test_numbers_and_categories_are_blended_together(self):
        columns = (Column(name="n", kind="number"), Column(name="c", kind="category", categories=("a", "b")))
        run = config(augment={"mixup": 1.0})
        numbers, codes = torch.tensor([[1.0], [5.0]], dtype=torch.float64), torch.tensor([[2], [3]])
        arrays = {NUMBERS: numbers.numpy()}
        net = build_network(run, TableSpec(columns=columns), arrays, fit_target(np.arange(2.0), "none", False), 0)
        objective = RegressionObjective(net, run.loss, run.augment)
        part = (numbers, codes, torch.zeros(2), numbers.flip(0), codes.flip(0), torch.ones(2), torch.tensor([0.75, 1]))
        inputs = objective.inputs(part, 0)
        assert len(inputs) == 5
        torch.nn.init.ones_(net.body.weight)
        assert net(*inputs).tolist() == [0.75 * (-1 + 1) + 0.25 * (1 + 1), 2]

    @pytest.mark.parametrize("alpha", [1e-3, 0.1, 1, 50])
    def test_shares_are_finite_for_any_alpha(self, alpha):
        *_, shares = self.parts(RegressionObjective, 0, torch.zeros(2000, dtype=torch.float64), alpha)[-1]
        assert torch.isfinite(shares).all()
        assert ((shares >= 0.5) & (shares <= 1)).all()

    def test_without_mixup_batches_stay_as_they_are(self):
        objective = RegressionObjective(network(), TableLossConfig(), TableAugmentConfig())
        batch = (torch.zeros(3, 2), torch.zeros(3))
        assert objective.prepare(batch, 0) is batch
        assert objective.inputs(batch, 0) == (batch[0],)


class TestResolve:
    def resolved(self, data: Path, **settings) -> TableRunConfig:
        task = CLASSIFICATION if data.stem == "iris" else REGRESSION
        run = config(task, **settings)
        manifest = manifest_of(data, run)
        return resolve(run, manifest.spec, arrays_of(manifest.spec, manifest.split("train")))

    def test_least_squares_runs_to_its_minimum_on_full_batches(self, diabetes):
        run = self.resolved(diabetes)
        loop, optimizer = run.loop, run.optimizer
        assert (loop.batch_size, loop.select, loop.precision, loop.gradient_tolerance) == (-1, "last", "fp64", 1e-9)
        assert (optimizer.name, optimizer.schedule, optimizer.weight_decay) == ("sgd", "constant", 0)
        assert loop.epochs * loop.passes < 3000

    def test_others_learn_from_batches_and_stop_early(self, diabetes, iris):
        for run in (self.resolved(diabetes, model={"name": "mlp"}), self.resolved(iris)):
            assert (run.loop.epochs, run.loop.patience, run.loop.passes) == (200, 25, 1)
            assert 32 <= run.loop.batch_size <= 512
            assert run.loop.select == "validation"
        assert self.resolved(iris).loop.precision == "fp64"
        assert self.resolved(diabetes, model={"name": "mlp"}).loop.precision == "fp32"

    def test_settings_of_ones_own_stay(self, diabetes):
        own = {
            "optimizer": {"lr": 0.05, "momentum": 0.0, "schedule": "cosine", "weight_decay": 0.01, "clip_norm": 0.0},
            "loop": {"epochs": 7, "passes": 3, "patience": 0, "gradient_tolerance": 0.0, "select": "validation"},
        }
        run = to_dict(self.resolved(diabetes, **own))
        for part, fields in own.items():
            assert {name: run[part][name] for name in fields} == fields

    def test_nothing_is_left_open_and_a_second_time_changes_nothing(self, diabetes):
        run = self.resolved(diabetes)
        manifest = manifest_of(diabetes, run)
        assert resolve(run, manifest.spec, arrays_of(manifest.spec, manifest.split("train"))) == run

    @pytest.mark.parametrize(("part", "opened"), [("optimizer", OPEN_OPTIMIZER), ("loop", OPEN_LOOP)])
    def test_help_names_the_values_and_what_they_depend_on(self, part, opened, diabetes):
        documented = documented_settings(type(getattr(config(), part)))
        runs = [{}, {"loss": {"name": "mae"}}, {"model": {"name": "mlp"}}]
        resolved = [getattr(self.resolved(diabetes, **settings), part) for settings in runs]
        for name in opened:
            least_squares, linear, network = (getattr(values, name) for values in resolved)
            text = " ".join(documented[name].split())
            assert ("least squares" in text) == (least_squares != linear), (name, text)
            assert ("other linear models" in text or "linear model," in text) == (linear != network), (name, text)
            for value in (least_squares, linear, network):
                if isinstance(value, str):
                    assert value in text, (name, text)

    def test_patience_needs_a_best_epoch(self, diabetes):
        assert self.resolved(diabetes, loop={"patience": 3}).loop.select == "validation"

    @pytest.mark.parametrize(
        "settings",
        [
            {"loss": {"name": "mae"}},
            {"loss": {"name": "huber"}},
            {"loss": {"l1": 0.1}},
            {"augment": {"mixup": 0.2}},
            {"augment": {"jitter": 0.1}},
            {"optimizer": {"name": "adam"}},
            {"loop": {"batch_size": 32}},
            {"model": {"name": "mlp"}},
        ],
    )
    def test_what_is_not_quadratic_or_not_in_full_batches_is_not_least_squares(self, settings):
        assert not is_least_squares(config(**settings), 100)
        assert is_least_squares(config(loop={"batch_size": 100}, loss={"l2": 0.1}), 100)

    def test_the_curvature_is_that_of_the_loss(self, diabetes):
        manifest = manifest_of(diabetes, config())
        arrays = arrays_of(manifest.spec, manifest.split("train"))
        numbers = StandardScaler().fit_transform(arrays[NUMBERS])
        design = np.column_stack([numbers, arrays[CODES] == np.array([[2, 3, 4]]), np.ones(len(numbers))])
        values = np.linalg.eigvalsh(2 * design.T @ design / len(design))
        plain = curvature(config(), manifest.spec, arrays)
        assert values[0] < 1e-12 < plain.smallest  # the stages add up to the intercept
        assert (plain.smallest, plain.largest) == pytest.approx((values[1], values[-1]), rel=1e-9)
        for settings in ({"loss": {"l2": 0.25}}, {"optimizer": {"weight_decay": 0.5}}):
            penalised = curvature(config(**settings), manifest.spec, arrays)
            assert (penalised.smallest, penalised.largest) == pytest.approx((0.5, values[-1] + 0.5), rel=1e-9)

    def test_steps_are_those_that_it_takes(self):
        """The error of a quadratic function falls to a trillionth in about as many steps."""
        curve = Curvature(2.0, 0.05)
        best = curve.momentum(curve.rate)
        for rate, momentum in [(curve.rate, best), (curve.rate, 0.0), (0.1, 0.9), (0.4, 0.5), (0.9, 0.0)]:
            point = torch.ones(2, dtype=torch.float64, requires_grad=True)
            optimizer = torch.optim.SGD([point], rate, momentum, nesterov=momentum > 0)
            steps, needed = curve.steps(rate, momentum), 0
            for number in range(2 * steps):
                if point.abs().max() > 1e-12:
                    needed = number + 1
                point.grad = point.detach() * torch.tensor([2.0, 0.05])
                optimizer.step()
            assert 0.9 * steps < needed < 1.2 * steps, (rate, momentum)
        assert curve.steps(curve.rate, best) < curve.steps(curve.rate, 0.5) < curve.steps(curve.rate, 0.0)

    def test_a_rate_that_diverges_has_no_number_of_steps(self):
        assert Curvature(2.0, 0.01).steps(1.01, 0.0) == math.inf
        assert Curvature(2.0, 0.01).steps(0.9, 0.9) == math.inf
        assert Curvature(2.0, 0.01).momentum(0.9) == 0  # only plain gradient descent converges at this rate

    def test_numbers_whose_squares_are_infinite_are_no_obstacle(self, tmp_path):
        data = write(tmp_path / "t.csv", "xy", [[f"{i / 3}e170", i] for i in range(40)])
        assert self.resolved(data).loop.epochs == 2
        assert math.isfinite(self.resolved(data, prepare={"scale": "none"}).optimizer.lr)


def cells(records) -> np.ndarray:
    """The cells of rows as a server would get them."""
    return np.array([list(json.loads(record.row).values()) for record in records], object)


@pytest.fixture(scope="module")
def out(diabetes, tmp_path_factory) -> Path:
    """A finished run, through the public door."""
    folder = tmp_path_factory.mktemp("runs") / "diabetes"
    marquee.train(diabetes, folder, task=REGRESSION, table={"target": "y"}, export={"clip": False})
    return folder


@pytest.mark.slow
class TestPublicDoor:
    """A linear regression with redundant columns: a category for each stage of age, beside an intercept."""

    def test_its_predictions_are_those_of_the_closed_form(self, out):
        manifest = read_manifest(out / "manifest.csv")
        train, test = manifest.split("train"), manifest.split("test")
        with open(out / "predictions.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["path"] for row in rows] == [record.path for record in test]
        columns = list(range(10))
        encode = make_column_transformer(("passthrough", columns), (OneHotEncoder(sparse_output=False), [10]))
        closed = make_pipeline(encode, StandardScaler(), LinearRegression()).fit(cells(train), numbers_of(train))
        expected = closed.predict(cells(test))
        assert np.array([float(row["value"]) for row in rows]) == pytest.approx(expected, rel=1e-6)
        metrics = json.loads((out / "evaluation.json").read_text())
        assert metrics["rmse"] == pytest.approx(sk.root_mean_squared_error(numbers_of(test), expected), rel=1e-6)
        assert metrics["rows"] == len(rows) == 66
        assert marquee.load(out).predict([test[0].row])[0].value == float(rows[0]["value"])

    def test_a_network_that_is_rebuilt_from_the_bundle_takes_the_weights(self, out):
        run, spec = load_run_config(out / "config.yaml"), Bundle.read(out / "bundle").spec
        network = task_of(run).rebuild(run, spec)
        checkpoint = CheckpointStore(out / "checkpoints").find("best")
        load_weights(checkpoint, network)
        manifest = read_manifest(out / "manifest.csv")
        rows = tensors(arrays_of(spec.input, manifest.split("test")))
        with torch.inference_mode():
            values, _ = Served(network.eval(), spec.input)(*rows)
        with open(out / "predictions.csv", newline="") as stream:
            assert values.tolist() == pytest.approx([float(r["value"]) for r in csv.DictReader(stream)], rel=1e-12)


class TestLeastSquares:
    def test_gradient_tolerance_stops_at_the_minimum(self, diabetes, tmp_path):
        fit = Fit(diabetes, tmp_path / "run", config())
        assert fit.state.converged
        assert fit.state.finished
        assert fit.state.epoch < fit.config.loop.epochs
        assert fit.state.best_epoch == fit.state.epoch
        assert fit.answers() == pytest.approx(fit.reference(LinearRegression()), rel=1e-6)
        penalised = [p.grad for p in fit.network.parameters()]
        assert penalised == [None, None]

    def test_l2_is_ridge_regression(self, diabetes, tmp_path):
        fit = Fit(diabetes, tmp_path / "run", config(loss={"l2": 0.01}))
        rows = len(fit.manifest.split("train"))
        assert fit.state.converged
        assert fit.answers() == pytest.approx(fit.reference(Ridge(0.01 * rows)), rel=1e-6)

    def test_plain_gradient_descent_is_that_of_numpy(self, diabetes, tmp_path):
        run = config(
            optimizer={"momentum": 0.0, "lr": 0.1},
            loop={"epochs": 3, "passes": 7, "gradient_tolerance": 0.0},
        )
        fit = Fit(diabetes, tmp_path / "run", run)
        arrays = arrays_of(fit.manifest.spec, fit.manifest.split("train"))
        with torch.no_grad():
            features = fit.network.features(*map(torch.from_numpy, arrays.values())).numpy()
        design = np.column_stack([features, np.ones(len(features))])
        targets = StandardScaler().fit_transform(numbers_of(fit.manifest.split("train"))[:, None])[:, 0]
        weights = np.zeros(design.shape[1])
        for _ in range(21):
            weights -= 0.1 * 2 * design.T @ (design @ weights - targets) / len(design)
        found = np.append(fit.network.body.weight.detach().numpy()[0], fit.network.body.bias.detach().numpy())
        assert found == pytest.approx(weights, rel=1e-10, abs=1e-12)
        assert (fit.state.epoch, fit.state.converged, fit.state.finished) == (3, False, True)

    def test_plain_gradient_descent_gets_as_many_steps_as_it_takes(self, tmp_path):
        draw = np.random.default_rng(0)
        rows = draw.normal(size=(60, 2)) @ np.array([[1, 0.5], [0, 0.8]])
        data = write(tmp_path / "t.csv", "aby", [[a, b, 3 * a - b] for a, b in rows.tolist()])
        fit = Fit(data, tmp_path / "run", config(optimizer={"momentum": 0.0}))
        assert fit.state.converged
        assert fit.answers() == pytest.approx([r.number for r in fit.manifest.split("test")], rel=1e-6)

    def test_epochs_end_it(self, diabetes, tmp_path):
        fit = Fit(diabetes, tmp_path / "run", config(loop={"epochs": 2, "passes": 5}))
        assert (fit.state.epoch, fit.state.converged, fit.state.finished) == (2, False, True)
        assert len(fit.trainer.sampler) == 5

    def test_loss_tolerance_stops_when_an_epoch_gains_too_little(self, diabetes, tmp_path):
        run = config(
            loop={"loss_tolerance": 1e-3, "gradient_tolerance": 0.0, "passes": 20, "epochs": 50},
            checkpoint={"keep": 50},
        )
        fit = Fit(diabetes, tmp_path / "run", run)
        states = [json.loads(path.read_text())["state"] for path in sorted(tmp_path.glob("run/checkpoints/*/*.json"))]
        losses = [state["train_loss"] for state in states]
        gains = [(before - after) / before for before, after in itertools.pairwise(losses)]
        assert fit.state.converged
        assert 1 < fit.state.epoch == len(losses) < 50
        assert gains[-1] <= 1e-3
        assert all(gain > 1e-3 for gain in gains[:-1])

    def test_patience_ends_it_after_the_best_epoch(self, diabetes, tmp_path):
        run = config(loop={"patience": 2, "passes": 1, "epochs": 400, "gradient_tolerance": 0.0})
        fit = Fit(diabetes, tmp_path / "run", run)
        assert fit.state.epoch == fit.state.best_epoch + 2 < 400
        assert fit.state.finished
        assert not fit.state.converged


class TestFittedOnTrainingRows:
    @pytest.mark.parametrize("task", [REGRESSION, CLASSIFICATION])
    def test_other_rows_change_no_buffer_no_weight_and_no_setting(self, task, diabetes, iris):
        run = config(
            task,
            prepare={"clip": "iqr", "indicator": True, "impute": "mean"},
            model={"name": "mlp", "width": 8},
            loop={"epochs": 2},
        )
        manifest = manifest_of(diabetes if task == REGRESSION else iris, run)
        first = json.loads(manifest.records[0].row)
        huge = json.dumps({name: "never seen" if isinstance(cell, str) else 1e6 for name, cell in first.items()})
        target = "1e6" if task == REGRESSION else manifest.labels[0]
        changed = replace(
            manifest,
            records=tuple(
                r if r.split == "train" else replace(r, row=huge.encode(), target=target) for r in manifest.records
            ),
        )
        results = []
        for one in (manifest, changed):
            resolved = task_of(run).resolve(run, one)
            built = task_of(run).build(resolved, one)
            results.append((resolved, built.input, task_of(run).output(run, one), built.model.state_dict()))
        assert results[0][:3] == results[1][:3]
        assert results[0][3].keys() == results[1][3].keys()
        assert all(torch.equal(value, results[1][3][name]) for name, value in results[0][3].items())
        if task == REGRESSION:
            built = task_of(run).build(results[0][0], changed).model
            assert built.target.high == max(r.number for r in manifest.split("train"))


def killed_after(out: Path, checkpoint: str, copy: Path) -> Path:
    """The folder of a run as it was when ``checkpoint`` was the last one that had been written."""
    shutil.copytree(out, copy)
    for name in ("bundle", "tensorboard"):
        shutil.rmtree(copy / name, ignore_errors=True)
    (copy / "checkpoints" / "last").write_text(checkpoint + "\n")
    for path in sorted((copy / "checkpoints").glob("epoch-*")):
        if path.name > checkpoint:
            shutil.rmtree(path)
    best = (copy / "checkpoints" / "best").read_text().strip()
    if best > checkpoint:
        (copy / "checkpoints" / "best").write_text(checkpoint + "\n")
    return copy


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    last = CheckpointStore(out / "checkpoints").find("last")
    assert last is not None
    return safetensors.torch.load_file(last / "weights.safetensors")


RUNS = {
    "mini-batch-mlp": (
        {"model": {"name": "mlp", "width": 16, "depth": 2}, "augment": {"mixup": 0.3, "jitter": 0.1}},
        {"epochs": 2, "batch_size": 64, "patience": 0},
        "epoch-0000-batch-000003",
    ),
    "full-batch-passes": ({}, {"epochs": 3, "passes": 5}, "epoch-0001-batch-000002"),
}


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_resumes_to_the_same_bits(name, diabetes, tmp_path, caplog):
    settings, loop, place = RUNS[name]
    whole = tmp_path / "whole"
    run = config(checkpoint={"steps": 1, "keep": 1000}, loop=loop, **settings)
    train(run, diabetes, whole, report=False)
    killed = killed_after(whole, place, tmp_path / "killed")
    with caplog.at_level("INFO", logger="marquee"):
        train(load_run_config(killed / "config.yaml"), None, killed, resume=True, report=False)
    assert f"resuming from {killed / 'checkpoints' / place}" in caplog.text
    first, second = weights_of(whole), weights_of(killed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (whole / "predictions.csv").read_bytes() == (killed / "predictions.csv").read_bytes()


@pytest.mark.parametrize("clip", [True, False], ids=["on", "off"])
def test_clipping_can_be_switched_by_a_resume(clip, diabetes, tmp_path):
    """Also of the network that variants are built from."""
    data, out = write(tmp_path / "t.csv", ["x", "y"], [[n, n] for n in range(60)]), tmp_path / "run"
    train(config(export={"clip": not clip}, loop={"epochs": 3}), data, out, report=False)
    run = load_run_config(out / "config.yaml")
    train(replace(run, export=replace(run.export, clip=clip)), None, out, resume=True, report=False)
    spec = Bundle.read(out / "bundle").spec
    highest = max(r.number for r in read_manifest(out / "manifest.csv").split("train"))
    (answer,) = marquee.load(out).answer([{"x": 1e6}])
    assert (answer.value == highest) if clip else (answer.value > 1e5)
    run = load_run_config(out / "config.yaml")
    rebuilt = task_of(run).rebuild(run, spec)
    load_weights(CheckpointStore(out / "checkpoints").find("best"), rebuilt)
    with torch.inference_mode():
        values, _ = Served(rebuilt.eval(), spec.input)(torch.tensor([[1e6]], dtype=torch.float64))
    assert values.item() == pytest.approx(answer.value, rel=1e-12)


def test_rejected_rows_and_the_resolved_settings_are_in_the_runs_folder(tmp_path):
    rows = [[i / 7, i * 2.0] for i in range(60)]
    rows[20:20] = [["much", 1.0], [3.0, ""]]
    data, out = write(tmp_path / "t.csv", ["x", "y"], rows), tmp_path / "run"
    run = config(table={"target": "y", "kinds": {"x": "number"}})

    def prepare(run: TableRunConfig, data: Path | None, resume: bool) -> TableRunConfig:
        return prepare_folder(run, data, out, resume, ProcessGroup(), Progress(quiet=True))[0]

    resolved = prepare(run, data, False)
    with open(out / "rejected.csv", newline="") as stream:
        rejected = list(csv.DictReader(stream))
    assert [row["path"] for row in rejected] == ["t.csv:22", "t.csv:23"]
    assert '"much"' in rejected[0]["reason"]
    assert resolved.optimizer.lr > 0
    assert prepare(run, None, True) == prepare(resolved, None, True) == resolved
    with pytest.raises(TrainingError, match=r"cannot resume with --optimizer.lr 0.5, the run has 0\.\d+"):
        prepare(replace(resolved, optimizer=replace(resolved.optimizer, lr=0.5)), None, True)


MODELS = {
    "linear": {},
    "mlp": {"model": {"name": "mlp"}, "prepare": {"categories": "embedding"}},
    "periodic": {"model": {"name": "mlp", "embeddings": "periodic"}, "augment": {"mixup": 0.2, "jitter": 0.05}},
    "tabm": {"model": {"name": "tabm", "members": 4}, "augment": {"mixup": 0.2}},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("task", [REGRESSION, CLASSIFICATION])
def test_every_model_learns(task, name, diabetes, iris, tmp_path):
    settings = dict(MODELS[name])
    settings["model"] = {"width": 16, "depth": 2, **settings.get("model", {})}
    fit = Fit(
        diabetes if task == REGRESSION else iris,
        tmp_path / "run",
        config(task, loop={"epochs": 4, "batch_size": 32}, optimizer={"name": "adam", "lr": 0.02}, **settings),
    )
    start = task_of(fit.config).build(fit.config, fit.manifest).model
    assert fit.trainer.judge(fit.network).loss < 0.9 * fit.trainer.judge(start).loss


class TestBatches:
    def test_each_pass_is_a_permutation_of_its_own(self):
        sampler = DistributedBatchSampler(10, 5, seed=0, passes=3)
        epochs = []
        for sampler.epoch in (0, 1):
            shares = list(sampler.shares())
            assert len(shares) == len(sampler) == 6
            passes = [shares[i] + shares[i + 1] for i in (0, 2, 4)]
            assert all(sorted(one) == list(range(10)) for one in passes)
            epochs += passes
        assert len({tuple(one) for one in epochs}) == 6

    @pytest.mark.parametrize("start", range(7))
    def test_a_resumed_epoch_has_the_steps_that_are_left(self, start):
        whole, rest = (DistributedBatchSampler(11, 5, seed=3, passes=3) for _ in range(2))
        whole.epoch = rest.epoch = 2
        rest.start = start
        assert list(rest.shares()) == list(whole.shares())[start:]
        assert [whole.items_of(2, step) for step in range(6)] == list(whole.shares())

    def test_one_pass_is_what_it_was_before_there_were_several(self):
        sampler = DistributedBatchSampler(9, 4, seed=5)
        sampler.epoch = 7
        order = torch.randperm(9, generator=torch.Generator().manual_seed(derive_seed(5, "order", 7))).tolist()
        assert list(sampler.shares()) == [order[:4], order[4:8]]

    def test_training_rows_keep_their_targets(self):
        sampler = DistributedBatchSampler(8, 3, seed=0)
        rows = torch.arange(8)
        batches = list(TrainingBatches((rows[:, None].double(), rows), sampler))
        assert [len(targets) for _, targets in batches] == [3, 3]
        assert all(torch.equal(numbers[:, 0], targets.double()) for numbers, targets in batches)
        assert [targets.tolist() for _, targets in batches] == list(sampler.shares())

    def test_an_evaluation_holds_every_row_once(self):
        rows = torch.arange(10)
        assert [len(batch[0]) for batch in EvaluationBatches((rows, rows), 4)] == [4, 4, 2]
        shares = [share_of((rows,), rank, 3)[0] for rank in range(3)]
        assert sorted(torch.cat(shares).tolist()) == rows.tolist()
