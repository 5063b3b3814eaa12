"""The folder of a selection: what was asked, and what is measured already.

::

    DIR/
      request.json              data digest, folds, seed and every candidate's configuration
      rejected.csv              files that were left out, and why
      folds/NAME/1.json         result of a finished fold
      folds/NAME/1/             run folder of an unfinished one
      folds/NAME/refit/         run folder of the winner, until it is finished
      winner/                   run folder of the winner
      winner.json               who won, and the metrics of its refit
      selection.json, .csv, .md, .svg
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marquee.handlers.schema import SchemaError, from_dict, to_dict
from marquee.training.config import RunConfig
from marquee.training.data.manifest import Manifest
from marquee.training.errors import TrainingError
from marquee.training.files import write_json
from marquee.training.selection.candidates import Candidate
from marquee.training.selection.footprint import Footprint

REQUEST_FILE = "request.json"
WINNER = "winner"


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """One candidate on one fold."""

    accuracy: float
    """On the images that the fold holds out."""
    balanced_accuracy: float
    nll: float
    images: int
    """Held-out images."""
    seconds: float
    """Training, export and measurement; the time of an interrupted attempt is not counted."""
    footprint: Footprint


class SelectionStore:
    """Reads and writes the folder of one selection."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def begin(
        self, manifest: Manifest, folds: int, seed: int, candidates: dict[str, tuple[Candidate, RunConfig]]
    ) -> None:
        """Records what is asked; further candidates may join a selection that was begun before.

        Raises:
            TrainingError: the folder belongs to other data or to another configuration; the message names it.
        """
        path = self.folder / REQUEST_FILE
        asked: dict[str, Any] = {
            "data": _digest(manifest),
            "folds": folds,
            "seed": seed,
            "candidates": {
                name: {"kind": candidate.kind, "config": to_dict(config)}
                for name, (candidate, config) in candidates.items()
            },
        }
        if not path.exists():
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise TrainingError(f"{self.folder}: exists already and holds no selection; choose another --out")
            write_json(path, asked)
            return
        begun = _read_json(path)
        self._compare(begun, asked)
        write_json(path, {**asked, "candidates": {**begun["candidates"], **asked["candidates"]}})

    def _compare(self, begun: dict[str, Any], asked: dict[str, Any]) -> None:
        if begun["data"] != asked["data"]:
            raise TrainingError(
                f"{self.folder}: was begun with other images, labels, splits or groups; choose a new --out"
            )
        for name in ("folds", "seed"):
            if begun[name] != asked[name]:
                raise TrainingError(
                    f"{self.folder}: was begun with {name} {begun[name]}, not {asked[name]}; choose a new --out"
                )
        for name in filter(begun["candidates"].__contains__, asked["candidates"]):
            old, new = (_flat(request["candidates"][name]) for request in (begun, asked))
            for field in sorted(old.keys() | new.keys()):
                if old.get(field) != new.get(field):
                    raise TrainingError(
                        f"{self.folder}: candidate {name} was begun with {field} {old.get(field)}, not "
                        f"{new.get(field)}; choose a new --out, or another name for the candidate"
                    )

    def run_folder(self, candidate: str, fold: int) -> Path:
        """Where fold ``fold`` (from 1) of a candidate is trained."""
        return self.folder / "folds" / candidate / str(fold)

    def read(self, candidate: str, fold: int) -> FoldResult | None:
        """The result of a finished fold; None when it is not finished."""
        path = self._result(candidate, fold)
        if not path.exists():
            return None
        try:
            return from_dict(FoldResult, _read_json(path))
        except SchemaError as error:
            raise TrainingError(f"{path}: {error}; delete the file to measure this fold again") from error

    def write(self, candidate: str, fold: int, result: FoldResult) -> None:
        """Keeps the result and drops the run that it was measured on."""
        write_json(self._result(candidate, fold), to_dict(result))
        shutil.rmtree(self.run_folder(candidate, fold), ignore_errors=True)

    def refit_folder(self, candidate: str) -> Path:
        """Where the winner is trained before it becomes ``winner/``."""
        return self.folder / "folds" / candidate / "refit"

    def winner(self, candidate: str) -> dict[str, Any] | None:
        """Metrics of the refit when ``winner/`` is this candidate's."""
        path = self.folder / f"{WINNER}.json"
        if not path.exists() or not (self.folder / WINNER).is_dir():
            return None
        held = _read_json(path)
        return held["metrics"] if held["candidate"] == candidate else None

    def crown(self, candidate: str, metrics: dict[str, Any]) -> None:
        """Makes the finished refit ``winner/``, in place of an earlier one."""
        (self.folder / f"{WINNER}.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder / WINNER, ignore_errors=True)
        self.refit_folder(candidate).rename(self.folder / WINNER)
        write_json(self.folder / f"{WINNER}.json", {"candidate": candidate, "metrics": metrics})

    def _result(self, candidate: str, fold: int) -> Path:
        return self.folder / "folds" / candidate / f"{fold}.json"


def _digest(manifest: Manifest) -> str:
    """As the manifest's own, and with groups, which decide the folds."""
    lines = sorted(f"{r.sha256} {r.split} {r.label} {r.group}" for r in manifest.records)
    return f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def _flat(candidate: dict[str, Any]) -> dict[str, Any]:
    fields = {f"{part}.{name}": value for part, own in candidate["config"].items() for name, value in own.items()}
    return {"kind": candidate["kind"], **fields}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: not readable as JSON: {error}; delete the file to measure it again") from error
    return value
