"""The demo of tables: scikit-learn's diabetes data, the progression of a disease from ten measurements."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marquee.commands.demos.steps import check, predictions_of
from marquee.training.core.run_folder import RunFolder

if TYPE_CHECKING:
    from marquee.serving.client import Answer

LARGEST_RMSE = 60.0
TOLERANCE = 1e-4


class Diabetes:
    """442 patients in a CSV file (Efron et al., 2004)."""

    name = "diabetes"
    what = "scikit-learn's diabetes data as a CSV file"
    items = "test rows"
    training = ("--task=tabular-regression", "--target=progression")

    def write_data(self, folder: Path) -> Path:
        """One CSV file, with the measurements in their own units."""
        from sklearn.datasets import load_diabetes

        data = load_diabetes(scaled=False)
        folder.mkdir(parents=True)
        with open(folder / "diabetes.csv", "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([*data.feature_names, "progression"])
            writer.writerows(
                [*row, target] for row, target in zip(data.data.tolist(), data.target.tolist(), strict=True)
            )
        return folder / "diabetes.csv"

    def score(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        """The error, and how often the intervals contain the truth."""
        check(trained["rmse"] <= LARGEST_RMSE, f"RMSE {trained['rmse']:.2f} > {LARGEST_RMSE}")
        return {"rmse": trained["rmse"], "coverage": trained["coverage"]}

    def requests(self, run: RunFolder) -> list[tuple[bytes, dict[str, str]]]:
        """Each test row as a JSON object."""
        from marquee.training.tasks.tabular.manifest import read_manifest

        rows = {record.path: record.row for record in read_manifest(run.manifest).records}
        return [(rows[line["path"]], line) for line in predictions_of(run)]

    def is_equal(self, answer: "Answer", row: dict[str, str]) -> bool:
        """The same value and interval, to about the seventh digit of the target's range."""
        interval = answer.body["interval"]
        pairs = zip((answer.body["value"], interval["low"], interval["high"]), ("value", "low", "high"), strict=True)
        return all(abs(number - float(row[name])) <= TOLERANCE for number, name in pairs)

    def example(self, work: Path, run: RunFolder) -> Path:
        """The whole table: answers come as CSV."""
        return work / "data" / "diabetes.csv"
