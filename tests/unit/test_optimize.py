"""Judging and choosing variants, without any engine."""

from dataclasses import replace

import numpy as np
import pytest

from marquee.handlers.core.accuracy import accuracy_refusal, can_show, paired_drop
from marquee.handlers.core.choice import rank_variants
from marquee.handlers.core.engines import check_precision
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.host import Host, this_host
from marquee.handlers.core.measurement import Measurement, Ranking
from marquee.handlers.core.spec import GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.handlers.outputs.classification import ClassificationSpec
from marquee.training.core.statistics import effective_number
from marquee.training.optimize.config import OptimizeConfig, PruningConfig
from marquee.training.optimize.judge import frontier, rank, refusal

DIGEST = "0" * 64
INTEL = Host(cpu="Xeon", isa=("avx2", "avx512_vnni", "avx512_bf16", "amx_int8"), cores=2)
AMD = Host(cpu="EPYC", isa=("avx2", "avx512_vnni", "avx512_bf16"), cores=4)
OLD = Host(cpu="Core 2", isa=("avx2",), cores=2)


def variant(name: str, **fields) -> VariantSpec:
    values = {"engine": "exported", "precision": "fp32", "files": {f"{name}.pt2": DIGEST}, **fields}
    return VariantSpec(name=name, **values)


def ranking(host: Host, *order: str, date: str = "2026-01-01T00:00:00Z") -> Ranking:
    return Ranking(host=host, date=date, order=order, max_accuracy_drop=0.005)


def spec(*rankings: Ranking) -> ModelSpec:
    return ModelSpec(
        schema_version=3,
        task="image-classification",
        input=ImageSpec(channels=1, resize=8, crop=8),
        output=ClassificationSpec(labels=("cat", "dog")),
        variants=(
            variant("fp32"),
            variant("bf16", precision="bf16", isa=("avx512_bf16", "amx_bf16")),
            variant("int8", precision="int8", engine="openvino", device="cpu"),
            variant("fp16", precision="fp16", device="cuda"),
        ),
        golden=GoldenSpec(),
        rankings=rankings,
    )


def names(found) -> list[str]:
    return [choice.variant.name for choice in found]


def test_without_measurements_the_order_of_the_bundle_counts():
    assert names(rank_variants(spec(), INTEL, "cpu")) == ["fp32", "bf16", "int8"]
    assert names(rank_variants(spec(), OLD, "cpu")) == ["fp32", "int8"]
    assert names(rank_variants(spec(), INTEL, "cuda:0")) == ["fp32", "bf16", "fp16"]


def test_the_ranking_of_this_machine_wins_then_that_of_its_kind_then_the_newest():
    own = ranking(AMD, "bf16", "fp32")
    other = ranking(INTEL, "int8", "bf16", date="2026-02-01T00:00:00Z")
    assert names(rank_variants(spec(own, other), AMD, "cpu")) == ["bf16", "fp32"]
    assert "on this machine" in rank_variants(spec(own, other), AMD, "cpu")[0].reason
    twin = replace(AMD, cpu="EPYC 2")
    assert names(rank_variants(spec(own, other), twin, "cpu")) == ["bf16", "fp32"]
    assert "another machine (EPYC)" in rank_variants(spec(own, other), twin, "cpu")[0].reason
    # An unknown kind goes by the newest; what it lacks is passed over, and said; fp32 is the last resort.
    found = rank_variants(spec(own, other), OLD, "cpu")
    assert names(found) == ["int8", "fp32"]
    assert "bf16 needs avx512_bf16 or amx_bf16" in found[1].reason


def test_more_cores_are_the_same_machine():
    own = ranking(AMD, "int8", "fp32")
    assert "on this machine" in rank_variants(spec(own), replace(AMD, cores=64), "cpu")[0].reason


def test_a_forced_variant_is_the_only_one():
    assert names(rank_variants(spec(ranking(AMD, "bf16")), AMD, "cpu", "int8")) == ["int8"]
    with pytest.raises(BundleError, match=r"no variant 'int4'; there are fp32, bf16, int8, fp16"):
        rank_variants(spec(), AMD, "cpu", "int4")


def test_nothing_that_runs_is_an_error():
    only = replace(spec(), variants=(variant("fp16", device="cuda"),))
    with pytest.raises(BundleError, match="'fp16' runs on cuda only"):
        rank_variants(only, AMD, "cpu")


def test_a_ranking_names_variants_that_exist():
    with pytest.raises(ValueError, match="rankings: there is no variant 'int4'"):
        spec(ranking(AMD, "int4"))


def test_this_host_is_read_from_the_system():
    host = this_host()
    assert host.cpu
    assert host.cores >= 1
    assert host.like(this_host())


@pytest.mark.parametrize(
    ("precision", "kernels", "refused"),
    [
        ("int8", {"int8": 18, "fp32": 2}, False),
        ("int8", {"fp32": 20}, True),
        ("int8", {"int8": 3, "fp32": 17}, True),
        ("bf16", {"fp32": 20}, True),
        ("fp32", {"fp32": 20}, False),
        ("fp32", {"bf16": 20}, True),
        ("int8", {}, False),  # an engine that cannot tell
    ],
)
def test_kernels_of_another_precision_are_refused_by_name(precision, kernels, refused):
    one = variant("fast", precision=precision)
    if not refused:
        check_precision(one, kernels)
        return
    with pytest.raises(BundleError, match=f"variant 'fast' says {precision}, but of its 20"):
        check_precision(one, kernels)


def test_the_paired_drop_by_hand():
    before = np.array([True] * 90 + [False] * 10)
    after = before.copy()
    after[:6] = False  # six lost
    after[95:97] = True  # two won
    drop = paired_drop(before, after)
    assert drop.value == pytest.approx(0.04)
    # (6.5 - 2.5) / 102 and sqrt((9 / 102 - (4 / 102) ** 2) / 102)
    assert np.mean(drop.interval) == pytest.approx(4 / 102)
    assert (drop.interval[1] - drop.interval[0]) / 2 == pytest.approx(
        1.959964 * np.sqrt((9 / 102 - (4 / 102) ** 2) / 102), rel=1e-6
    )


def test_equal_answers_are_not_certain_to_be_equal():
    right = np.ones(100, dtype=bool)
    low, high = paired_drop(right, right).interval
    assert low < 0 < high
    assert not can_show(0.005, 100)
    assert can_show(0.005, 400)


def test_the_drop_of_images_in_groups_covers_the_truth_as_often_as_it_says():
    """36 patients with ten images each; of some, a variant loses many, of most none."""
    groups = [str(number // 10) for number in range(360)]
    rng, covered = np.random.default_rng(0), {"groups": 0, "images": 0}
    before = np.ones(360, dtype=bool)
    for _ in range(500):
        after = rng.random(360) >= np.repeat(rng.beta(0.5, 4.5, 36), 10)  # on average a tenth is lost
        for name, effective in (("groups", effective_number(before - after.astype(float), groups)), ("images", None)):
            low, high = paired_drop(before, after, effective).interval
            covered[name] += low <= 0.1 <= high
    assert covered["images"] < 0.85 * 500
    assert covered["groups"] > 0.92 * 500


def test_few_groups_show_less_than_their_images():
    groups = [str(number // 10) for number in range(4000)]
    assert can_show(0.005, 4000)
    assert not can_show(0.005, effective_number(np.zeros(4000), groups[:1000] * 4))
    assert can_show(0.005, effective_number(np.zeros(4000), groups))
    right = np.ones(4000, dtype=bool)
    one = measured(images=4000, drop=0, drop_interval=(-0.01, 0.01))
    assert "may lose 1.00%" in accuracy_refusal(one, 0.005)
    assert accuracy_refusal(replace(one, effective_images=100.0), 0.005) is None  # judged by the drop itself
    assert paired_drop(right, right, 100).interval == paired_drop(right[:100], right[:100]).interval


def measured(**fields) -> Measurement:
    values = {
        "host": AMD,
        "date": "2026-01-01T00:00:00Z",
        "threads": 2,
        "images": 1000,
        "accuracy": 0.95,
        "drop": 0.0,
        "drop_interval": (-0.001, 0.001),
        "agreement": 1.0,
        "difference": 0.0,
        "latency_p50_ms": 5.0,
        "latency_p99_ms": 9.0,
        "images_per_second": {"1": 200.0, "8": 300.0, "32": 300.0},
        "load_seconds": 1.0,
        "memory_bytes": 1,
        "file_bytes": 1,
    }
    return Measurement(**{**values, **fields})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"latency_p99_ms": 11.0}, "p99 latency of 11.0 ms exceeds the limit of 10 ms"),
        ({"drop": 0.004, "drop_interval": (0.001, 0.007)}, "may lose 0.70% of the accuracy, 0.50% are allowed"),
        # Too few images for the interval: then the estimate counts.
        ({"images": 100, "drop": 0.004, "drop_interval": (-0.02, 0.03)}, None),
        ({"images": 100, "drop": 0.01, "drop_interval": (-0.02, 0.03)}, "loses 1.00% of the accuracy"),
        ({"images": 20}, "20 images are too few to judge it"),
        ({"accuracy": None, "drop": None, "drop_interval": None, "agreement": 0.99}, "1.00% of the answers differ"),
        ({"accuracy": None, "drop": None, "drop_interval": None, "agreement": 1.0}, None),
    ],
)
def test_who_may_be_served(fields, reason):
    found = refusal(measured(**fields), max_drop=0.005, p99_ms=10)
    assert found is None if reason is None else reason in found


def test_ranking_and_frontier():
    every = {
        "slow": measured(),
        "fast": measured(accuracy=0.94, latency_p50_ms=1.0, images_per_second={"8": 900.0}),
        "beaten": measured(accuracy=0.93, latency_p50_ms=2.0, images_per_second={"8": 500.0}),
    }
    assert rank(every) == ["fast", "beaten", "slow"]
    assert frontier(every) == ["fast", "slow"]


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (OptimizeConfig, {"variants": ("int4",)}, "variants: unknown kind 'int4'"),
        (OptimizeConfig, {"max_accuracy_drop": 1.0}, "max_accuracy_drop: expected at least 0 and less than 1"),
        (OptimizeConfig, {"rounds": 0}, "rounds: expected at least 1"),
        (PruningConfig, {"keep": 0.5, "size_mb": 3.0}, "give only one target"),
        (PruningConfig, {"weights": 1.0}, "weights: expected at least 0 and less than 1"),
    ],
)
def test_configurations_are_checked_at_birth(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
