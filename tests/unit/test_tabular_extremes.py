"""A row with numbers at the ends of float64 gets an answer, and does not spoil those of the rows beside it."""

import math

import numpy as np
import pytest

import marquee


@pytest.mark.parametrize(
    "model", [{"name": "linear"}, {"name": "mlp", "width": 8}, {"name": "tabm", "width": 8, "members": 2}]
)
@pytest.mark.parametrize("prepare", [{"scale": "standard", "target": "log"}, {"scale": "none"}])
@pytest.mark.slow
def test_a_row_of_any_size_is_answered(tmp_path, model, prepare):
    rows = np.random.default_rng(0).normal(size=(60, 2))
    lines = [f"{a},{b},{2 * a - b + 20}" for a, b in rows.tolist()]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,y", *lines]))
    marquee.train(
        tmp_path / "rows.csv",
        tmp_path / "run",
        task="tabular-regression",
        table={"target": "y"},
        model=model,
        prepare=prepare,
        export={"clip": False},
        loop={"epochs": 2},
    )
    predictor = marquee.load(tmp_path / "run")
    usual = {"a": 0.5, "b": -0.5}
    (alone,) = predictor.answer([usual])
    extremes = [{"a": a, "b": b} for a in (1e308, -1e308, 5e-324) for b in (1e308, -1e308)]
    answers = predictor.answer([usual, *extremes, usual])
    assert all(math.isfinite(answer.value) for answer in answers)
    assert [answer.value for answer in (answers[0], answers[-1])] == pytest.approx([alone.value] * 2, abs=1e-6)
    assert all("b" in answer.unfamiliar for answer in answers[1:-1])
