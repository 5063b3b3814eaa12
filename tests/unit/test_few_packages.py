"""What takes the place of packages that few machines without a network have: scipy, scikit-learn, psutil, rich."""

import os
import sys

import numpy as np
import psutil
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from marquee import locks
from marquee.training.core.device import deterministic_algorithms
from marquee.training.core.metrics_log import MetricsLog
from marquee.training.core.progress import Progress
from marquee.training.core.statistics import share_interval
from marquee.training.tasks.classification.calibration import least
from marquee.training.tasks.classification.metrics import classification_metrics
from marquee.training.tasks.image_classification.ood import shrunk_covariance


@pytest.mark.parametrize(("rows", "columns"), [(50, 200), (2000, 64), (3, 5), (500, 1)])
def test_the_covariance_is_that_of_scikit_learn(rows, columns):
    random = np.random.default_rng(0)
    values = random.normal(size=(rows, columns)) @ random.normal(size=(columns, columns))
    expected, _ = ledoit_wolf(values, assume_centered=True)
    np.testing.assert_allclose(shrunk_covariance(values), expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())


def test_the_area_under_the_curve_is_that_of_scikit_learn():
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(3), 200).round(1)  # with ties
    targets = random.integers(0, 3, 200)
    expected = np.mean([roc_auc_score(targets == number, probabilities[:, number]) for number in range(3)])
    measured = classification_metrics(probabilities, targets)["auroc"]
    assert measured == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("items", [1, 2, 10, 355])
def test_the_interval_is_that_of_scipy(items):
    for hits in {0, 1, items // 2, items}:
        expected = binomtest(hits, items).proportion_ci(method="wilson")
        assert share_interval(np.arange(items) < hits) == pytest.approx([expected.low, expected.high], abs=1e-14)


def test_the_least_value_is_that_of_scipy():
    def function(x: float) -> float:
        return (x - 1.234) ** 2 + 0.1 * (x - 1.234) ** 4

    found = minimize_scalar(function, bounds=(-3, 3), method="bounded").x
    assert least(function, -3, 3) == pytest.approx(found, abs=1e-4)
    assert least(function, 2, 3) == pytest.approx(2, abs=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_has_its_start_without_psutil(monkeypatch, tmp_path):
    started = psutil.Process().create_time()
    assert locks._create_time_in_proc(os.getpid()) == pytest.approx(started, abs=0.1)
    assert locks._create_time_in_proc(2**22 + 1) is None
    monkeypatch.setitem(sys.modules, "psutil", None)
    with locks.locked(tmp_path, "a test"):
        owner = locks.owner_of(tmp_path)
    assert owner is not None
    assert owner.create_time == pytest.approx(started, abs=0.1)


def test_progress_without_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr("marquee.training.core.progress._PLAIN_SECONDS", 0.0)
    with Progress().task("training", 4) as task:
        task.advance("epoch 1")
    assert capsys.readouterr().err.startswith("training: 1/4 epoch 1, ")


def test_metrics_without_tensorboard(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level("INFO"):
        log = MetricsLog(tmp_path, 0)
    log.write(1, {"train_loss": 0.5})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1, "train_loss": 0.5}\n'
    assert "tensorboard is not installed" in caplog.text


class TestDeterministicAlgorithms:
    def test_only_within_the_block(self, monkeypatch):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        with deterministic_algorithms(True):
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.are_deterministic_algorithms_enabled()
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")

    def test_nothing_changes_unless_wanted(self, monkeypatch):
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        with deterministic_algorithms(False):
            assert not torch.are_deterministic_algorithms_enabled()
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
