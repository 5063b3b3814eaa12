"""Choices by measured speed: what is simpler stays unless another is faster by more than the rounds vary."""

import pytest

from marquee.handlers.core.host import this_host
from marquee.handlers.core.measurement import Measurement
from marquee.rounds import ratio, spread
from marquee.serving.tuning.result import Goal, Measured, Trial
from marquee.serving.tuning.space import Params
from marquee.training.optimize.config import RANKED_BATCH
from marquee.training.optimize.judge import order

STEADY_FP32 = (100.0, 101.0, 99.0, 100.5, 99.5)


def measured(**rounds: tuple[float, ...]) -> dict[str, Measurement]:
    """A measurement for each variant whose speed in each round is given."""
    found = {}
    for name, values in rounds.items():
        median = sorted(values)[len(values) // 2]
        found[name] = Measurement(
            host=this_host("cpu"),
            date="2026-11-29T00:00:00Z",
            threads=1,
            images=100,
            agreement=1.0,
            difference=0.0,
            latency_p50_ms=1.0,
            latency_p99_ms=2.0,
            images_per_second={"1": median, str(RANKED_BATCH): median},
            load_seconds=1.0,
            memory_bytes=1,
            file_bytes=1,
            kernels={},
        )
    return found


def choose(**rounds: tuple[float, ...]):
    return order(measured(**rounds), rounds)


def test_a_ratio_and_its_interval():
    # Rounds in which both were slowed alike say the same.
    found = ratio([200.0, 100.0, 50.0], [100.0, 50.0, 25.0])
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))
    # By hand: logs 0.1 and 0.3, mean 0.2, standard error 0.1, Student's quantile for 1 degree of freedom 12.706.
    found = ratio([1.1051709, 1.3498588], [1.0, 1.0])
    assert found.low == pytest.approx(2.718281828 ** (0.2 - 1.2706205), rel=1e-5)
    assert found.high == pytest.approx(2.718281828 ** (0.2 + 1.2706205), rel=1e-5)
    assert not found.is_more


def test_noise_does_not_replace_the_simpler_variant():
    chosen = choose(fp32=STEADY_FP32, openvino=(98.0, 110.0, 97.0, 108.0, 103.0))
    assert chosen.names == ("fp32", "openvino")
    assert chosen.reason.startswith("fp32: openvino is 1.03 times (95 %: 0.9")
    assert "the simpler one stays" in chosen.reason
    assert not chosen.warning


def test_a_small_but_certain_difference_counts():
    # Slowed alike in every round: the spread of each is large, that of their ratio is not.
    slowed = (1.0, 0.9, 0.95, 1.0, 0.85)
    chosen = choose(fp32=tuple(100 * factor for factor in slowed), openvino=tuple(103 * factor for factor in slowed))
    assert chosen.names == ("openvino", "fp32")
    assert chosen.reason == "openvino: 1.03 times (95 %: 1.03 to 1.03) as fast as fp32 at batches of 8"


def test_the_simplest_of_those_that_are_equally_fast():
    chosen = choose(
        fp32=STEADY_FP32, bf16=(250.0, 245.0, 255.0, 248.0, 252.0), int8=(252.0, 249.0, 250.0, 256.0, 244.0)
    )
    assert chosen.names[0] == "bf16"
    assert set(chosen.names) == {"fp32", "bf16", "int8"}


def test_timings_that_are_not_steady_are_told():
    chosen = choose(fp32=(100.0, 40.0, 100.0), openvino=(300.0, 310.0, 305.0))
    assert "timings were not steady: the speed of fp32 varied by 60% over 3 rounds" in chosen.warning
    assert spread([100.0, 40.0, 100.0]) == pytest.approx(0.6)


@pytest.mark.parametrize(("speed", "chosen"), [(110.0, "fp32"), (200.0, "openvino")])
def test_one_round_counts_only_where_the_difference_is_large(speed, chosen):
    assert choose(fp32=(100.0,), openvino=(speed,)).names[0] == chosen


def finalist(workers: int, p99_ms: float, *throughputs: float) -> Measured:
    point = Params((("variant", "fp32"), ("workers", workers), ("threads", 1), ("batch", 8)))
    slices = [Trial(seconds=1.0, throughput=value, p50_ms=1.0, p95_ms=2.0, p99_ms=p99_ms) for value in throughputs]
    return Measured(point=point, slices=tuple(slices))


START = finalist(1, 105.0, 100.0, 101.0, 99.0)


@pytest.mark.parametrize(
    ("other", "goal", "stays", "words"),
    [
        (finalist(2, 106.0, 98.0, 110.0, 101.0), Goal(), True, "within what the rounds vary"),
        # Certain, and a bad bargain.
        (finalist(2, 145.0, 103.0, 104.0, 102.0), Goal(), True, "but p99 105.0 -> 145.0 ms"),
        (finalist(2, 145.0, 103.0, 104.0, 102.0), Goal(p99_ms=150), False, "p99 105.0 -> 145.0 ms"),
        (finalist(2, 120.0, 200.0, 202.0, 198.0), Goal(), False, "2.00 times (95 %: 2.00 to 2.00)"),
        # Only the other one meets the limit.
        (finalist(2, 90.0, 95.0, 96.0, 94.0), Goal(p99_ms=100), False, "the best of 2"),
    ],
)
def test_tuning_changes_settings_for_a_reason(other, goal, stays, words):
    best, reason = goal.choose([START, other])
    assert (best is START) == stays
    assert words in reason
