"""The explanation of the answer to one row of a table: what each of its columns contributes.

The background, which a row is compared with, are the rows of the bundle's golden samples: real rows that travel with
every model. A number is explained in its own unit. A label is explained in log-odds, ln(p / (1 - p)) of its calibrated
probability p: they are what a logistic regression is linear in, do not saturate as probabilities do, and unlike a logit
they do not change when the same number is added to the logits of all labels.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core.arrays import Arrays, rows, take
from ..core.errors import BundleError, InputError
from ..core.golden import read_golden
from ..core.payload import parse
from ..core.predictor import Predictor
from ..inputs.table.body import WRAPPERS, count_rows
from ..inputs.table.spec import table_of
from ..outputs.classification import ClassificationSpec
from ..outputs.regression import VALUE
from .budget import Budget
from .cells import cells_of
from .evaluations import Evaluations, Found
from .request import AUTO, RowRequest

MOST_BACKGROUND = 128
"""Rows of the background; as many golden samples as training writes at most."""


@dataclass(frozen=True, kw_only=True)
class RowExplanation:
    """What the columns of one row contribute to the answer for it."""

    method: str
    label: str | None
    """Whose log-odds are explained; None: the number that was answered."""
    index: int | None
    """Of the label."""
    variant: str
    """The variant that answers, whose engine was asked."""
    settings: dict[str, Any]
    """What the method was run with."""
    note: str | None
    """Why it is another method than the one that is usual."""
    base: float
    """The mean answer over the background."""
    answer: float
    """For the row."""
    cells: list[dict[str, Any]]
    """Of the row: see :func:`.cells.cells_of`."""
    contributions: np.ndarray
    """Float64 (columns,). Those of ``shapley`` sum to ``answer - base``."""
    errors: np.ndarray | None
    """Float64 (columns,): standard errors of contributions that are estimates."""

    def as_json(self) -> dict[str, Any]:
        """The explanation as it goes over the wire; columns by the size of their contributions."""
        order = np.argsort(-np.abs(self.contributions), kind="stable").tolist()
        return {
            "method": self.method,
            **({} if self.label is None else {"label": self.label, "index": self.index}),
            "variant": self.variant,
            "settings": self.settings,
            **({} if self.note is None else {"note": self.note}),
            "scale": VALUE if self.label is None else "log_odds",
            "base_value": self.base,
            "answer": self.answer,
            "contributions": [self._of_column(column) for column in order],
        }

    def _of_column(self, column: int) -> dict[str, Any]:
        errors = {} if self.errors is None else {"standard_error": float(self.errors[column])}
        return {**self.cells[column], "contribution": float(self.contributions[column]), **errors}


class RowExplainer:
    """Explains the answers that a predictor gives for rows; see :class:`marquee.handlers.explain.Explainer`.

    Args:
        predictor: gives the answers, a number or one of several labels.
        device: not needed, since no gradient is.
        clock: seconds, rising; another one in tests.
    """

    settings: ClassVar[type[RowRequest]] = RowRequest

    def __init__(self, predictor: Predictor, device: str = "cpu", clock: Callable[[], float] = time.monotonic) -> None:
        self._predictor, self._table, self._clock = predictor, table_of(predictor.spec), clock
        output = predictor.spec.output
        self._labels = output.labels if isinstance(output, ClassificationSpec) else None
        self._names = frozenset(column.name for column in self._table.columns)
        self.max_bytes: int | None = self._table.max_bytes
        self._background: Arrays | None = None

    def own_names(self, document: Mapping[str, Any]) -> Collection[str]:
        """A row that is an object of column names has cells, not settings, under the names of columns."""
        return () if {*WRAPPERS} & document.keys() - self._names else self._names

    def count(self, body: Any) -> int:
        """How many rows a body holds, good and bad; see :func:`~marquee.handlers.inputs.table.body.count_rows`."""
        return count_rows(body, self._table)

    def check(self, request: RowRequest) -> None:
        """Raises InputError for what is not possible, before any prediction is made."""
        if request.label is not None:
            self._index_of(request.label)

    def explain(self, inputs: Arrays, prediction: Any, request: RowRequest, seconds: float) -> RowExplanation:
        """The contributions of one row's columns.

        Args:
            inputs: of the one row: ``numbers``, float64 (1, numeric features), and ``codes``, int64 (1, categorical
                features).
            prediction: the answer for it.
            request: what is asked.
            seconds: what it may take; reading the background, once, comes on top.

        Raises:
            InputError: ``bad_request`` (no such label), ``not_supported`` (no background), ``too_slow``,
                ``inference_failed`` (numbers that are too large).
        """
        background = self._read_background()
        label = (request.label or prediction.label) if self._labels else None
        index = None if label is None else self._index_of(label)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
            asked = Evaluations(self._predictor, inputs, background, index, Budget(seconds, self._clock))
            method, note, found = _ask(asked, request)
        if not np.isfinite([asked.games.base, *found.contributions]).all():
            raise InputError("inference_failed", "the contributions are not finite; the answers are too large for them")
        return RowExplanation(
            method=method,
            label=label,
            index=index,
            variant=self._predictor.variant.name,
            settings={"background": rows(background), "evaluations": asked.count, **found.settings},
            note=note,
            base=asked.games.base,
            answer=asked.games.answer,
            cells=cells_of(self._table, inputs),
            contributions=found.contributions,
            errors=found.errors,
        )

    def _index_of(self, label: str) -> int:
        """The label's place among the logits.

        Raises:
            InputError: ``bad_request``, the model has no such label.
        """
        if self._labels is None:
            raise InputError("bad_request", "label: the model answers a number; leave the label out")
        if label not in self._labels:
            raise InputError("bad_request", f"label: the model has no label {label!r:.80}")
        return self._labels.index(label)

    def _read_background(self) -> Arrays:
        """The golden samples' rows, read on first use; of very many, some at equal distances."""
        if self._background is None:
            source = self._predictor.input
            try:
                samples = read_golden(self._predictor.bundle, self._predictor.variant)
            except BundleError as error:
                raise InputError("not_supported", "the bundle has no golden rows to compare with") from error
            items = [item for sample in samples for item in parse({"body": sample.data}, source).items]
            found = source.collate(items).inputs
            if not (number := rows(found)):
                raise InputError("not_supported", "the bundle has no golden rows to compare with")
            chosen = np.linspace(0, number - 1, min(number, MOST_BACKGROUND)).round().astype(int)
            self._background = take(found, chosen)
        return self._background


def _ask(asked: Evaluations, request: RowRequest) -> tuple[str, str | None, Found]:
    """The method that was used, what is to be said about it, and what it found."""
    if request.method == "occlusion":
        return "occlusion", None, asked.occlusion()
    try:
        return "shapley", None, asked.shapley(request.samples)
    except InputError as error:
        if error.code != "too_slow" or request.method != AUTO or request.samples is not None:
            raise
        return "occlusion", "occlusion, because the time does not suffice for Shapley values", asked.occlusion()
