"""What takes the place of packages that few machines without a network have: psutil, rich, tensorboard."""

import os
import sys

import pytest
import torch

from marquee import locks
from marquee.process_start import start_of
from marquee.training.core.device import deterministic_algorithms
from marquee.training.core.metrics_log import MetricsLog
from marquee.training.core.progress import Progress


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_has_its_start_without_psutil(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with locks.locked(tmp_path, "a test"):
        owner = locks.owner_of(tmp_path)
    assert owner is not None
    assert owner.started == start_of(os.getpid()) is not None
    assert start_of(2**22 + 1) is None


def test_progress_without_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr("marquee.training.core.progress._PLAIN_SECONDS", 0.0)
    with Progress().task("training", 4) as task:
        task.advance("epoch 1")
    assert capsys.readouterr().err.startswith("training: 1/4 epoch 1, ")


def test_metrics_without_tensorboard(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
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
