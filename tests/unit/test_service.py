"""The service under TorchServe's own worker classes: batches as the worker makes them, without the front end."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ts.context import Context, RequestProcessor
from ts.service import Service

from marquee.handlers.core.arrays import rows
from marquee.handlers.core.handler import Handler
from marquee.handlers.core.handler import _refuse_foreign_code as refuse_foreign_code
from marquee.handlers.inputs.image.decode import load as load_image


class Metrics:
    """What the worker gives a service to report to; nothing is asserted of it."""

    request_ids = None

    def add_time(self, *_):
        pass


@pytest.fixture(scope="module")
def archive(tmp_path_factory, store) -> Path:
    import zipfile

    folder = tmp_path_factory.mktemp("model")
    with zipfile.ZipFile(store / "digits.mar") as source:
        source.extractall(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def code_of_this_project():
    """The service runs from here, not from the archive, so that tests can reach into it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("marquee.handlers.core.handler._refuse_foreign_code", lambda folder: None)
        yield


@pytest.fixture(scope="module")
def service(archive, code_of_this_project) -> Handler:
    return load(archive, {})


def load(archive: Path, config: dict) -> Handler:
    loaded = Handler()
    manifest = json.loads((archive / "MAR-INF" / "MANIFEST.json").read_text())
    loaded.initialize(Context("digits", str(archive), manifest, 8, None, "0", model_yaml_config=config))
    return loaded


def handle(service, requests, headers=None):
    """(status, body) of each request of one batch."""
    context = Context("digits", "", {}, len(requests), None, "0")
    context.request_processor = [RequestProcessor((headers or {}).get(i, {})) for i in range(len(requests))]
    bodies = service.handle(requests, context)
    assert len(bodies) == len(requests)
    assert all(context.get_response_content_type(i) == "application/json" for i in range(len(requests)))
    return [(context.get_response_status(i)[0], json.loads(body)) for i, body in enumerate(bodies)]


@pytest.fixture(scope="module")
def images(digits) -> list[tuple[str, bytes]]:
    return [(label, next((digits / "test" / label).glob("*.png")).read_bytes()) for label in "0123456789"]


BAD = [
    {"body": b"text"},
    {"body": b""},
    {},
    {"body": "\ud800"},
    {"body": {"image_data": [["x"]]}},
    {"body": {"instances": []}},
    {"body": object()},
    {"body": {"b64": "\ud800"}},
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_bad_item_fails_alone_wherever_it_stands(bad, service, images):
    alone = [handle(service, [{"body": data}])[0][1]["ranking"] for _, data in images[:4]]
    for position in range(5):
        batch = [{"body": data} for _, data in images[:4]]
        batch.insert(position, bad)
        answers = handle(service, batch)
        status, body = answers.pop(position)
        assert 400 <= status <= 500
        assert set(body["error"]) == {"code", "message"}
        assert [status for status, _ in answers] == [200] * 4
        for (_, answer), expected in zip(answers, alone, strict=True):
            assert [entry["label"] for entry in answer["ranking"]] == [entry["label"] for entry in expected]
            assert answer["probability"] == pytest.approx(expected[0]["probability"], abs=1e-5)


def test_a_mistake_of_ours_fails_one_item(service, images, monkeypatch):
    """Whatever a request brings to light, its batch-mates are answered."""
    import marquee.handlers.core.handler as module

    real = module.parse

    def parse(fields, spec):
        if fields["body"] == b"trap":
            raise ZeroDivisionError
        return real(fields, spec)

    monkeypatch.setattr(module, "parse", parse)
    first, second = handle(service, [{"body": b"trap"}, {"body": images[3][1]}])
    assert (first[0], first[1]["error"]["code"]) == (500, "internal_error")
    assert second[0] == 200


def test_an_engine_that_fails_is_an_answer(service, images, monkeypatch):
    def fail(batch):
        raise RuntimeError("out of something")

    monkeypatch.setattr(service.predictor, "engine", fail)
    answers = handle(service, [{"body": images[0][1]}, {"body": b"text"}])
    assert [(status, body["error"]["code"]) for status, body in answers] == [
        (503, "inference_failed"),
        (400, "not_an_image"),
    ]


def test_describe_and_explain_are_answered_by_item(service, images):
    """An explanation beside others takes their answers' early way out, which this context has not: it is told so."""
    good = {"body": images[0][1]}
    answers = handle(
        service, [{}, good, good, good], {0: {"describe": "True"}, 1: {"describe": "True"}, 2: {"explain": "True"}}
    )
    assert answers[0][1]["labels"] == list("0123456789")
    assert [status for status, _ in answers] == [200, 200, 503, 200]
    assert answers[2][1]["error"]["code"] == "busy"
    assert answers[1][1]["label"] == answers[3][1]["label"]
    ((status, alone),) = handle(service, [good], {0: {"explain": "True"}})
    assert (status, alone["label"]) == (200, answers[3][1]["label"])
    assert alone["explanation"]["label"] == alone["label"]


def test_through_the_workers_own_protocol(service, images):
    """ts.service.Service encodes what handle returns: a status for each item."""
    worker = Service("digits", "", {}, service.handle, None, 8, metrics_cache=Metrics())
    worker.set_cl_socket(None)
    batch = [
        {"requestId": b"r%d" % i, "parameters": [{"name": "body", "value": data, "contentType": ""}], "headers": []}
        for i, data in enumerate([images[0][1], b"text", images[1][1]])
    ]
    message = bytes(worker.predict(batch))
    statuses, position = [], message.index(b"r0")
    for i in range(3):
        position = message.index(b"r%d" % i, position)
        (size,) = struct.unpack_from("!i", message, position + 2)
        (status,) = struct.unpack_from("!i", message, position + 6 + size)
        statuses.append(status)
    assert statuses == [200, 400, 200]


def test_metrics_that_fail_cost_no_answer(service, images, monkeypatch):
    def fail(*_):
        raise RuntimeError("no room")

    monkeypatch.setattr("marquee.handlers.core.counters.Accumulator.add", fail)
    monkeypatch.setattr("marquee.handlers.core.counters.Accumulator.observe", fail)
    answers = handle(service, [{"body": images[0][1]}, {"body": b"text"}])
    assert [status for status, _ in answers] == [200, 400]


def test_every_batch_size_is_run_before_the_model_is_ready(archive, service, images, monkeypatch):
    """The first batch of a size is slow, so none is left to a client; the largest comes before the rest."""
    from marquee.handlers.core.engines.exported import ExportedEngine

    sizes = []
    real = ExportedEngine.__call__

    def call(engine, inputs):
        sizes.append(rows(inputs))
        return real(engine, inputs)

    monkeypatch.setattr(ExportedEngine, "__call__", call)
    load(archive, {})
    golden, warm = sizes[0], sizes[1:]
    assert golden >= 16
    assert warm == [1, 8, 2, 3, 4, 5, 6, 7]


def test_a_slow_network_is_not_warmed_up_for_minutes(service, monkeypatch):
    monkeypatch.setattr("marquee.handlers.core.predictor.WARM_UP_SECONDS", 0.0)
    assert service.predictor.warm_up(8) == [1]
    assert service.predictor.warm_up(0) == [1]


def test_an_engine_that_fails_with_a_batch_size_is_not_served(archive, service, monkeypatch):
    from marquee.handlers.core.engines.exported import ExportedEngine

    real = ExportedEngine.__call__

    def call(engine, inputs):
        if rows(inputs) == 5:
            raise ValueError("no kernel\nfor this size")
        return real(engine, inputs)

    monkeypatch.setattr(ExportedEngine, "__call__", call)
    with pytest.raises(RuntimeError, match="cannot run a batch of 5: no kernel for this size"):
        load(archive, {})


def test_a_wrong_configuration_is_named(archive, service):
    with pytest.raises(RuntimeError, match=r"^model-config\.yaml: handler\.threads: expected int, got str 'many'"):
        load(archive, {"handler": {"threads": "many"}})


def test_the_pool_changes_no_answer(archive, service, images):
    alone = load(archive, {"handler": {"decode_threads": 1}})
    many = load(archive, {"handler": {"decode_threads": 4}})
    batch = [{"body": data} for _, data in images]
    batch.insert(3, {"body": b"text"})
    batch.insert(6, {"body": images[5][1][:-40]})
    assert handle(many, batch) == handle(alone, batch)


def test_evaluation_and_server_agree_on_large_photographs(archive, service, digits, tmp_path):
    """Both decode them at an eighth, and not one of them in full: the answers would differ by more than this."""
    from marquee.handlers.inputs.image.decode import decode
    from marquee.training.core.export import answers_for
    from marquee.training.tasks.image_classification.data.manifest import Record

    spec = service.predictor.spec.input
    assert spec.decode == "scaled"
    noise = np.random.default_rng(0)
    records = []
    for label in "0123456789":
        small = Image.open(next((digits / "test" / label).glob("*.png")))
        large = np.asarray(small.resize((1024, 1024), Image.Resampling.BICUBIC)).astype(int)
        path = tmp_path / f"{label}.jpg"
        Image.fromarray((large + noise.normal(0, 20, large.shape)).clip(0, 255).astype(np.uint8)).save(path)
        records.append(Record(str(path), label, "test"))
    contents = [Path(record.path).read_bytes() for record in records]
    assert {decode(data, spec).size for data in contents} == {(128, 128)}
    expected = answers_for(service.predictor, records)
    answers = handle(service, [{"body": data} for data in contents])
    for (status, answer), wanted in zip(answers, expected, strict=True):
        assert (status, answer["label"]) == (200, wanted.label)
        assert answer["probability"] == pytest.approx(wanted.probability, abs=1e-4)
        assert answer["distance"] == pytest.approx(wanted.distance, rel=1e-3)
    in_full = [
        service.predictor.predict_arrays({"pixels": load_image(data, replace(spec, decode="full"))[None]})
        for data in contents
    ]
    moved = [abs(one.probability - wanted.probability) for (one,), wanted in zip(in_full, expected, strict=True)]
    assert max(moved) > 1e-4  # so the comparison above would notice a server that decodes in full


def test_code_from_outside_the_archive_is_refused(tmp_path):
    """A copy of the same version on the PYTHONPATH has the entry file's name, too, and would decide the answers."""
    with pytest.raises(RuntimeError, match="not from the archive in .*; remove that folder from PYTHONPATH"):
        refuse_foreign_code(tmp_path)
