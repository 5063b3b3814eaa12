"""The section ``handler`` of model-config.yaml, as the worker reads it and as the operator's side changes it."""

import zipfile

import pytest
import yaml

from marquee.handlers.core.schema import SchemaError
from marquee.handlers.core.worker_config import WorkerConfig, read_worker_config
from marquee.serving.errors import OperationError
from marquee.serving.model_config import (
    changed_config,
    places,
    read_model_config,
    update_model_config,
    worker_config,
)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"handler": {"decode_thread": 1}}, "handler.decode_thread: unknown field (known: variant, threads, "),
        ({"handler": ["threads"]}, "handler: expected an object, got list"),
        ({"handler": {"variant": 8}}, "handler.variant: expected str, got int 8"),
        ({"handler": {"explain": "yes"}}, "handler.explain: expected bool, got str 'yes'"),
        ({"handler": {"explain_seconds": 0}}, "handler.explain_seconds: expected seconds, above 0 and at most 600"),
        ({"handler": {"explain_seconds": True}}, "handler.explain_seconds: expected float, got bool True"),
        (
            {"handler": {"explain_seconds": 60}, "responseTimeout": 60},
            "expected less than responseTimeout (60), got 60",
        ),
        ({"threads": 2}, "threads: belongs under the key handler"),
        *(
            ({"handler": {key: value}}, f"handler.{key}: expected {message}")
            for key in ("threads", "threads_alone", "decode_threads")
            for value, message in ((-1, "a number from 0, got -1"), (1.5, "int"), ("many", "int"), (True, "int"))
        ),
    ],
)
def test_what_is_refused(document, message):
    with pytest.raises(SchemaError) as caught:
        read_worker_config(document)
    assert str(caught.value).startswith("model-config.yaml: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("document", [{}, {"handler": None}, {"handler": {}}, {"batchSize": 8, "responseTimeout": 60}])
def test_what_is_absent_has_its_default(document):
    assert read_worker_config(document) == WorkerConfig()


def test_a_worker_that_explains_nothing_may_be_impatient():
    assert read_worker_config({"handler": {"explain": False}, "responseTimeout": 1}).explain is False


@pytest.mark.parametrize(
    ("config", "workers", "threads"),
    [
        ({}, 1, (8, 8, 8)),
        ({}, 4, (2, 4, 2)),
        ({}, 16, (1, 2, 1)),
        ({"threads": 3}, 4, (3, 6, 3)),
        ({"threads": 3, "decode_threads": 1}, 4, (3, 6, 1)),
        ({"threads_alone": 2}, 4, (2, 2, 2)),
    ],
)
def test_workers_share_the_cores_and_an_image_that_comes_alone_has_a_neighbours(config, workers, threads):
    resolved = WorkerConfig(**config).resolve(workers, cores=8)
    assert (resolved.threads, resolved.threads_alone, resolved.decode_threads) == threads


def archive_with(tmp_path, text):
    path = tmp_path / "a.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model-config.yaml", text)
    return path


class TestArchivesOfEveryVersion:
    def test_a_setting_is_put_where_the_archive_reads_it(self, tmp_path):
        text = "minWorkers: 1\nhandler:\n  threads: 0  # mine\n  variant: auto\nbatchSize: 8\n"
        path = archive_with(tmp_path, text)
        update_model_config(path, {"threads": 2, "explain": False, "batchSize": 4})
        assert worker_config(read_model_config(path)) == WorkerConfig(threads=2, explain=False)
        expected = text.replace("threads: 0", "threads: 2").replace("auto", "auto\n  explain: false").replace("8", "4")
        assert changed_config(path, {}) == expected

    def test_before_there_was_a_section(self, tmp_path):
        path = archive_with(tmp_path, "minWorkers: 1\nthreads: 0  # mine\nvariant: fp32\n")
        update_model_config(path, {"threads": 2, "explain": False})
        assert worker_config(read_model_config(path)) == WorkerConfig(threads=2, variant="fp32", explain=False)
        assert changed_config(path, {}) == "minWorkers: 1\nthreads: 2  # mine\nvariant: fp32\nexplain: false\n"

    def test_a_section_is_made_where_there_is_none(self, tmp_path):
        path = archive_with(tmp_path, "minWorkers: 1\n")
        assert changed_config(path, {"threads": 2}) == "minWorkers: 1\nhandler:\n  threads: 2\n"

    def test_a_wrong_key_is_named(self, tmp_path):
        with pytest.raises(OperationError, match=r"^model-config\.yaml: handler\.thread: unknown field"):
            worker_config({"handler": {"thread": 1}})

    def test_an_older_archive_without_any_of_its_keys(self, tmp_path):
        path = archive_with(tmp_path, "minWorkers: 1\n")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("handlers/service.py", "")
        assert changed_config(path, {"threads": 2}) == "minWorkers: 1\nthreads: 2\n"
        assert places(path, {"threads": 2, "batchSize": 4}) == {"threads": 2, "batchSize": 4}

    def test_an_older_archives_wrong_key_is_named_where_it_is(self):
        with pytest.raises(OperationError, match=r"^model-config\.yaml: threads: expected int"):
            worker_config({"threads": "many"})

    @pytest.mark.parametrize(
        "text",
        [
            "a: 'yes'\nb: \"on\"\nhandler: {explain: off}\n",
            "a: yes\nb: 010\nhandler:\n  explain: no\n",
            "a: 1\na: 2\nhandler: {}\n",
            "base: &seconds 60\nresponseTimeout: *seconds\nhandler: {explain: &no false}\nz: *no\n",
        ],
    )
    def test_every_other_key_is_afterwards_what_the_worker_read_before(self, tmp_path, text):
        """The library that keeps comments reads yes, off and 010 differently from the worker's."""
        path = archive_with(tmp_path, text)
        before = yaml.safe_load(text)
        update_model_config(path, {"threads": 2, "batchSize": 4})
        wanted = {**before, "batchSize": 4, "handler": {**before["handler"], "threads": 2}}
        assert read_model_config(path) == wanted
        assert places(path, {"threads": 2, "batchSize": 4}) == {"handler.threads": 2, "batchSize": 4}
