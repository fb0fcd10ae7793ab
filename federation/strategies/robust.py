"""Aggregation that bears some sites whose updates are wrong or poisoned.

All count sites alike, whatever examples they claim. What they lose: of a row that at most as many
sites touched as are thought to be wrong, an honest change cannot be told from a poisoned one, so
the trimmed mean leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from federation.errors import FederationError
from federation.strategies.averaging import in_order, weighted_sum
from federation.updates import Delta, Rows, Update, Weights, add

# Rows of a table that are sorted at a time, which bounds the memory whatever the table's size.
ROWS_AT_ONCE = 8192


class Krum:
    """Krum and multi-Krum (Blanchard et al., 2017, §4 and §6).

    Parameters
    ----------
    wrong : int
        So many sites may send anything: f in the paper, which asks for at least 2 f + 3 sites.
    several : bool
        Average the n - f updates with the lowest scores (multi-Krum) instead of taking the best.
    """

    def __init__(self, wrong: int, *, several: bool = False) -> None:
        self._wrong, self._several = wrong, several

    def aggregate(
        self, weights: Weights, updates: Sequence[Update], state: Weights
    ) -> tuple[Weights, Weights]:
        """Add the mean of the updates that lie closest to others.

        Raises
        ------
        FederationError
            If there are fewer updates than 2 f + 3.
        """
        return add(weights, self.change(updates)), state

    def change(self, updates: Sequence[Update]) -> Delta:
        """What :meth:`aggregate` adds to the weights."""
        ordered = in_order(updates)
        if len(ordered) < 2 * self._wrong + 3:
            raise FederationError(
                f"{len(ordered)} usable updates: Krum against {self._wrong} wrong sites needs "
                f"{2 * self._wrong + 3}."
            )
        distances = _squared_distances([update.delta for update in ordered])
        nearest = len(ordered) - self._wrong - 2
        # The nearest of all is the update itself, at distance 0.
        scores = np.sort(distances, axis=1)[:, 1 : nearest + 1].sum(axis=1)
        kept = len(ordered) - self._wrong if self._several else 1
        chosen = sorted(np.argsort(scores, kind="stable")[:kept])
        deltas = [ordered[place].delta for place in chosen]
        return weighted_sum(deltas, [1 / len(deltas)] * len(deltas))


class TrimmedMean:
    """Coordinate-wise trimmed mean (Yin et al., 2018, definition 2).

    Parameters
    ----------
    wrong : int
        Of the values of each number so many of the smallest and of the largest do not count: beta n
        in the paper. What a site did not touch counts as its change 0.
    """

    def __init__(self, wrong: int) -> None:
        self._wrong = wrong

    def aggregate(
        self, weights: Weights, updates: Sequence[Update], state: Weights
    ) -> tuple[Weights, Weights]:
        """Add to every number the mean of its changes without the extreme ones.

        Raises
        ------
        FederationError
            If no update would be left.
        """
        return add(weights, self.change(updates)), state

    def change(self, updates: Sequence[Update]) -> Delta:
        """What :meth:`aggregate` adds to the weights."""
        if len(updates) <= 2 * self._wrong:
            raise FederationError(
                f"{len(updates)} usable updates: a trimmed mean against {self._wrong} wrong sites "
                f"needs {2 * self._wrong + 1}."
            )
        deltas = [update.delta for update in updates]
        names = sorted({name for delta in deltas for name in delta})
        return {name: self._trimmed(deltas, name) for name in names}

    def _trimmed(self, deltas: list[Delta], name: str) -> np.ndarray | Rows:
        changes = [delta[name] for delta in deltas if name in delta]
        cut = self._wrong
        untouched = len(deltas) - len(changes)
        dense = next((change for change in changes if not isinstance(change, Rows)), None)
        if dense is not None:
            whole = [c.dense(len(dense)) if isinstance(c, Rows) else c for c in changes]
            return _middle(whole, untouched, cut)
        index = np.unique(np.concatenate([change.index for change in changes]))
        values = np.zeros((len(index), *changes[0].values.shape[1:]))
        for start in range(0, len(index), ROWS_AT_ONCE):
            rows = index[start : start + ROWS_AT_ONCE]
            parts = [_rows_of(change, rows) for change in changes]
            values[start : start + len(rows)] = _middle(parts, untouched, cut)
        return Rows(index, values)


def _middle(changes: list[np.ndarray], zeros: int, cut: int) -> np.ndarray:
    """Mean over the first axis without the `cut` extreme values at each end."""
    stack = np.stack([*changes, *[np.zeros_like(changes[0])] * zeros]).astype(np.float64)
    stack.sort(axis=0)
    return stack[cut : len(stack) - cut].mean(axis=0)


def _rows_of(change: Rows, rows: np.ndarray) -> np.ndarray:
    """The change of some ascending rows, 0 where it has none."""
    values = np.zeros((len(rows), *change.values.shape[1:]), change.values.dtype)
    _, here, there = np.intersect1d(rows, change.index, assume_unique=True, return_indices=True)
    values[here] = change.values[there]
    return values


def _squared_distances(deltas: list[Delta]) -> np.ndarray:
    """float64[n, n] squared Euclidean distances between changes."""
    count = len(deltas)
    distances = np.zeros((count, count))
    for one in range(count):
        for other in range(one):
            difference = weighted_sum([deltas[one], deltas[other]], [1.0, -1.0])
            parts = (c.values if isinstance(c, Rows) else c for c in difference.values())
            distances[one, other] = sum(float(np.square(part).sum()) for part in parts)
            distances[other, one] = distances[one, other]
    return distances
