"""How ``marquee predict`` writes answers: as text for people, as CSV, or as JSON lines; each is one line.

Names of files and labels may hold anything: control characters in them are written as JSON writes them.
"""

import csv
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from marquee.handlers.core.quoting import one_line

if TYPE_CHECKING:
    from marquee.serving.answers import Answer

CSV_SUFFIXES = (".csv",)
JSON_SUFFIXES = (".jsonl", ".ndjson")


class Lines(Protocol):
    """Writes answers."""

    def write(self, name: str, answer: "Answer") -> None:
        """Writes one answer, or its error.

        Args:
            name: of the file.
            answer: to it.
        """

    def finish(self) -> None:
        """Writes what is still kept."""


class TextLines:
    """``FILE: LABEL 0.9876, ...``; errors go to stderr."""

    def write(self, name: str, answer: "Answer") -> None:
        """See :class:`Lines`."""
        if answer.error:
            print(one_line(f"{name}: {answer.error}"), file=sys.stderr)
        else:
            print(one_line(f"{name}: {summary(answer.body)}"))

    def finish(self) -> None:
        """Nothing is kept."""


class JsonLines:
    """One object for each file, with the complete answer.

    Args:
        stream: where they are written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, name: str, answer: "Answer") -> None:
        """See :class:`Lines`."""
        print(json_line({"file": name, "status": answer.status, **answer.body}), file=self._stream)

    def finish(self) -> None:
        """Nothing is kept."""


class CsvLines:
    """A table with a line for each image: the file, what is answered, the error.

    Its columns are those of the first answer that is no error; lines before it are kept until then.

    Args:
        stream: where it is written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")
        self._columns: list[str] | None = None
        self._kept: list[dict[str, str]] = []

    def write(self, name: str, answer: "Answer") -> None:
        """See :class:`Lines`."""
        for row in _rows(name, answer):
            if self._columns is None and "error" not in row:
                self._begin(list(row))
            if self._columns is None:
                self._kept.append(row)
            else:
                self._write(row)

    def finish(self) -> None:
        """Writes the errors where nothing else came."""
        if self._columns is None:
            self._begin(["file"])

    def _begin(self, columns: list[str]) -> None:
        self._columns = [*columns, "error"]
        self._writer.writerow(self._columns)
        for row in self._kept:
            self._write(row)
        self._kept.clear()

    def _write(self, row: dict[str, str]) -> None:
        self._writer.writerow([row.get(name, "") for name in self._columns or ()])


def json_line(document: Any) -> str:
    """JSON without any character at which a reader might end the line."""
    return one_line(json.dumps(document, ensure_ascii=False))


def summary(body: dict[str, Any]) -> str:
    """An answer for people."""
    if "ranking" in body:
        ranking = ", ".join(f"{entry['label']} {entry['probability']:.4f}" for entry in body["ranking"])
        if "labels" in body:
            ranking = f"[{', '.join(body['labels'])}] {ranking}"
        return f"{ranking} (abstained: {body['reason']})" if body.get("abstained") else ranking
    if "value" in body:
        interval = body.get("interval")
        within = f" ({interval['low']:.6g} to {interval['high']:.6g})" if interval else ""
        unfamiliar = body.get("unfamiliar")
        return f"{body['value']:.6g}{within}{f'; unfamiliar: {chr(44).join(unfamiliar)}' if unfamiliar else ''}"
    return json.dumps(body.get("predictions", body), ensure_ascii=False)


def _rows(name: str, answer: "Answer") -> Iterator[dict[str, str]]:
    """The cells of an answer by column; several where the file was a list of instances."""
    if answer.error is not None:
        yield {"file": one_line(name), "error": one_line(answer.error)}
    elif "predictions" in answer.body:
        for index, one in enumerate(answer.body["predictions"]):
            yield _row(f"{name}[{index}]", one)
    else:
        yield _row(name, answer.body)


def _row(name: str, body: dict[str, Any]) -> dict[str, str]:
    row: dict[str, Any] = {"file": name}
    if "error" in body:
        row["error"] = f"{body['error']['code']}: {body['error']['message']}"
    for key, value in body.items():
        if key == "ranking":
            row[key] = json_line({entry["label"]: entry["probability"] for entry in value})
        elif key == "interval":
            row |= {"low": value["low"], "high": value["high"]}
        elif key == "abstained":
            row |= {key: value, "reason": body.get("reason", "")}
        elif key not in ("error", "model", "reason"):
            row[key] = value
    return {key: _cell(value) for key, value in row.items()}


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return one_line(value)
    return "" if value is None else json_line(value)
