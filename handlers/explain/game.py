"""Shapley values of games between one row and each row of a background: how much each player adds to the worth.

In the game against row b of the background, the players are the columns in which the explained row x differs from b,
and a coalition is worth what the model answers for b with the coalition's columns taken from x. The worth therefore
goes from f(b), nobody plays, to f(x), everybody does; a player's Shapley value is its share of the difference. The
values that are reported are the means over the background: the interventional Shapley values of Janzing et al. (2020,
"Feature relevance quantification in explainable AI"), with the background for the data. By the additivity of Shapley
values they are also the values of the game of the mean answers, and they sum to f(x) - mean f(b).

Captum has Shapley values too. Those here are not made with it, because its ``ShapleyValueSampling`` and
``ShapleyValues`` add up in float32 whatever the model gives, so that contributions sum to the answer within 1e-7 at
best; because ``ShapleyValues`` walks through all n! permutations where 2**n coalitions suffice; and because no call of
the model holds more than one permutation. Its ``KernelShap`` fits a regression, in which the sum holds approximately.
The tests compare with Captum's values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import numpy as np

Coalitions = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""From, to -> those coalitions out of a numbered list: int64 (N,), the row of the background that each is played
against, and bool (N, columns), its members. Columns without a difference to that row may be members or not."""
Worth = Callable[[int, Coalitions], np.ndarray]
"""Number of coalitions, the coalitions -> float64 (number,): what each is worth."""


@dataclass(frozen=True)
class Games:
    """The games of one row, and the answers at their ends."""

    differs: np.ndarray
    """Bool (background, columns): the players of the game against each row of the background."""
    without: np.ndarray
    """Float64 (background,): the answer for each row of the background."""
    answer: float
    """For the explained row."""

    @property
    def players(self) -> np.ndarray:
        """Int64 (background,): the number of players of each game."""
        result: np.ndarray = self.differs.sum(axis=1)
        return result

    @property
    def base(self) -> float:
        """The mean answer over the background."""
        return float(self.without.mean())


def coalitions_of(games: Games) -> int:
    """How many coalitions all games have together."""
    return sum(1 << players for players in games.players.tolist())


def walk_length(games: Games) -> int:
    """How many coalitions one pair of permutations visits in every game, without those at the ends."""
    return int(2 * np.maximum(games.players - 1, 0).sum())


def exact(games: Games, worth: Worth) -> np.ndarray:
    """Shapley values from the worth of every coalition.

    Args:
        games: with few players, see :func:`coalitions_of`.
        worth: of coalitions.

    Returns:
        Float64 (columns,).
    """
    ends = np.cumsum([1 << players for players in games.players.tolist()])
    begins = np.concatenate([[0], ends[:-1]])
    # Number of a player within its game: the bit that says whether it is in a coalition. 63 is never set.
    bits = np.where(games.differs, np.cumsum(games.differs, axis=1) - 1, 63)

    def coalitions(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.arange(start, stop)
        row = np.searchsorted(ends, numbers, side="right")
        members = (numbers - begins[row])[:, None] >> bits[row] & 1
        return row, members.astype(bool)

    values = worth(int(ends[-1]), coalitions)
    result = np.zeros(games.differs.shape)
    for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        game = values[begin:end]
        # Answers in float32 depend on their place in a batch; the ends are those that are reported.
        game[0], game[-1] = games.without[row], games.answer
        result[row, games.differs[row]] = shapley(game)
    return np.asarray(result.mean(axis=0))


def shapley(worth: np.ndarray) -> np.ndarray:
    """The Shapley values of one game.

    Args:
        worth: float64 (2**n,): of the coalition that has player i as a member if bit i of its number is set.

    Returns:
        Float64 (n,).
    """
    players = int(worth.size).bit_length() - 1
    sizes = np.zeros(1, np.int64)  # of the coalitions of all players but one
    for _ in range(players - 1):
        sizes = np.concatenate([sizes, sizes + 1])
    # How likely it is that exactly these come before a player in a random order.
    likely = [factorial(size) * factorial(players - 1 - size) / factorial(players) for size in range(players)]
    weights = np.array(likely)[sizes] if players else np.zeros(0)
    values = np.zeros(players)
    for player in range(players):
        pairs = worth.reshape(-1, 2, 1 << player)
        values[player] = weights @ (pairs[:, 1] - pairs[:, 0]).ravel()
    return values


def sampled(games: Games, worth: Worth, rounds: int, at_once: int) -> tuple[np.ndarray, np.ndarray]:
    """Shapley values estimated from random permutations, each together with its reverse.

    A player's value is the mean, over all orders in which the players may join, of what it adds when it joins (Castro
    et al., 2009, "Polynomial calculation of the Shapley value based on sampling"). What the players of one order add
    sums to the difference between the ends of the game, so that every estimate does. A pair of an order and its
    reverse is an antithetic sample (Staudacher and Pollmann, 2023, "Assessing Antithetic Sampling for Approximating
    Shapley, Banzhaf, and Owen Values"): a player that comes early in one of them comes late in the other. What two
    columns do only together is thus shared out equally, and a model without effects of three or more columns gets its
    exact values from a single pair.

    Args:
        games: of one row.
        worth: of coalitions.
        rounds: pairs in every game, at least 2.
        at_once: coalitions that are asked for together, but for the last part, where there are as many.

    Returns:
        The values and their standard errors, both float64 (columns,).
    """
    generator = np.random.default_rng(0)  # the same request gets the same answer
    together = max(1, at_once // max(1, walk_length(games)))
    estimates = [
        _one_block(games, worth, min(together, rounds - start), generator) for start in range(0, rounds, together)
    ]
    each = np.concatenate(estimates)
    return each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(rounds)


def _one_block(games: Games, worth: Worth, rounds: int, generator: np.random.Generator) -> np.ndarray:
    """Float64 (rounds, columns): the estimates of some rounds."""
    backgrounds, columns = games.differs.shape
    row = np.tile(np.repeat(np.arange(backgrounds), 2), rounds)
    places = _orders(games, rounds, generator)
    steps = np.maximum(games.players[row] - 1, 0)  # between the ends
    ends = np.cumsum(steps)
    begins = ends - steps

    def coalitions(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = np.arange(start, stop)
        walk = np.searchsorted(ends, numbers, side="right")
        return row[walk], places[walk] <= (numbers - begins[walk])[:, None]

    # What the coalition of the first k players is worth; beyond the last player nothing changes any more.
    ladder = np.full((len(row), columns + 1), games.answer)
    ladder[:, 0] = np.where(games.players[row] > 0, games.without[row], games.answer)
    between = (np.arange(1, columns + 1) <= steps[:, None]).nonzero()
    ladder[between[0], between[1] + 1] = worth(int(ends[-1]), coalitions)
    added = np.take_along_axis(np.diff(ladder, axis=1), places, axis=1)
    return np.asarray(added.reshape(rounds, 2 * backgrounds, columns).mean(axis=1))


def _orders(games: Games, rounds: int, generator: np.random.Generator) -> np.ndarray:
    """Int64 (rounds * background * 2, columns): each column's place in an order and in its reverse, players first."""
    differs = np.tile(games.differs, (rounds, 1))
    keys = np.where(differs, generator.random(differs.shape), 2.0)
    order = keys.argsort(axis=1, kind="stable")
    forward = np.empty_like(order)
    np.put_along_axis(forward, order, np.arange(order.shape[1])[None], axis=1)
    backward = np.where(differs, differs.sum(axis=1, keepdims=True) - 1 - forward, forward)
    return np.stack([forward, backward], axis=1).reshape(-1, order.shape[1])


def left_out(games: Games, worth: Worth) -> np.ndarray:
    """How much the answer changes when one column is as in the background and all others stay.

    Args:
        games: of one row.
        worth: of coalitions, of which it takes as many as all games have players.

    Returns:
        Float64 (columns,): the answer minus the mean answer without the column.
    """
    rows, out = games.differs.nonzero()

    def coalitions(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return rows[start:stop], np.arange(games.differs.shape[1]) != out[start:stop, None]

    changes = np.zeros(games.differs.shape)
    changes[rows, out] = games.answer - worth(len(rows), coalitions)
    return np.asarray(changes.mean(axis=0))
