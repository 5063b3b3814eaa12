"""``import marquee``: its examples are run as they stand, in a folder that has what they name."""

import doctest
import importlib
import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import marquee
import marquee.api
from marquee.log import log_to_stderr
from marquee.serving import client
from tests.unit.tiny import with_few_to_train


@pytest.fixture
def folder(tmp_path, monkeypatch, digits, run, store):
    """Where a user is who has trained and packaged the digits; few of them are left to train on again."""
    with_few_to_train(digits, tmp_path / "digits")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").symlink_to(run)
    shutil.copytree(store, tmp_path / "model_store")
    shutil.copyfile(sorted((digits / "test" / "7").glob("*.png"))[0], tmp_path / "seven.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("module", [marquee, marquee.api, client], ids=lambda module: module.__name__)
def test_the_examples_run(module, folder):
    result = doctest.testmod(module, extraglobs={"marquee": marquee}, verbose=False)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_name_is_there_and_documented():
    for name in marquee.__all__:
        assert getattr(marquee, name).__doc__, name
    assert set(marquee.__all__) <= set(dir(marquee))
    public = {own: name for name, own in marquee._ALIASES.items()}
    assert sorted(public.get(name, name) for names in marquee._HOMES.values() for name in names) == marquee.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        importlib.import_module("marquee").nothing  # noqa: B018


def test_importing_it_imports_nothing_heavy():
    code = "import marquee, sys; print(sorted({'torch', 'numpy', 'tyro', 'requests'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_an_archive_answers_as_its_run(folder):
    of_archive, of_run = marquee.load("model_store/digits.mar"), marquee.load("runs/digits")
    assert of_archive.digest == of_run.digest
    (first,), (second,) = of_archive.predict(["seven.png"]), of_run.predict([(folder / "seven.png").read_bytes()])
    assert np.array_equal(first.probabilities, second.probabilities)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loop": {"epoch": 1}}, "epoch"),
        ({"lop": {"epochs": 1}}, "lop"),
        ({"loop": {"epochs": 0}}, "loop.epochs: expected at least 1, got 0"),
        ({"config": "fine"}, "no recipe of that name"),
    ],
    ids=["field", "part", "value", "recipe"],
)
def test_wrong_settings_are_named(settings, message, folder):
    with pytest.raises(marquee.TrainingError, match=message):
        marquee.train("digits", "runs/new", **settings)
    assert not (folder / "runs" / "new").exists()


def test_what_cannot_be_is_said_by_name(folder):
    with pytest.raises(marquee.TrainingError, match="device cuda:9: not available here"):
        marquee.load("runs/digits", device="cuda:9")
    with pytest.raises(marquee.OperationError, match="port 65533: expected 1 to 65531"):
        marquee.serve("digits", port=65533)
    with pytest.raises(marquee.OperationError, match="neither a run nor a bundle; train one"):
        marquee.load("runs/absent")


def test_a_thread_may_train(folder):
    """Signals are the main thread's; another one must not ask for them."""
    part = {"image": {"size": 32}, "model": {"arch": "cnn4_w8"}, "loop": {"epochs": 1, "workers": 0}}
    with ThreadPoolExecutor(1) as pool:
        metrics = pool.submit(marquee.train, "digits/train", "runs/thread", **part).result()
    assert metrics["images"] == 30


def test_logging_that_is_configured_is_left_alone(monkeypatch, capsys):
    """The level and the handlers of a notebook's owner win; without them, lines go to what stderr is just then."""
    ours, root = logging.getLogger("marquee"), logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(ours, "level", logging.NOTSET)
    log_to_stderr()
    logging.getLogger("marquee.training.core.run").info("a line")
    logging.getLogger("another.library").warning("look out")
    assert capsys.readouterr().err == "a line\nwarning: look out\n"
    ours.setLevel(logging.ERROR)
    log_to_stderr()
    assert ours.level == logging.ERROR
    assert len(root.handlers) == 1
