"""A validation loss that is no number is never the best, however many answers happen to be right."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from marquee.training.core.assemble import build_trainer
from marquee.training.core.checkpoint import CheckpointStore, TrainingState
from marquee.training.core.context import RunContext
from marquee.training.core.distributed import ProcessGroup
from marquee.training.core.errors import TrainingError
from marquee.training.core.loop import NonFiniteValidationError, Trainer
from marquee.training.core.progress import Progress
from marquee.training.core.records import prepare_folder
from marquee.training.core.run import train
from marquee.training.core.run_folder import RunFolder
from marquee.training.core.task import Network
from marquee.training.optimize.distil import DistilConfig, fine_tune
from marquee.training.selection.candidates import Candidate
from marquee.training.selection.config import Rule, SelectionConfig
from marquee.training.selection.probe import Probe
from marquee.training.selection.select import select
from marquee.training.tasks.image_classification.config import ImageRunConfig
from tests.unit.tiny import build, manifest_of, settings

# One step of it is finite, and the weights after it are no use to anybody.
WILD = settings("cnn4_w8", lr=1e30, schedule="constant")
CALM = settings("cnn4_w8")
QUIET = Progress(quiet=True)


def epochs(config: ImageRunConfig, number: int) -> ImageRunConfig:
    return replace(config, loop=replace(config.loop, epochs=number))


def trainer_of(config: ImageRunConfig, photos: list[Path], folder: Path) -> Trainer:
    manifest = manifest_of(photos, "ab")
    model, image = build(config, manifest)
    context = RunContext(folder=RunFolder(folder), device=torch.device("cpu"), progress=QUIET)
    return build_trainer(config, manifest, Network(model=model, input=image), context)


def begun(photos: list[Path], run: Path) -> Trainer:
    """A run that has trained its one epoch and was not exported yet."""
    prepare_folder(CALM, manifest_of(photos, "ab"), run, False, ProcessGroup(), QUIET)
    trainer = trainer_of(CALM, photos, run)
    trainer.fit(TrainingState())
    return trainer


@pytest.mark.parametrize("ema", [0, 0.9])
def test_the_run_ends_by_name(ema, photos, tmp_path):
    config = replace(WILD, loop=replace(WILD.loop, ema=ema))
    with pytest.raises(TrainingError) as caught:
        train(config, None, tmp_path / "run", manifest=manifest_of(photos, "ab"))
    assert "the validation loss is nan after epoch 1" in str(caught.value)
    assert "lower --optimizer.lr in a new --out" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert CheckpointStore(tmp_path / "run" / "checkpoints").find("best") is None
    assert not (tmp_path / "run" / "bundle").exists()


def test_batch_norm_statistics_spoil_no_best(photos, tmp_path):
    """Training does not read them, so only validation sees that they are gone."""
    trainer = trainer_of(CALM, photos, tmp_path)
    state = trainer.fit(TrainingState())
    next(layer for layer in trainer.model.modules() if hasattr(layer, "running_var")).running_var.fill_(math.nan)
    # An accuracy that any other epoch would beat.
    state = replace(state, finished=False, best_score=-0.5)
    trainer.config = epochs(CALM, 2)
    with pytest.raises(NonFiniteValidationError, match="after epoch 2"):
        trainer.fit(state)
    assert [trainer.store.find(name).name for name in ("best", "last")] == ["epoch-0001"] * 2


class TestResume:
    def test_with_spoilt_statistics(self, photos, tmp_path):
        run = tmp_path / "run"
        trainer = begun(photos, run)
        next(layer for layer in trainer.model.modules() if hasattr(layer, "running_var")).running_var.fill_(math.nan)
        state = TrainingState(epoch=2, best_epoch=1, best_score=0.0, best_loss=1.0)
        trainer.store.save(trainer.model, trainer.optimizer, trainer.scaler, state, best=False)
        with pytest.raises(TrainingError, match="the validation loss is nan after epoch 3"):
            train(epochs(CALM, 3), None, run, resume=True)
        assert CheckpointStore(run / "checkpoints").find("best").name == "epoch-0001"

    def test_of_a_run_whose_best_is_no_number(self, photos, tmp_path):
        """As runs were before this was checked."""
        run = tmp_path / "run"
        trainer = begun(photos, run)
        state = TrainingState(epoch=1, best_epoch=1, best_score=0.5, best_loss=math.nan, finished=True)
        trainer.store.save(trainer.model, trainer.optimizer, trainer.scaler, state, best=True)
        with pytest.raises(TrainingError, match="best checkpoint, after epoch 1, is nan"):
            train(CALM, None, run, resume=True)


def test_fine_tuning_of_a_student(photos):
    """This error leaves out the pruned variants, and optimising goes on."""
    manifest = manifest_of(photos, "ab")
    model, image = build(CALM, manifest)
    with pytest.raises(TrainingError, match=r"^fine-tuning diverged: the validation loss is nan .*\(1e\+30\)"):
        fine_tune(model, model, WILD, manifest, image, DistilConfig(epochs=1, lr=1e30), QUIET)


@pytest.mark.slow
def test_selection_leaves_the_candidate_out(photos, tmp_path):
    for number, path in enumerate(photos):
        place = tmp_path / "data" / "ab"[number % 2] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    ladder = [
        Candidate(name="wild", config={"optimizer": {"lr": 1e30, "schedule": "constant"}}),
        Candidate(name="calm", kind="probe", config={}),
    ]
    report = select(tmp_path / "data", tmp_path / "out", ladder, CALM, SelectionConfig(folds=2), Rule(), QUIET)
    wild, calm = report.entries
    assert "the validation loss is nan after epoch 1" in wild.skipped
    assert not wild.results
    assert len(calm.results) == 2
    assert report.decision.choice == "calm"


def test_a_probe_of_a_broken_network(photos, tmp_path):
    trainer = trainer_of(CALM, photos, tmp_path)
    next(trainer.model.backbone.parameters()).data.fill_(math.nan)
    torch.save(trainer.model.backbone.state_dict(), tmp_path / "broken.pth")
    config = settings("cnn4_w8", pretrained=str(tmp_path / "broken.pth"))
    with pytest.raises(TrainingError, match="cnn4_w8: the frozen network gives features that are infinite"):
        Probe(config, manifest_of(photos, "ab"), QUIET)
