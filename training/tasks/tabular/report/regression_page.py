"""The page about a run that predicts a number."""

from typing import Any

import numpy as np

from marquee.training.core.dataset import SPLITS, groups_of
from marquee.training.report.run_files import known
from marquee.training.report.text import number
from marquee.training.report.training import Measured, training_context
from marquee.training.tasks.tabular.manifest import numbers_of
from marquee.training.tasks.tabular.report import figures
from marquee.training.tasks.tabular.report.facts import RegressionFacts
from marquee.training.tasks.tabular.report.measures import (
    error_of_a_constant,
    expected_coverage,
    parts_by_value,
    spread_of,
)
from marquee.training.tasks.tabular.report.page import LOSS, table_context
from marquee.training.tasks.tabular.report.rows import row_table

_LARGEST = 15
_SHARES = (0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_RMSE = Measured(name="RMSE", key="rmse", show=lambda value: number(value, 5), caption="RMSE of the validation rows.")
_MAE = Measured(name="MAE", key="mae", show=lambda value: number(value, 5))


def regression_context(facts: RegressionFacts) -> dict[str, Any]:
    """The values of ``regression.html``."""
    predictions, errors = facts.predictions, facts.predictions.errors
    unfamiliar, half_width = facts.unfamiliar, facts.calibration.half_width
    train = numbers_of(facts.manifest.split("train"))
    order = np.argsort(-np.abs(errors), kind="stable")[:_LARGEST].tolist()
    return {
        **table_context(facts),
        "output": facts.output,
        "half_width": half_width,
        "level": facts.calibration.level,
        "constant_rmse": error_of_a_constant(train, predictions.targets),
        "predictions": predictions,
        "errors": errors,
        "inside": facts.inside,
        "drawn": len(figures.drawn(errors)),
        "actual_plot": figures.predicted_against_actual("actual", predictions.values, predictions.targets, unfamiliar),
        "errors_plot": figures.errors_against_predicted("errors", predictions.values, errors, half_width, unfamiliar),
        "histogram_plot": figures.error_histogram("histogram", errors, half_width),
        "error_sizes": [(share, float(np.quantile(np.abs(errors), share))) for share in _SHARES],
        "largest_errors": row_table(facts, order),
        **_parts(facts),
        **training_context(facts, (LOSS, _RMSE, _MAE), "rows", _best_text),
        "spreads": {split: spread_of(numbers_of(facts.manifest.split(split))) for split in SPLITS},
    }


def _parts(facts: RegressionFacts) -> dict[str, Any]:
    predictions, level = facts.predictions, facts.calibration.level
    parts = parts_by_value(predictions.values, predictions.targets, facts.inside, groups_of(facts.measured))
    calibrated: dict[str, Any] = {"parts_plot": "", "expected": None, "calibration_rows": None}
    if facts.calibration.half_width is not None:
        calibrated["parts_plot"] = figures.coverage_by_part("parts", parts, level)
        rows = known(facts.evaluation.get("calibration")).get("rows")
        # On validation rows the coverage follows from the width, which was fitted on them.
        if rows and facts.evaluation["split"] == "test":
            expected = expected_coverage(len(predictions.values), rows, level)
            calibrated |= {"expected": expected, "calibration_rows": rows}
    return {"parts": parts, **calibrated}


def _best_text(best: dict[str, Any]) -> str:
    return f"validation RMSE {number(best.get('val_rmse'), 5)}, validation loss {number(best.get('val_loss'))}"
