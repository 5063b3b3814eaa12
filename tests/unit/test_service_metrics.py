"""What a worker counts and reports. The numbers are computed by hand; TorchServe's own classes write the lines."""

import logging
import re
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import ts
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from marquee.handlers.core import metrics_emitter, service_metrics
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.counters import Accumulator, Family, zeros
from marquee.handlers.core.errors import InputError
from marquee.handlers.core.metrics_emitter import Emitter, label_value
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.service_metrics import ServiceMetrics, protocol
from marquee.handlers.core.spec import GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.handlers.outputs import classification
from marquee.handlers.outputs.classification import (
    MAX_CLASSES,
    ClassificationCalibration,
    ClassificationSpec,
    Prediction,
)
from marquee.handlers.outputs.multi_label_classification import MultiLabelSpec
from tests.conftest import ROOT

COUNTER = Family(name="things_total", labels=("kind",))
HISTOGRAM = Family(name="length", labels=("kind",), unit="Metres", bounds=(1, 2, 5))


def as_dict(increments) -> dict[str, float]:
    """``name{label=value,...}`` -> increment."""
    return {one.name + "{" + ",".join(f"{k}={v}" for k, v in one.labels) + "}": one.value for one in increments}


def test_buckets_are_cumulative_and_their_bounds_inclusive():
    accumulator = Accumulator()
    for value in (0.5, 1, 1.5, 5, 7):
        accumulator.observe(HISTOGRAM, value, "a")
    assert as_dict(accumulator.drain()) == {
        "length_bucket{kind=a,le=1}": 2,
        "length_bucket{kind=a,le=2}": 3,
        "length_bucket{kind=a,le=5}": 4,
        "length_bucket{kind=a,le=+Inf}": 5,
        "length_sum{kind=a}": 15,
        "length_count{kind=a}": 5,
    }


def test_only_growth_is_reported():
    accumulator = Accumulator()
    assert not accumulator.wait(0)
    accumulator.add(COUNTER, "a")
    accumulator.add(COUNTER, "a", amount=2)
    accumulator.observe(HISTOGRAM, 3, "b")
    assert accumulator.wait(0)
    assert as_dict(accumulator.drain()) == {
        "things_total{kind=a}": 3,
        "length_bucket{kind=b,le=5}": 1,
        "length_bucket{kind=b,le=+Inf}": 1,
        "length_sum{kind=b}": 3,
        "length_count{kind=b}": 1,
    }
    assert not accumulator.wait(0)
    assert accumulator.drain() == []


def test_zeros_name_every_series():
    assert as_dict(zeros(COUNTER, "a")) == {"things_total{kind=a}": 0}
    assert list(as_dict(zeros(HISTOGRAM, "a"))) == [
        *(f"length_bucket{{kind=a,le={bound}}}" for bound in ("1", "2", "5", "+Inf")),
        "length_sum{kind=a}",
        "length_count{kind=a}",
    ]


def test_nothing_is_lost_between_threads():
    accumulator, drained, done = Accumulator(), [], threading.Event()

    def count():
        for _ in range(5000):
            accumulator.add(COUNTER, "a")
            accumulator.observe(HISTOGRAM, 1, "a")

    def drain():
        while not done.is_set():
            drained.extend(accumulator.drain())

    reader = threading.Thread(target=drain)
    writers = [threading.Thread(target=count) for _ in range(4)]
    for thread in [reader, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    drained += accumulator.drain()
    assert sum(one.value for one in drained if one.name == "things_total") == 20_000
    assert sum(one.value for one in drained if one.name == "length_count") == 20_000


def test_a_histogram_has_ascending_bounds():
    for bounds in ((1, 1), (2, 1)):
        with pytest.raises(ValueError, match="bounds: expected ascending"):
            Family(name="x", bounds=bounds)


@pytest.fixture
def cache() -> MetricsCacheYamlImpl:
    """What a worker of TorchServe has as ``context.metrics``, with its stock configuration."""
    found = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
    found.initialize_cache()
    return found


@pytest.fixture
def lines(caplog):
    """Reads the lines that a worker has written as the front end does: (name, unit, value, labels, type)."""
    caplog.set_level(logging.INFO)

    def read() -> list[tuple[str, str, float, dict[str, str], str]]:
        found = []
        for message in (record.getMessage() for record in caplog.records):
            if message.startswith("[METRICS]"):
                what, labels, kind, _ = message.removeprefix("[METRICS]").split("|#")
                series, value = what.rsplit(":", 1)
                name, unit = series.split(".")
                pairs = [part.split(":") for part in labels.split(",")]
                assert all(len(pair) == 2 and pair[1] for pair in pairs), message
                found.append((name, unit, float(value), dict(pairs), kind))
        return found

    return read


def test_a_line_is_what_the_front_end_reads(cache, lines):
    accumulator = Accumulator()
    accumulator.add(COUNTER, "a")
    emitter = Emitter(cache, {"model_name": "m"})
    emitter.emit(accumulator.drain())
    emitter.emit_gauge("about", {"size": "b"}, 1)
    assert lines() == [
        ("things_total", "Count", 1, {"model_name": "m", "kind": "a"}, "type:COUNTER"),
        ("about", "Count", 1, {"model_name": "m", "size": "b"}, "type:GAUGE"),
    ]


@pytest.mark.parametrize("text", ["a,b", "a:b", "a|b", "a|#b", "a%2Cb", "line\nbreak", "", "  ", "\u2028", "\ud800"])
def test_any_label_survives_the_line(text, cache, lines):
    accumulator = Accumulator()
    accumulator.add(COUNTER, text)
    Emitter(cache, {}).emit(accumulator.drain())
    ((_, _, _, labels, _),) = lines()
    assert labels == {"kind": label_value(text)}
    assert label_value(text).encode("utf-8")


def test_labels_stay_different_and_readable():
    texts = ["a,b", "a:b", "a|b", "a%2Cb", "%", "", "a b"]
    assert len({label_value(text) for text in texts}) == len(texts)
    assert label_value("größer/猫 (3)") == "größer/猫 (3)"
    assert label_value("a,b") == "a%2Cb"


def test_a_report_that_fails_is_told_once(caplog):
    emitter = Emitter(object(), {})
    for _ in range(3):
        emitter.emit(zeros(COUNTER, "a"))
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def predictor(labels: int = 3, multi_label: bool = False) -> Predictor:
    variant = VariantSpec(name="int8", engine="openvino", precision="int8", files={"v": "0" * 64})
    spec = ModelSpec(
        schema_version=3,
        task="multi-label-classification" if multi_label else "image-classification",
        input=ImageSpec(channels=1, resize=8, crop=8),
        output=(MultiLabelSpec if multi_label else ClassificationSpec)(
            labels=tuple(f"c{i}" for i in range(labels)), calibration=ClassificationCalibration(max_distance=2.0)
        ),
        variants=(variant,),
        golden=GoldenSpec(),
    )
    return Predictor(Bundle(Path(), spec, "sha256:abc"), variant, lambda inputs: inputs)


def prediction(label: str, probability: float, **more) -> Prediction:
    counted = frozenset(f"c{i}" for i in range(MAX_CLASSES))
    return Prediction(((0, label, probability),), np.zeros(1), counted=counted, **more)


REST = {"Host": "127.0.0.1", "body": {"content-type": ""}}
GRPC = {"host": {"content-type": ""}}  # a part of the body that is called so


def test_the_protocol_is_told_by_the_header_host():
    assert [protocol(headers) for headers in (REST, {"host": "x"}, GRPC, {}, None)] == ["rest", "rest"] + ["grpc"] * 3


@pytest.fixture
def reported(cache, lines, monkeypatch):
    """Waits for what a worker reports, and returns its sums: ``name{labels but the model's}`` -> value."""
    monkeypatch.setattr(metrics_emitter, "INTERVAL", 0.01)

    def read(metrics: ServiceMetrics, until: str, value: float, **options) -> dict[str, float]:
        metrics.report_to(cache, predictor(**options), "m", "1.0")
        deadline = time.monotonic() + 10
        sums: dict[str, float] = {}
        while sums.get(until) != value:
            assert time.monotonic() < deadline, sums
            time.sleep(0.01)
            sums = {}
            for name, _, amount, labels, _ in lines():
                assert (labels.pop("model_name"), labels.pop("model_version")) == ("m", "1.0")
                key = name + "{" + ",".join(f"{k}={v}" for k, v in labels.items()) + "}"
                sums[key] = sums.get(key, 0) + amount
        return sums

    return read


def test_what_a_request_counts(reported):
    metrics = ServiceMetrics()
    metrics.report_to(None, predictor(), "m", "1.0")  # no server: counted, and nothing reported
    metrics.count_request(REST, 200, [prediction("c0", 0.95, distance=1.0), prediction("c0", 0.5, distance=3.0)])
    metrics.count_request(GRPC, 400, [InputError("empty", "nothing")])
    metrics.count_request(REST, 200, [prediction("c1", 0.2, distance=0.1, abstained="low_confidence")])
    metrics.count_batch(3)
    sums = reported(metrics, "marquee_batch_size_sum{}", 3)
    assert {key for key, value in sums.items() if key.startswith("marquee_model_info")} == {
        "marquee_model_info{bundle=abc,variant=int8,engine=openvino,precision=int8}"
    }
    plain = {key: value for key, value in sums.items() if "_total" in key and value}
    assert plain == {
        "marquee_requests_total{protocol=rest,status=200}": 2,
        "marquee_requests_total{protocol=grpc,status=400}": 1,
        "marquee_failures_total{code=empty}": 1,
        "marquee_predictions_total{class=c0}": 2,
        "marquee_predictions_total{class=c1}": 1,
        "marquee_abstained_total{reason=low_confidence}": 1,
    }
    assert sums["marquee_confidence_sum{}"] == pytest.approx(1.65)
    confidence = {bound: sums[f"marquee_confidence_bucket{{le={bound}}}"] for bound in ("0.1", "0.2", "0.5", "0.9")}
    assert confidence == {"0.1": 0, "0.2": 1, "0.5": 2, "0.9": 2}
    assert [sums[f"marquee_confidence_bucket{{le={bound}}}"] for bound in ("0.95", "+Inf")] == [3, 3]
    assert [sums[f"marquee_distance_bucket{{le={bound}}}"] for bound in ("0.25", "1", "2", "3")] == [1, 2, 2, 3]
    assert [sums[f"marquee_batch_size_bucket{{le={bound}}}"] for bound in ("2", "4")] == [0, 1]


def test_series_are_there_before_anything_happened(reported):
    sums = reported(ServiceMetrics(), "marquee_batch_size_count{}", 0)
    for key in (
        "marquee_requests_total{protocol=grpc,status=503}",
        "marquee_failures_total{code=inference_failed}",
        "marquee_predictions_total{class=c2}",
        "marquee_abstained_total{reason=unfamiliar}",
        "marquee_stage_seconds_bucket{stage=encode,le=+Inf}",
    ):
        assert sums[key] == 0
    assert "marquee_predictions_total{class=other}" not in sums


def test_classes_are_bounded(reported):
    metrics = ServiceMetrics()
    metrics.report_to(None, predictor(labels=150), "m", "1.0")
    metrics.count_request(REST, 200, [prediction(f"c{i}", 0.9) for i in (0, 99, 100, 149)])
    metrics.count_batch(1)
    sums = reported(metrics, "marquee_batch_size_sum{}", 1, labels=150)
    classes = {key: value for key, value in sums.items() if key.startswith("marquee_predictions_total")}
    assert len(classes) == MAX_CLASSES + 1
    assert {key.split("=")[1][:-1]: value for key, value in classes.items() if value} == {"c0": 1, "c99": 1, "other": 2}


@pytest.mark.parametrize(("position", "expected"), [(3, {"other": 1, "other_": 1}), (120, {"other_": 2})])
def test_a_class_that_is_called_other_is_not_the_rest(position, expected):
    """Whether it is counted by name or belongs to the rest: the rest has another name."""
    labels = [f"c{i}" for i in range(150)]
    labels[position] = "other"
    spec = ClassificationSpec(labels=tuple(labels))
    variant = VariantSpec(name="fp32", engine="exported", precision="fp32", files={"model.pt2": "0" * 64})
    output = spec.create(variant, None)
    logits = np.zeros((2, 150))
    logits[[0, 1], [position, 149]] = 9.0
    counted = Counter(
        observation.labels[0]
        for answer in output.predictions({"logits": logits})
        for observation in answer.observations()
        if observation.family is classification.PREDICTIONS
    )
    assert counted == expected
    name = classification.PREDICTIONS.name
    series = [increment.labels for increment in output.zeros() if increment.name == name]
    assert len(series) == MAX_CLASSES + 1
    assert series[-1] == (("class", "other_"),)


def test_every_label_of_an_image_is_counted(reported):
    metrics = ServiceMetrics()
    metrics.report_to(None, predictor(multi_label=True), "m", "1.0")
    several = [prediction("c0", 0.9, labels=("c0", "c2")), prediction("c1", 0.3, labels=())]
    metrics.count_request(REST, 200, several)
    metrics.count_batch(1)
    sums = reported(metrics, "marquee_batch_size_sum{}", 1, multi_label=True)
    assert [sums[f"marquee_predictions_total{{class=c{i}}}"] for i in range(3)] == [1, 0, 1]
    assert sums["marquee_confidence_count{}"] == 2


def test_a_stage_that_fails_is_measured_and_fails(reported):
    metrics = ServiceMetrics()
    with pytest.raises(ZeroDivisionError), metrics.stage("decode"):
        _ = 1 / 0
    sums = reported(metrics, "marquee_stage_seconds_count{stage=decode}", 1)
    assert 0 < sums["marquee_stage_seconds_sum{stage=decode}"] < 10


def test_a_mistake_in_counting_is_told_once(caplog):
    metrics = ServiceMetrics()
    for _ in range(2):
        metrics.count_request(REST, 200, [None])
        metrics.count_batch(None)
        with metrics.stage(["not", "a", "name"]):
            pass
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_the_page_names_every_metric_with_its_buckets_and_labels():
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    rows = [[cell.strip(" `") for cell in re.split(r" \| | \|$", line[2:])] for line in page.splitlines()]
    ours = [(name, cell) for name, cell, *_ in (row for row in rows if len(row) > 1) if name.startswith("marquee_")]
    bounds = {name: cell for name, cell in ours if re.fullmatch(r"[\d., ]+", cell)}
    labels = {name: set(re.findall(r"\w+", cell)) for name, cell in ours if (name, cell) not in bounds.items()}
    modules = (service_metrics, classification)
    families = [value for module in modules for value in vars(module).values() if isinstance(value, Family)]
    assert set(labels) == {family.name for family in families} | {service_metrics.INFO}
    for family in families:
        assert set(family.labels) <= labels[family.name]
        listed = ", ".join(f"{bound:g}" for bound in family.bounds) if family.bounds else None
        assert bounds.get(family.name) == listed
