"""Tasks by name: in a configuration, and in a bundle."""

from dataclasses import replace

import pytest

from marquee.handlers.core.bundle import read_spec
from marquee.training.core.config import dump_config, load_config, load_run_config
from marquee.training.core.errors import TrainingError
from marquee.training.core.task import task_for, task_of
from marquee.training.tasks import TASKS, default_config
from tests.unit.test_migrate import BUNDLES


@pytest.mark.parametrize("name", TASKS)
def test_a_configuration_knows_its_task(name, tmp_path):
    config = default_config(name)
    assert config.task == task_of(config).name == name
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_run_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: poetry", "config.yaml: task: expected one of image-classification, .*, got 'poetry'"),
        ("task: [a]", r"config.yaml: task: expected one of image-classification, .*, got \['a'\]"),
        (
            "{task: multi-label-classification, model: {multi_label: false}}",
            "config.yaml: task: expected image-classification, which its other settings are for, got multi-label",
        ),
        ("model: 3", "config.yaml: model: expected an object, got int 3"),
        ("models: {}", "config.yaml: models: unknown field"),
        ("- 3", "config.yaml: document: expected an object, got list"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(text, message, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(TrainingError, match=message):
        load_config(tmp_path / "config.yaml")


def test_a_run_from_before_tasks_had_names(tmp_path):
    """Its file says whether images have several labels, and lacks fields that came later."""
    (tmp_path / "config.yaml").write_text("{model: {multi_label: true}, loss: {name: bce}, image: {size: 32}}")
    config = load_run_config(tmp_path / "config.yaml")
    assert (config.task, config.image.size, config.image.decode) == ("multi-label-classification", 32, "full")


def test_a_bundle_of_an_unknown_task():
    spec = read_spec(BUNDLES / "version-2")
    assert task_for(spec).name == "image-classification"
    with pytest.raises(
        TrainingError, match=r"spec\.json: task: expected one of image-classification, .*, got 'poetry'"
    ):
        task_for(replace(spec, task="poetry"))
