"""The story of a selection: fold by fold, candidate by candidate, then the winner on everything."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from marquee.handlers.errors import BundleError
from marquee.training.config import RunConfig
from marquee.training.data.manifest import Manifest, write_rejected
from marquee.training.data.scan import scan
from marquee.training.data.split import assign_splits
from marquee.training.errors import DataError, TrainingError
from marquee.training.loop import Interrupted
from marquee.training.progress import Progress
from marquee.training.run import train
from marquee.training.run_folder import RunFolder
from marquee.training.selection.candidates import Candidate, missing_weights
from marquee.training.selection.config import Rule, SelectionConfig
from marquee.training.selection.decide import Decision, decide
from marquee.training.selection.folds import make_folds
from marquee.training.selection.footprint import measure_footprint
from marquee.training.selection.probe import Probe, train_probe
from marquee.training.selection.report import Entry, Report
from marquee.training.selection.store import FoldResult, SelectionStore

logger = logging.getLogger(__name__)


class BudgetSpent(Exception):  # noqa: N818 - the end of the time is no mistake
    """The next fold would end after the time that was given."""


def select(
    data: Path,
    out: Path,
    ladder: Sequence[Candidate],
    base: RunConfig,
    config: SelectionConfig,
    rule: Rule,
    progress: Progress,
) -> Report:
    """Measures candidates by cross-validation, chooses one and trains it on everything.

    Called again with the same arguments it goes on: finished folds are not repeated, an unfinished one is resumed.

    Args:
        data: see :mod:`marquee.training.data.scan`. Images with a named ``test`` split are kept out of everything, and
            measured once, by the winner.
        out: the folder of the selection (see :mod:`marquee.training.selection.store`).
        ladder: candidates, simple ones first.
        base: configuration underneath each candidate's own; its seed decides the folds.
        config: how they are measured.
        rule: when a larger one pays.
        progress: told about it.

    Returns:
        What was measured and chosen; the caller writes it out.

    Raises:
        TrainingError: with what happened and what to do; interrupted is one of these.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError("a selection is one process; start it without torchrun")
    resolved = {candidate.name: (candidate, candidate.resolve(base)) for candidate in ladder}
    if any(config.model.multi_label for _, config in resolved.values()):
        raise TrainingError(
            "--model.multi-label: folds of images with several labels are not supported; train one instead"
        )
    manifest, rejected = scan(data, base.image.max_pixels, progress)
    for item in rejected[:20]:
        logger.info(f"left out: {item.path}: {item.reason}")
    if len(rejected) > 20:
        logger.info(f"left out: {len(rejected) - 20} more, all in {RunFolder(out).rejected}")
    # Everything that the data set can be refused for, before any work.
    final = _final_manifest(manifest)
    for line in assign_splits(final, base.split, base.loop.seed)[1]:
        logger.info(line)
    folds = make_folds(manifest, config.folds, base.loop.seed)
    store = SelectionStore(out)
    store.begin(manifest, config.folds, base.loop.seed, resolved)
    write_rejected(RunFolder(out).rejected, rejected)
    try:
        return _Selection(resolved, folds, final, config, rule, store, progress).run()
    except KeyboardInterrupt:
        raise TrainingError(f"interrupted; the same command goes on with {out}") from None
    except TrainingError as error:
        if isinstance(error.__cause__, Interrupted):
            raise TrainingError(f"{error.__cause__}; saved. The same command goes on with {out}") from error
        raise


class _Selection:
    """One call: its entries fill up as folds are measured."""

    def __init__(
        self,
        candidates: dict[str, tuple[Candidate, RunConfig]],
        folds: Sequence[Manifest],
        final: Manifest,
        config: SelectionConfig,
        rule: Rule,
        store: SelectionStore,
        progress: Progress,
    ) -> None:
        self._candidates = candidates
        self._folds = folds
        self._final = final
        self._config = config
        self._rule = rule
        self._store = store
        self._progress = progress
        self._entries = {name: Entry(name=name, kind=candidate.kind) for name, (candidate, _) in candidates.items()}
        self._probes: dict[str, Probe] = {}
        self._started = time.monotonic()

    def run(self) -> Report:
        ended = "all candidates measured"
        try:
            for name in self._candidates:
                self._measure(name)
                if self._decision().stop:
                    ended = "larger candidates did not pay"
                    break
                if name in self._probes and self._decision().choice != name:
                    del self._probes[name]  # its features fill memory, and nobody will ask for them
        except BudgetSpent:
            ended = f"the budget of {self._config.minutes:g} minutes is spent; the same command goes on"
        choice = self._decision().choice
        if not choice:
            raise TrainingError(self._nothing(ended))
        logger.info(f"{ended}; chosen: {choice}")
        metrics = self._store.winner(choice) or self._refit(choice)
        return Report(
            entries=tuple(self._entries.values()),
            decision=self._decision(),
            ended=ended,
            folds=len(self._folds),
            images=len(self._folds[0].records),
            winner=metrics,
        )

    def _measure(self, name: str) -> None:
        """All folds of a candidate; a candidate that cannot be had or cannot be trained is left out with its reason."""
        entry, (_, config) = self._entries[name], self._candidates[name]
        known = [self._store.read(name, number) for number in range(1, len(self._folds) + 1)]
        entry.results = [result for result in known if result is not None]
        if len(entry.results) == len(known):
            logger.info(f"{name}: all folds are measured already")
            return
        if reason := missing_weights(config, len(self._final.labels)):
            entry.skipped = reason
            logger.info(f"SKIPPED {name}: {reason}")
            return
        try:
            for number, fold in enumerate(self._folds, start=1):
                if known[number - 1] is None:
                    self._check_budget(entry)
                    known[number - 1] = self._run_fold(name, number, fold)
                    entry.results = [result for result in known if result is not None]
        except DataError:
            raise  # the data are everybody's
        except (TrainingError, BundleError) as error:  # such as a bundle that answers held-out images with NaN
            if isinstance(error.__cause__, Interrupted):
                raise
            entry.skipped = f"failed: {error}"
            logger.info(f"SKIPPED {name}: {entry.skipped}")

    def _run_fold(self, name: str, number: int, fold: Manifest) -> FoldResult:
        out = self._store.run_folder(name, number)
        logger.info(f"== {name}, fold {number} of {len(self._folds)}")
        started = time.monotonic()
        metrics = self._train(name, fold, out, report=False)  # the folder is kept no longer than the fold's numbers
        footprint = measure_footprint(RunFolder(out).bundle, fold.split("test")[0])
        result = FoldResult(
            accuracy=metrics["accuracy"],
            balanced_accuracy=metrics["balanced_accuracy"],
            nll=metrics["nll"],
            images=metrics["images"],
            seconds=time.monotonic() - started,
            footprint=footprint,
        )
        self._store.write(name, number, result)
        logger.info(f"== {name}, fold {number}: accuracy {result.accuracy:.4f} on {result.images} images")
        return result

    def _train(self, name: str, manifest: Manifest, out: Path, report: bool = True) -> dict[str, Any]:
        candidate, config = self._candidates[name]
        if candidate.kind == "probe":
            if name not in self._probes:
                pool = Manifest(tuple(replace(record, split="train") for record in self._folds[0].records))
                self._probes[name] = Probe(config, pool, self._progress)
            return train_probe(self._probes[name], manifest, out, self._progress)
        resume = RunFolder(out).is_begun and RunFolder(out).has_checkpoints
        return train(config, None, out, resume, manifest, report)

    def _refit(self, name: str) -> dict[str, Any]:
        logger.info(f"== {name} on all training images")
        metrics = self._train(name, self._final, self._store.refit_folder(name))
        self._store.crown(name, metrics)
        return metrics

    def _check_budget(self, entry: Entry) -> None:
        """Stops before a fold that would, like the candidate's slowest one so far, end too late."""
        expected = max((result.seconds for result in entry.results), default=0.0)
        spent = time.monotonic() - self._started
        if self._config.minutes and spent + expected > 60 * self._config.minutes:
            raise BudgetSpent

    def _decision(self) -> Decision:
        complete = {
            name: [result.accuracy for result in entry.results]
            for name, entry in self._entries.items()
            if len(entry.results) == len(self._folds)
        }
        return decide(complete, self._rule)

    def _nothing(self, ended: str) -> str:
        reasons = "; ".join(f"{entry.name}: {entry.skipped}" for entry in self._entries.values() if entry.skipped)
        return f"{self._store.folder}: no candidate is complete: {ended}" + (f"; {reasons}" if reasons else "")


def _final_manifest(manifest: Manifest) -> Manifest:
    """The splits of the winner's own training: those that the data set names, and ``train`` for the rest."""
    return Manifest(tuple(replace(record, split=record.split or "train") for record in manifest.records))
