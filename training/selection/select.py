"""Runs a selection: measures the candidates fold by fold, then trains the winner on all training images."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from marquee.handlers.core.errors import BundleError
from marquee.training.core.errors import DataError, TrainingError
from marquee.training.core.loop import Interrupted
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import log_rejected, write_rejected
from marquee.training.core.run import train
from marquee.training.core.run_folder import RunFolder
from marquee.training.selection.candidates import Candidate, missing_weights
from marquee.training.selection.config import Rule, SelectionConfig
from marquee.training.selection.decide import Decision, decide
from marquee.training.selection.folds import make_folds
from marquee.training.selection.footprint import measure_footprint
from marquee.training.selection.probe import Probe, train_probe
from marquee.training.selection.report import Entry, Report
from marquee.training.selection.store import FoldResult, SelectionStore
from marquee.training.tasks.image_classification.config import ImageRunConfig
from marquee.training.tasks.image_classification.data.manifest import Manifest
from marquee.training.tasks.image_classification.data.scan import scan
from marquee.training.tasks.image_classification.data.split import assign_splits
from marquee.training.tasks.image_classification.task import ImageClassification

logger = logging.getLogger(__name__)


class BudgetSpent(Exception):  # noqa: N818 - running out of time is not an error
    """The next fold would exceed the time limit."""


def select(
    data: Path,
    out: Path,
    ladder: Sequence[Candidate],
    base: ImageRunConfig,
    config: SelectionConfig,
    rule: Rule,
    progress: Progress,
) -> Report:
    """Measures candidates by cross-validation, chooses one and trains it on all training images.

    A call with the same arguments resumes the selection: finished folds are kept, an unfinished one is continued.

    Args:
        data: see :mod:`marquee.training.tasks.image_classification.data.scan`. Images with a named ``test`` split are
            not used for the selection, only for the final evaluation of the winner.
        out: the folder of the selection (see :mod:`marquee.training.selection.store`).
        ladder: candidates, the simplest first.
        base: configuration that each candidate overrides; its seed determines the folds.
        config: how candidates are measured.
        rule: when a larger candidate is preferred.
        progress: where progress is reported.

    Returns:
        The report, which the caller writes.

    Raises:
        TrainingError: the selection failed or was interrupted; the message says what happened and what to do.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError("a selection runs in one process; start it without torchrun")
    resolved = {candidate.name: (candidate, candidate.resolve(base)) for candidate in ladder}
    if any(config.task != ImageClassification.name for _, config in resolved.values()):
        raise TrainingError(
            "--model.multi-label: folds of images with several labels are not supported; use marquee train instead"
        )
    manifest, rejected = scan(data, base.image.max_pixels, progress)
    log_rejected(rejected)
    # All checks of the data set, before any training.
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
        raise TrainingError(f"interrupted; repeat the command to continue with {out}") from None
    except TrainingError as error:
        if isinstance(error.__cause__, Interrupted):
            raise TrainingError(f"{error.__cause__}; saved. Repeat the command to continue with {out}") from error
        raise


class _Selection:
    """The state of one call of :func:`select`; results are added to the entries as folds are measured."""

    def __init__(
        self,
        candidates: dict[str, tuple[Candidate, ImageRunConfig]],
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
                    del self._probes[name]  # frees the memory of its features, which are no longer needed
        except BudgetSpent:
            ended = f"the budget of {self._config.minutes:g} minutes is spent; repeat the command to continue"
        choice = self._decision().choice
        if not choice:
            raise TrainingError(self._no_choice_message(ended))
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
        """Measures all folds of a candidate; records why if its weights are unavailable or its training fails."""
        entry, (_, config) = self._entries[name], self._candidates[name]
        results = [self._store.read(name, number) for number in range(1, len(self._folds) + 1)]
        entry.results = [result for result in results if result is not None]
        if len(entry.results) == len(results):
            logger.info(f"{name}: all folds are already measured")
            return
        if reason := missing_weights(config, len(self._final.labels)):
            entry.skipped = reason
            logger.info(f"SKIPPED {name}: {reason}")
            return
        try:
            for number, fold in enumerate(self._folds, start=1):
                if results[number - 1] is None:
                    self._check_budget(entry)
                    results[number - 1] = self._run_fold(name, number, fold)
                    entry.results = [result for result in results if result is not None]
        except DataError:
            raise  # concerns all candidates
        except (TrainingError, BundleError) as error:  # such as NaN outputs for held-out images
            if isinstance(error.__cause__, Interrupted):
                raise
            entry.skipped = f"failed: {error}"
            logger.info(f"SKIPPED {name}: {entry.skipped}")

    def _run_fold(self, name: str, number: int, fold: Manifest) -> FoldResult:
        out = self._store.run_folder(name, number)
        logger.info(f"== {name}, fold {number} of {len(self._folds)}")
        started = time.monotonic()
        metrics = self._train(name, fold, out, report=False)  # the folder is deleted with the fold's run
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
        self._store.promote(name, metrics)
        return metrics

    def _check_budget(self, entry: Entry) -> None:
        """Raises BudgetSpent if a fold as slow as the candidate's slowest one so far would exceed the time limit."""
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

    def _no_choice_message(self, ended: str) -> str:
        reasons = "; ".join(f"{entry.name}: {entry.skipped}" for entry in self._entries.values() if entry.skipped)
        return f"{self._store.folder}: no candidate is complete: {ended}" + (f"; {reasons}" if reasons else "")


def _final_manifest(manifest: Manifest) -> Manifest:
    """The splits for training the winner: those that the data set names, and ``train`` for all other images."""
    return Manifest(tuple(replace(record, split=record.split or "train") for record in manifest.records))
