"""The answers to the rows of a file as CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, Literal


class Answers:
    """The answers to the rows of a file, as lines of a CSV: a row's place, and its answer or its error.

    Args:
        place: what a place is, the name of its column.
    """

    def __init__(self, place: Literal["line", "row"]) -> None:
        self._place = place
        self._rows: list[tuple[int, dict[str, Any]]] = []
        self.errors: list[str] = []
        """Of the rows that have one."""

    @classmethod
    def numbered(cls, predictions: Sequence[dict[str, Any]]) -> "Answers":
        """Those to a request, whose rows are numbered."""
        answers = cls("row")
        for number, prediction in enumerate(predictions, start=1):
            answers.add(number, prediction, str)
        return answers

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, place: int, prediction: dict[str, Any], in_file: Callable[[str], str]) -> None:
        """Adds that to one row.

        Args:
            place: its line, or its number.
            prediction: as the server gave it.
            in_file: gives a message about the request the places of the file.
        """
        cells = _cells(prediction)
        if "error" in cells:
            cells["error"] = f"{cells['error']['code']}: {in_file(cells['error']['message'])}"
            self.errors.append(cells["error"])
        self._rows.append((place, cells))

    def text(self) -> str:
        """The CSV."""
        names = dict.fromkeys(name for _, cells in self._rows for name in cells if name != "error")
        header = [*names, "error"]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([self._place, *header])
        writer.writerows([place, *(cells.get(name, "") for name in header)] for place, cells in self._rows)
        return stream.getvalue()


def _cells(prediction: dict[str, Any]) -> dict[str, Any]:
    """The answer for one row as cells; an error as it is."""
    if "error" in prediction:
        return {"error": prediction["error"]}
    cells: dict[str, Any] = {}
    for name, value in prediction.items():
        if name == "interval":
            cells |= {"low": value["low"], "high": value["high"]}
        elif name == "ranking":
            cells |= {f"p({entry['label']})": entry["probability"] for entry in value}
        elif name == "unfamiliar":
            cells[name] = "|".join(value)
        elif not isinstance(value, (dict, list)):
            cells[name] = value
    return cells
