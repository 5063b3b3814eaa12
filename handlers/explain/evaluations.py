"""The answers that an explanation of a row needs, within its time: for rows mixed from that row and a background."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.arrays import Arrays, concatenate, rows
from ..core.errors import BundleError, InputError
from ..core.predictor import Predictor
from ..inputs.table.spec import CODES, NUMBERS, table_of
from ..outputs.classification import LOGITS
from ..outputs.regression import VALUE
from .budget import Budget, chunk
from .game import Coalitions, Games, coalitions_of, exact, left_out, sampled, walk_length
from .request import RowRequest

logger = logging.getLogger(__name__)

MOST_EVALUATIONS = 1 << 17
"""Rows that go through the model for one explanation, whatever time there is, unless ``samples`` asks for more."""
LEAST_SAMPLES, MOST_SAMPLES = RowRequest.numbers["samples"]
_CELLS = 1 << 22
"""Cells of the rows that are made at once: 32 MB of numbers."""


@dataclass(frozen=True)
class Found:
    """What a method found."""

    contributions: np.ndarray
    """Float64 (columns,)."""
    errors: np.ndarray | None
    """Float64 (columns,): standard errors of contributions that are estimates."""
    settings: dict[str, Any]
    """What the method was run with."""


class Evaluations:
    """The answers for rows whose cells are partly the explained row's and partly the background's.

    Args:
        predictor: is asked.
        row: the explained one.
        background: what it is compared with.
        index: of the label whose log-odds are wanted; None: the number.
        budget: what all of it may take.
    """

    def __init__(
        self, predictor: Predictor, row: Arrays, background: Arrays, index: int | None, budget: Budget
    ) -> None:
        self._predictor, self._row, self._background, self._index = predictor, row, background, index
        self._table, self._budget = table_of(predictor.spec), budget
        kinds = np.array([column.kind == "category" for column in self._table.features])
        self._places = {NUMBERS: np.flatnonzero(~kinds), CODES: np.flatnonzero(kinds)}
        self._at_once = min(self._table.chunk, max(1, _CELLS // len(kinds)))
        self.count = 0
        """Rows that went through the model, but for those that time was measured with."""
        answers, self._each = self._measure_ends()
        self.games = Games(differs=self._differs(), without=answers[1:], answer=float(answers[0]))
        self._each = self._measure_many(than=len(answers))
        self.count = len(answers)

    def shapley(self, samples: int | None = None) -> Found:
        """Shapley values: from all coalitions, or from a number of pairs of permutations of every game.

        Args:
            samples: that number; None: all coalitions where the time allows it, else as many pairs as it allows.

        Raises:
            InputError: ``too_slow``, ``inference_failed``.
        """
        pair, coalitions = walk_length(self.games), coalitions_of(self.games)
        if samples is not None and pair:
            self._fitting(samples * pair)
        else:
            least = min(coalitions, LEAST_SAMPLES * pair) if pair else coalitions
            fitting = min(self._fitting(least), MOST_EVALUATIONS)
            if coalitions <= fitting or not pair:
                return Found(exact(self.games, self._worth), None, {"exact": True})
            samples = min(max(fitting // pair, LEAST_SAMPLES), MOST_SAMPLES)
        values, errors = sampled(self.games, self._worth, samples, self._at_once)
        return Found(values, errors, {"exact": False, "samples": samples})

    def occlusion(self) -> Found:
        """How much the answer changes when one column at a time is as in the background.

        Raises:
            InputError: ``too_slow``, ``inference_failed``.
        """
        self._fitting(int(self.games.players.sum()))
        return Found(left_out(self.games, self._worth), None, {})

    def _fitting(self, least: int) -> int:
        return self._budget.passes(self._each, least)

    def _measure_ends(self) -> tuple[np.ndarray, float]:
        """The answers for the row and the background, and the seconds that each takes."""
        every, answers = concatenate([self._row, self._background]), []
        seconds = self._budget.measure(lambda: answers.append(self._answers(every)))
        return answers[-1], seconds / rows(every)

    def _measure_many(self, than: int) -> float:
        """Seconds of each in a batch of more ``than`` so many, with making the rows; a slow model stays as measured."""
        number = chunk(4 * self._each, self._at_once)
        if number <= than:
            return self._each
        backgrounds, columns = self.games.differs.shape

        def coalitions(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            numbers = np.arange(start, stop)
            return numbers % backgrounds, np.arange(columns) <= (numbers % columns)[:, None]

        return self._budget.measure(lambda: self._worth(number, coalitions)) / number

    def _worth(self, number: int, coalitions: Coalitions) -> np.ndarray:
        """See :data:`.game.Worth`; raises InputError ``too_slow`` after the deadline."""
        values = np.empty(number)
        at_once = chunk(self._each, self._at_once)
        for start in range(0, number, at_once):
            self._budget.check()
            chosen, members = coalitions(start, min(start + at_once, number))
            values[start : start + at_once] = self._answers(self._mixed(chosen, members))
        return values

    def _mixed(self, chosen: np.ndarray, members: np.ndarray) -> Arrays:
        """The chosen rows of the background, int64 (N,), with the members, bool (N, columns), as in the row."""
        return {
            name: np.where(members[:, self._places[name]], self._row[name], values[chosen])
            for name, values in self._background.items()
        }

    def _differs(self) -> np.ndarray:
        """Bool (background, columns): where a row of the background is not as the row; two missing values are equal."""
        differs = np.zeros((rows(self._background), len(self._table.features)), bool)
        for name, values in self._background.items():
            both_missing = (values != values) & (self._row[name] != self._row[name])
            differs[:, self._places[name]] = (values != self._row[name]) & ~both_missing
        return differs

    def _answers(self, arrays: Arrays) -> np.ndarray:
        """Float64 (N,): what is explained, for each row; raises InputError ``inference_failed``."""
        self.count += rows(arrays)
        try:
            outputs = self._predictor.outputs(arrays)
        except BundleError as error:  # an answer that is not finite, say, which none of the real rows had
            logger.warning("rows of an explanation cannot be answered: %s", error)
            message = f"the model fails for mixtures of this row and others: {error}"
            raise InputError("inference_failed", message) from error
        if self._index is None:
            return np.asarray(outputs[VALUE])
        return log_odds(outputs[LOGITS] / self._predictor.output.calibration.temperature, self._index)


def log_odds(logits: np.ndarray, index: int) -> np.ndarray:
    """ln(p / (1 - p)) of a label's softmax probability p, without rounding p to 0 or 1.

    Args:
        logits: float64 (N, labels), at least two labels, divided by the temperature.
        index: of the label.

    Returns:
        Float64 (N,).
    """
    others = np.delete(logits, index, axis=1)
    largest = others.max(axis=1)
    result: np.ndarray = logits[:, index] - largest - np.log(np.exp(others - largest[:, None]).sum(axis=1))
    return result
