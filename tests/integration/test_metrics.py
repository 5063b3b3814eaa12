"""What Prometheus reads from a real TorchServe, after requests that are known one by one."""

import base64
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from marquee.handlers.core.bundle import bundle_digest
from marquee.serving.readiness import ready_workers

LINE = re.compile(r'(marquee_\w+)\{model_name="digits",model_version="1.0",(.*?),?Hostname="[^"]+",\} (\S+)')
FLUSHED = 2.0
"""Seconds without growth, after which nothing is left to report: twice the interval of the reports."""


def read(served) -> dict[str, float]:
    """``name{labels}`` -> value, of all our series."""
    text = requests.get(f"{served.server.addresses.metrics}/metrics", timeout=60).text
    found = {f"{name}{{{labels}}}": float(value) for name, labels, value in LINE.findall(text)}
    assert len(found) == len(re.findall(r"(?m)^marquee_", text))
    return found


def settled(served) -> dict[str, float]:
    """The series when nothing is under way any more."""
    deadline = time.monotonic() + 60
    before = read(served)
    while True:
        time.sleep(FLUSHED)
        now = read(served)
        if now == before:
            return now
        assert time.monotonic() < deadline, "the counts do not come to rest"
        before = now


@pytest.fixture(scope="module")
def image(digits) -> bytes:
    return next((digits / "test" / "7").glob("*.png")).read_bytes()


def test_exact_counts_over_rest_and_grpc(served, run, image):
    instance = {"b64": base64.b64encode(image).decode()}
    before = settled(served)
    answers = [served.client.predict("digits", image) for _ in range(3)]
    answers += [served.client.predict_grpc("digits", image) for _ in range(2)]
    assert all(answer.status == 200 and not answer.error for answer in answers)
    assert served.client.predict("digits", b"text").status == 400
    assert served.client.predict_grpc("digits", b"").body["error"]["code"] == "empty"
    headers = {**served.headers(), "Content-Type": "application/json"}
    body = {"instances": [instance, {"b64": "AAAA"}, instance]}
    assert requests.post(f"{served.url}/predictions/digits", json=body, headers=headers, timeout=60).status_code == 200
    after = settled(served)

    grown = {key: after[key] - before[key] for key in after if after[key] != before[key]}
    counters = {key: value for key, value in grown.items() if "_total{" in key}
    label, reason = answers[0].body["label"], answers[0].body.get("reason")
    assert counters == {
        'marquee_requests_total{protocol="rest",status="200"}': 4,
        'marquee_requests_total{protocol="rest",status="400"}': 1,
        'marquee_requests_total{protocol="grpc",status="200"}': 2,
        'marquee_requests_total{protocol="grpc",status="400"}': 1,
        'marquee_failures_total{code="not_an_image"}': 2,
        'marquee_failures_total{code="empty"}': 1,
        f'marquee_predictions_total{{class="{label}"}}': 7,
        **({f'marquee_abstained_total{{reason="{reason}"}}': 7} if reason else {}),
    }
    # Sent one after the other: every request was a batch, and two of the eight had nothing to infer.
    stages = {
        stage: grown[f'marquee_stage_seconds_count{{stage="{stage}"}}'] for stage in ("decode", "encode", "batch")
    }
    assert stages == {"decode": 8, "encode": 8, "batch": 8}
    assert grown['marquee_stage_seconds_count{stage="inference"}'] == 6
    assert grown['marquee_stage_seconds_bucket{stage="inference",le="+Inf"}'] == 6
    assert grown["marquee_batch_size_sum{}"] == 8
    assert grown['marquee_batch_size_bucket{le="1"}'] == 8
    assert grown["marquee_confidence_sum{}"] == pytest.approx(7 * answers[0].body["probability"], abs=1e-3)
    for bound in ("0.1", "0.5", "0.9", "0.999", "+Inf"):
        within = 7 if answers[0].body["probability"] <= float(bound) else 0
        assert grown.get(f'marquee_confidence_bucket{{le="{bound}"}}', 0) == within
    assert grown["marquee_distance_count{}"] == 7
    digest = bundle_digest(run / "bundle").removeprefix("sha256:")
    info = f'marquee_model_info{{bundle="{digest}",variant="fp32",engine="exported",precision="fp32"}}'
    assert [key for key in after if key.startswith("marquee_model_info")] == [info]
    assert after[info] == 1


def test_an_explanation_is_counted_as_one_and_as_a_prediction(served, image):
    before = settled(served)
    assert served.client.explain("digits", image).status == 200
    after = settled(served)
    grown = {key: after[key] - before[key] for key in after if after[key] != before[key]}
    assert grown['marquee_explanations_total{outcome="ok"}'] == 1
    assert grown['marquee_requests_total{protocol="rest",status="200"}'] == 1
    assert grown['marquee_stage_seconds_count{stage="explain"}'] == 1
    assert grown["marquee_confidence_count{}"] == 1


def test_workers_add_up_and_what_they_reported_outlives_them(served, image, script):
    """The command scales, too: another worker is another import of torch, so this is done once."""
    key = 'marquee_requests_total{protocol="rest",status="200"}'
    alone = served.client.predict("digits", image).body
    script("models", "scale", "digits", "--workers", 2, "--state", served.state)
    try:
        assert ready_workers(served.client, "digits") == 2
        assert "READY, READY" in script("models", "list", "--state", served.state).stdout
        before = settled(served)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: served.client.predict("digits", image), range(40)))
        assert [answer.status for answer in answers] == [200] * 40
        assert {answer.body["label"] for answer in answers} == {alone["label"]}
        assert [answer.body["probability"] for answer in answers] == pytest.approx(
            [alone["probability"]] * 40, abs=1e-4
        )
        after = settled(served)
    finally:
        script("models", "scale", "digits", "--workers", 1, "--state", served.state)
    assert ready_workers(served.client, "digits") == 1
    assert after[key] - before[key] == 40
    assert after["marquee_batch_size_sum{}"] - before["marquee_batch_size_sum{}"] == 40
    assert settled(served)[key] == after[key]


def test_buckets_are_what_histogram_quantile_takes(served):
    """For every histogram: cumulative, and the last bucket is the count."""
    series = read(served)
    counts = [key for key in series if "_count{" in key]
    assert len(counts) == 3 + 5
    for count in counts:
        prefix = count.replace("_count{", "_bucket{").removesuffix("}")
        buckets = {
            float(match[1]): value
            for key, value in series.items()
            if (match := re.fullmatch(re.escape(prefix) + r',?le="([^"]+)"}', key))
        }
        values = [buckets[bound] for bound in sorted(buckets)]
        assert values == sorted(values)
        assert values[-1] == series[count]
        assert max(buckets) == float("inf")
