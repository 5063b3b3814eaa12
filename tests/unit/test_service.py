"""The service under TorchServe's own worker classes: batches as the worker makes them, without the front end."""

import json
import struct
from pathlib import Path

import pytest
from ts.context import Context, RequestProcessor
from ts.service import Service

from handlers.service import ClassifierService


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


@pytest.fixture(scope="module")
def service(archive) -> ClassifierService:
    pytest.MonkeyPatch().setattr("handlers.service._refuse_foreign_code", lambda folder: None)
    loaded = ClassifierService()
    manifest = json.loads((archive / "MAR-INF" / "MANIFEST.json").read_text())
    loaded.initialize(Context("digits", str(archive), manifest, 8, None, "0", model_yaml_config={}))
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
    import handlers.service as module

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

    monkeypatch.setattr("handlers.metrics.Accumulator.add", fail)
    monkeypatch.setattr("handlers.metrics.Accumulator.observe", fail)
    answers = handle(service, [{"body": images[0][1]}, {"body": b"text"}])
    assert [status for status, _ in answers] == [200, 400]
