"""Runs a selection: measures the candidates fold by fold, then trains the winner on all training items."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marquee.training.core.config import RunConfig
from marquee.training.core.errors import DataError, TrainingError, reason_of
from marquee.training.core.exclusive import exclusive
from marquee.training.core.loop import Interrupted
from marquee.training.core.places import check_apart
from marquee.training.core.progress import Progress
from marquee.training.core.rejected import log_rejected, write_rejected
from marquee.training.core.run import summary, train
from marquee.training.core.run_folder import RunFolder
from marquee.training.selection.candidates import Candidate
from marquee.training.selection.comparison import compare
from marquee.training.selection.config import Rule, SelectionConfig
from marquee.training.selection.decide import PAYS, Decision, decide, verdict_on
from marquee.training.selection.footprint import measure_footprint
from marquee.training.selection.kinds import selectable_for
from marquee.training.selection.report import Baseline, Entry, Report
from marquee.training.selection.selectable import CheapProbe, Folds, Selectable
from marquee.training.selection.store import FoldResult, SelectionStore

logger = logging.getLogger(__name__)

Resolved = Mapping[str, tuple[Candidate, RunConfig]]
"""Name -> the candidate and its whole configuration."""


class BudgetSpent(Exception):  # noqa: N818 - running out of time is not an error
    """The next fold would exceed the time limit."""


def select(
    data: Path,
    out: Path,
    ladder: Sequence[Candidate],
    base: RunConfig,
    config: SelectionConfig,
    rule: Rule,
    progress: Progress,
) -> Report:
    """Measures candidates by cross-validation, chooses one and trains it on all training items.

    A call with the same arguments resumes the selection: finished folds are kept, an unfinished one is continued.

    Args:
        data: a data set of the task of ``base``. Items with a named ``test`` split are not used for the selection, only
            for the final evaluation of the winner.
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
    check_apart(data, out)
    selectable = selectable_for(base.task)
    resolved = {candidate.name: (candidate, candidate.resolve(base)) for candidate in ladder}
    selectable.check({name: (candidate.kind, own) for name, (candidate, own) in resolved.items()}, base)
    manifest, rejected = selectable.read(base, data, progress)
    log_rejected(rejected)
    # All checks of the data set, before any training.
    final, warnings = selectable.final(base, manifest)
    for line in warnings:
        logger.info(line)
    folds = selectable.folds(base, manifest, config.folds)
    store = SelectionStore(out, selectable.recorded, selectable.unit)
    try:
        with exclusive(out, "marquee select"):
            store.begin(selectable.digest_lines(manifest), config.folds, base.loop.seed, resolved)
            write_rejected(RunFolder(out).rejected, rejected)
            return _Selection(selectable, resolved, folds, final, config, rule, store, progress).run()
    except KeyboardInterrupt:
        raise TrainingError(f"interrupted; repeat the command to continue with {out}") from None
    except TrainingError as error:
        if isinstance(error.__cause__, Interrupted):
            raise TrainingError(f"{error.__cause__}; saved. Repeat the command to continue with {out}") from error
        raise


def _is_failure(error: BaseException) -> bool:
    """Whether an error concerns one candidate: NaN outputs, no memory, whatever a library raises.

    What concerns all of them ends the selection: the data, the time, or the user's wish.
    """
    concerns_all = isinstance(error, (DataError, BudgetSpent)) or isinstance(error.__cause__, Interrupted)
    return isinstance(error, Exception) and not concerns_all


class _Selection:
    """The state of one call of :func:`select`; results are added to the entries as folds are measured."""

    def __init__(
        self,
        selectable: Selectable[Any],
        candidates: Resolved,
        folds: Folds,
        final: Any,
        config: SelectionConfig,
        rule: Rule,
        store: SelectionStore,
        progress: Progress,
    ) -> None:
        self._selectable = selectable
        self._candidates = candidates
        self._folds = folds
        self._count = len(folds.manifests)
        self._final = final
        self._config = config
        self._rule = rule
        self._store = store
        self._progress = progress
        constant = selectable.baseline(folds)
        self._measured = selectable.measure(folds, constant)
        self._constant = [self._measured.of(metrics) for metrics in constant]
        self._entries = {name: Entry(name=name, kind=candidate.kind) for name, (candidate, _) in candidates.items()}
        self._probes: dict[str, CheapProbe] = {}
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
        choice, metrics = self._winner(ended)
        return Report(
            entries=tuple(self._entries.values()),
            decision=self._decision(),
            ended=ended,
            folds=self._count,
            items=self._folds.items,
            unit=self._selectable.unit,
            item=self._selectable.item,
            latency=self._selectable.latency,
            val_caveat=self._selectable.val_caveat,
            measure=self._measured,
            baseline=self._baseline(choice),
            note=self._folds.note,
            winner=metrics,
            result=summary(self._candidates[choice][1], metrics),
        )

    def _winner(self, ended: str) -> tuple[str, dict[str, Any]]:
        """The choice, trained on all training items; the next best where that fails."""
        while choice := self._decision().choice:
            logger.info(f"{ended}; chosen: {choice}")
            try:
                return choice, self._store.winner(choice) or self._refit(choice)
            except BaseException as error:
                if not _is_failure(error):
                    raise
                self._leave_out(self._entries[choice], f"failed on all training {self._selectable.unit}", error)
        raise TrainingError(self._no_choice_message(ended))

    def _leave_out(self, entry: Entry, what: str, error: BaseException) -> None:
        logger.debug("%s", entry.name, exc_info=error)
        entry.skipped = f"{what}: {reason_of(error)}"
        logger.info(f"SKIPPED {entry.name}: {entry.skipped}")

    def _measure(self, name: str) -> None:
        """Measures all folds of a candidate; records why if it is unavailable or its training fails."""
        entry, (_, config) = self._entries[name], self._candidates[name]
        results = [self._store.read(name, number) for number in range(1, self._count + 1)]
        entry.results = [result for result in results if result is not None]
        if len(entry.results) == len(results):
            logger.info(f"{name}: all folds are already measured")
            return
        if reason := self._selectable.unavailable(config, self._final):
            entry.skipped = reason
            logger.info(f"SKIPPED {name}: {reason}")
            return
        try:
            for number, fold in enumerate(self._folds.manifests, start=1):
                if results[number - 1] is None:
                    self._check_budget(entry)
                    results[number - 1] = self._run_fold(name, number, fold)
                    entry.results = [result for result in results if result is not None]
        except BaseException as error:
            if not _is_failure(error):
                raise
            self._leave_out(entry, "failed", error)

    def _run_fold(self, name: str, number: int, fold: Any) -> FoldResult:
        out, unit = self._store.run_folder(name, number), self._selectable.unit
        logger.info(f"== {name}, fold {number} of {self._count}")
        started = time.monotonic()
        metrics = self._train(name, fold, out, report=False)  # the folder is deleted with the fold's run
        footprint = measure_footprint(RunFolder(out).bundle, fold.split("test")[0])
        result = FoldResult(
            metrics={metric: metrics[metric] for metric in self._selectable.recorded},
            items=metrics[unit],
            seconds=time.monotonic() - started,
            footprint=footprint,
        )
        self._store.write(name, number, result)
        logger.info(f"== {name}, fold {number}: {self._measured.line(metrics)} on {result.items} {unit}")
        return result

    def _train(self, name: str, manifest: Any, out: Path, report: bool = True) -> dict[str, Any]:
        candidate, config = self._candidates[name]
        if candidate.kind == "probe":
            if name not in self._probes:
                self._probes[name] = self._selectable.probe(config, self._folds, self._progress)
            return self._probes[name].train(manifest, out)
        resume = RunFolder(out).is_begun and RunFolder(out).has_checkpoints
        return train(config, None, out, resume, manifest, report)

    def _refit(self, name: str) -> dict[str, Any]:
        logger.info(f"== {name} on all training {self._selectable.unit}")
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
            name: self._qualities(entry)
            for name, entry in self._entries.items()
            if len(entry.results) == self._count and not entry.skipped
        }
        return decide(complete, self._rule, self._folds.test_per_train)

    def _qualities(self, entry: Entry) -> list[float]:
        return self._measured.qualities(entry.values(self._measured))

    def _baseline(self, choice: str) -> Baseline | None:
        """The constant answer beside the choice; None where there is none."""
        if not self._constant:
            return None
        gain = compare(
            self._qualities(self._entries[choice]),
            self._measured.qualities(self._constant),
            self._folds.test_per_train,
        )
        return Baseline(values=self._constant, gain=gain, beaten=verdict_on(gain, self._rule) == PAYS)

    def _no_choice_message(self, ended: str) -> str:
        reasons = "; ".join(f"{entry.name}: {entry.skipped}" for entry in self._entries.values() if entry.skipped)
        return f"{self._store.folder}: no candidate is complete: {ended}" + (f"; {reasons}" if reasons else "")
