"""The folder of a selection: the request and the results so far.

::

    DIR/
      request.json              data digest, folds, seed and every candidate's configuration
      rejected.csv              files that were left out, with the reasons
      folds/NAME/1.json         result of a finished fold
      folds/NAME/1/             run folder of an unfinished fold
      folds/NAME/refit/         run folder of the winner while it is trained
      winner/                   run folder of the winner
      winner.json               name of the winner and the metrics of its refit
      selection.json, .csv, .md, .svg
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marquee.handlers.core.schema import SchemaError, from_dict, to_dict
from marquee.training.core.config import RunConfig
from marquee.training.core.errors import TrainingError
from marquee.training.core.exclusive import is_empty
from marquee.training.core.files import write_json
from marquee.training.selection.candidates import Candidate
from marquee.training.selection.footprint import Footprint

REQUEST_FILE = "request.json"
WINNER = "winner"


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """The result of one candidate on one fold."""

    metrics: dict[str, float | None]
    """Metrics on the held-out items, those of :attr:`marquee.training.selection.selectable.Selectable.recorded`."""
    items: int
    """Number of held-out items."""
    seconds: float
    """Time for training, export and measurement, without interrupted attempts."""
    footprint: Footprint


class SelectionStore:
    """Reads and writes the folder of one selection.

    Args:
        folder: the folder.
        recorded: names of the metrics that are kept of each fold.
        unit: the plural noun for items; the name of their number in the files.
    """

    def __init__(self, folder: Path, recorded: Sequence[str], unit: str) -> None:
        self.folder = Path(folder)
        self._recorded = tuple(recorded)
        self._unit = unit

    def begin(
        self, items: Sequence[str], folds: int, seed: int, candidates: Mapping[str, tuple[Candidate, RunConfig]]
    ) -> None:
        """Records the request; candidates may be added to an existing selection.

        Args:
            items: see :meth:`marquee.training.selection.selectable.Selectable.digest_lines`.
            folds: number of folds.
            seed: seed of the folds.
            candidates: name -> the candidate and its whole configuration.

        Raises:
            TrainingError: the folder belongs to other data or another configuration; the message names the difference.
        """
        path = self.folder / REQUEST_FILE
        request: dict[str, Any] = {
            "data": _digest(items),
            "folds": folds,
            "seed": seed,
            "candidates": {
                name: {"kind": candidate.kind, "config": to_dict(config)}
                for name, (candidate, config) in candidates.items()
            },
        }
        if not path.exists():
            if self.folder.exists() and (not self.folder.is_dir() or not is_empty(self.folder)):
                raise TrainingError(f"{self.folder}: exists already and holds no selection; choose another --out")
            write_json(path, request)
            return
        recorded = _read_json(path)
        known = {
            name: _with_new_fields(candidate, candidates[name][1]) if name in candidates else candidate
            for name, candidate in recorded["candidates"].items()
        }
        self._compare({**recorded, "candidates": known}, request)
        write_json(path, {**request, "candidates": {**recorded["candidates"], **request["candidates"]}})

    def _compare(self, recorded: dict[str, Any], request: dict[str, Any]) -> None:
        if recorded["data"] != request["data"]:
            raise TrainingError(
                f"{self.folder}: was begun with other {self._unit}, labels, splits or groups; choose a new --out"
            )
        for name in ("folds", "seed"):
            if recorded[name] != request[name]:
                raise TrainingError(
                    f"{self.folder}: was begun with {name} {recorded[name]}, not {request[name]}; choose a new --out"
                )
        for name in filter(recorded["candidates"].__contains__, request["candidates"]):
            old, new = (_flat(source["candidates"][name]) for source in (recorded, request))
            for field in sorted(old.keys() | new.keys()):
                if old.get(field) != new.get(field):
                    raise TrainingError(
                        f"{self.folder}: candidate {name} was begun with {field} {old.get(field)}, not "
                        f"{new.get(field)}; choose a new --out, or another name for the candidate"
                    )

    def run_folder(self, candidate: str, fold: int) -> Path:
        """The run folder of a candidate's fold; folds are numbered from 1."""
        return self.folder / "folds" / candidate / str(fold)

    def read(self, candidate: str, fold: int) -> FoldResult | None:
        """The result of a finished fold; None if it is not finished."""
        path = self._result(candidate, fold)
        if not path.exists():
            return None
        try:
            return from_dict(FoldResult, self._nested(_read_json(path)))
        except SchemaError as error:
            raise TrainingError(f"{path}: {error}; delete the file to measure this fold again") from error

    def write(self, candidate: str, fold: int, result: FoldResult) -> None:
        """Writes the result and deletes the run folder of the fold."""
        flat = {**result.metrics, self._unit: result.items, "seconds": result.seconds}
        write_json(self._result(candidate, fold), {**flat, "footprint": to_dict(result.footprint)})
        shutil.rmtree(self.run_folder(candidate, fold), ignore_errors=True)

    def refit_folder(self, candidate: str) -> Path:
        """The run folder in which the winner is trained before it becomes ``winner/``."""
        return self.folder / "folds" / candidate / "refit"

    def winner(self, candidate: str) -> dict[str, Any] | None:
        """Metrics of the refit if ``winner/`` belongs to this candidate; None otherwise."""
        path = self.folder / f"{WINNER}.json"
        if not path.exists() or not (self.folder / WINNER).is_dir():
            return None
        winner = _read_json(path)
        return winner["metrics"] if winner["candidate"] == candidate else None

    def promote(self, candidate: str, metrics: dict[str, Any]) -> None:
        """Moves the finished refit to ``winner/``, replacing an earlier one."""
        (self.folder / f"{WINNER}.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder / WINNER, ignore_errors=True)
        self.refit_folder(candidate).rename(self.folder / WINNER)
        write_json(self.folder / f"{WINNER}.json", {"candidate": candidate, "metrics": metrics})

    def _result(self, candidate: str, fold: int) -> Path:
        return self.folder / "folds" / candidate / f"{fold}.json"

    def _nested(self, flat: dict[str, Any]) -> dict[str, Any]:
        """The fields of a :class:`FoldResult` from the content of its file, which has the metrics at the top.

        Raises:
            SchemaError: it is no object, or a metric is missing.
        """
        if not isinstance(flat, dict):
            raise SchemaError(f"expected an object, got {type(flat).__name__}")
        for name in self._recorded:
            if name not in flat:
                raise SchemaError(f"{name}: missing")
        others = {"items" if name == self._unit else name: value for name, value in flat.items()}
        return {"metrics": {name: others.pop(name) for name in self._recorded}, **others}


def _digest(items: Sequence[str]) -> str:
    return f"sha256:{hashlib.sha256(chr(10).join(sorted(items)).encode()).hexdigest()}"


def _with_new_fields(candidate: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """A recorded candidate with values for the fields that were introduced since, as in a resumed run."""
    kind = type(config)
    try:
        return {**candidate, "config": to_dict(from_dict(kind, kind.with_older_defaults(candidate["config"])))}
    except SchemaError:  # of a field that is no more; the comparison will name it
        return candidate


def _flat(candidate: dict[str, Any]) -> dict[str, Any]:
    fields = {
        f"{section}.{name}": value for section, values in candidate["config"].items() for name, value in values.items()
    }
    return {"kind": candidate["kind"], **fields}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: not readable as JSON: {error}; delete the file to measure it again") from error
    return value
