"""Permutation importance (Breiman, 2001): how much worse the served model answers when a column's values are shuffled.

The number of rows that go through the model is bounded, and the shuffles follow from the run's seed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from marquee.handlers.core.arrays import Arrays, rows, take
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.inputs.table.spec import CODES, NUMBERS, TableSpec, table_of
from marquee.handlers.outputs.classification import LOGITS, Classification
from marquee.handlers.outputs.regression import VALUE
from marquee.training.core.seeding import derive_seed

MOST_ROWS = 1000
"""Rows that are measured; of more, a sample is drawn."""
MOST_COLUMNS = 1000
"""Columns that are measured; of more, the first ones."""
EVALUATIONS = (20_000, 200_000)
"""Bounds of the rows that go through the model, over all columns and shuffles. Between them, as many as training took:
a report must not take longer than its run."""
_FEWEST_SHUFFLES, _MOST_SHUFFLES, _FEWEST_ROWS = 3, 10, 50
"""Of many columns, these numbers may demand more rows than the bounds."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What gets worse."""

    name: str
    losses: Callable[[Arrays, np.ndarray], np.ndarray]
    """Outputs of the predictor and targets (N,) -> float64 (N,)."""
    total: Callable[[float], float]
    """Mean loss -> the measure."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """One column."""

    column: str
    rise: float
    """How much the measure rises when the column is shuffled: the mean over the shuffles. Below zero by chance."""
    spread: float
    """Standard deviation over the shuffles."""
    constant: bool = False
    """The column has one value in all measured rows, so that shuffling changes nothing and the rise says nothing."""


@dataclass(frozen=True, kw_only=True)
class Importances:
    """All columns of a model."""

    measure: str
    base: float
    """The measure on the same rows without shuffling."""
    rows: int
    of: int
    """Rows of the split that they were drawn from."""
    shuffles: int
    columns: tuple[Importance, ...]
    """The most important first."""

    @property
    def largest(self) -> float:
        """The largest rise, at least 0."""
        return max([0.0, *(column.rise for column in self.columns)])


def root_mean_squared_error() -> Measure:
    """Of the values of a regression."""

    def losses(outputs: Arrays, targets: np.ndarray) -> np.ndarray:
        return np.asarray((outputs[VALUE] - targets) ** 2)

    return Measure(name="RMSE", losses=losses, total=lambda mean: float(np.sqrt(mean)))


def log_loss(output: Classification) -> Measure:
    """Negative log-likelihood in nats of the served probabilities; targets are indices of labels."""

    def losses(outputs: Arrays, targets: np.ndarray) -> np.ndarray:
        probabilities = output.probabilities(outputs[LOGITS])
        return np.asarray(-np.log(np.maximum(probabilities[np.arange(len(targets)), targets], 1e-12)))

    return Measure(name="log loss", losses=losses, total=float)


def permutation_importance(
    predictor: Predictor, inputs: Arrays, targets: np.ndarray, measure: Measure, seed: int, trained: int
) -> Importances | None:
    """Shuffles each column in turn, several times, and measures the answers.

    Args:
        predictor: the bundle.
        inputs: the arrays of rows that took no part in training, in the order of ``targets``.
        targets: (N,), as ``measure`` takes them.
        measure: what gets worse.
        seed: the run's.
        trained: rows that training took through the model, over all of its epochs.

    Returns:
        None where there are fewer than two rows, which cannot be shuffled.

    Raises:
        BundleError: the engine fails.
    """
    if len(targets) < 2:
        return None
    columns = list(_places(table_of(predictor.spec)))[:MOST_COLUMNS]
    count, shuffles = _plan(len(targets), len(columns), trained)
    chosen = np.sort(_generator(seed, "rows").permutation(len(targets))[:count])
    # All shuffles of a column go through the engine together, and so do as many copies without shuffling: the size of a
    # batch may change the last bits of an answer, which would give a column that is not used an importance.
    stacked = take(inputs, np.tile(chosen, shuffles))
    repeated = np.tile(targets[chosen], shuffles)

    def measured() -> np.ndarray:
        losses = measure.losses(predictor.outputs(stacked), repeated).reshape(shuffles, count)
        return np.array([measure.total(float(mean)) for mean in losses.mean(axis=1)])

    base = measured()
    found = []
    for name, array, place in columns:
        values = stacked[array][:, place].copy()
        own = values[:count]
        if _is_constant(own):
            found.append(Importance(column=name, rise=0.0, spread=0.0, constant=True))
            continue
        orders = [_generator(seed, name, shuffle).permutation(count) for shuffle in range(shuffles)]
        stacked[array][:, place] = np.concatenate([own[order] for order in orders])
        rises = measured() - base
        stacked[array][:, place] = values
        found.append(Importance(column=name, rise=float(rises.mean()), spread=float(rises.std(ddof=1))))
    return Importances(
        measure=measure.name,
        base=float(base[0]),
        rows=count,
        of=rows(inputs),
        shuffles=shuffles,
        columns=tuple(sorted(found, key=lambda column: -column.rise)),
    )


def _places(spec: TableSpec) -> Iterator[tuple[str, str, int]]:
    """Each feature in the order of the table: its name, its array, and its column there."""
    places = {column.name: (NUMBERS, number) for number, column in enumerate(spec.numeric)}
    places |= {column.name: (CODES, number) for number, column in enumerate(spec.categorical)}
    return ((column.name, *places[column.name]) for column in spec.features)


def _plan(available: int, columns: int, trained: int) -> tuple[int, int]:
    """Numbers of rows and of shuffles: fewer shuffles first, then fewer rows."""
    evaluations = min(max(trained, EVALUATIONS[0]), EVALUATIONS[1])
    count = min(available, MOST_ROWS)
    shuffles = min(_MOST_SHUFFLES, max(_FEWEST_SHUFFLES, evaluations // (count * columns)))
    return min(count, max(_FEWEST_ROWS, evaluations // (columns * shuffles))), shuffles


def _is_constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all() or np.isnan(values).all())


def _generator(*parts: object) -> np.random.Generator:
    return np.random.default_rng(derive_seed("importance", *parts))
