"""Federated averaging: the mean of the sites' changes, each counted by its interactions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from federation.updates import Delta, Rows, Update, Weights, add

# Rows that are summed at a time: there is no room for a second copy of many in double precision.
CHUNK_ROWS = 1 << 10


class FedAvg:
    """Federated averaging (McMahan et al., 2017, algorithm 1).

    FedProx (Li et al., 2020, algorithm 2) is the same at the server: its sites add
    ``mu/2 · ||w - w_global||²`` to their loss.

    Parameters
    ----------
    by_row : bool
        See :func:`mean_delta`.
    """

    def __init__(self, *, by_row: bool = False) -> None:
        self._by_row = by_row

    def aggregate(
        self, weights: Weights, updates: Sequence[Update], state: Weights
    ) -> tuple[Weights, Weights]:
        """Add the mean of the sites' changes to the weights that they started from.

        Parameters
        ----------
        weights : dict of str to ndarray
            Global weights that the sites received.
        updates : sequence of Update
            At least one, each accepted by :func:`federation.updates.check_update`.
        state : dict of str to ndarray
            Comes back as it is: averaging remembers nothing.

        Returns
        -------
        weights, state
            New global weights, of the same names, shapes and types; the same bytes in whatever
            order the updates came.
        """
        return add(weights, self.change(updates)), state

    def change(self, updates: Sequence[Update]) -> Delta:
        """What :meth:`aggregate` adds to the weights: as small as what the sites sent."""
        return mean_delta(updates, by_row=self._by_row)


def mean_delta(updates: Sequence[Update], *, by_row: bool = False) -> Delta:
    """Mean of the updates' changes in double precision, each counted by its examples.

    Rows stay rows (their union) where every site that sent the array sent rows, so a large table
    never takes more memory than the rows that were touched.

    Parameters
    ----------
    by_row : bool
        A row that came as one of :class:`Rows` is averaged over the sites that touched it, instead
        of over all: else an item that one of five sites sells moves by a fifth (FedSubAvg, Ding et
        al., 2022, with examples as weights).
    """
    ordered = in_order(updates)
    total = sum(update.examples for update in ordered)
    shares = [update.examples / total for update in ordered]
    return weighted_sum([update.delta for update in ordered], shares, by_row=by_row)


def in_order(updates: Sequence[Update]) -> list[Update]:
    """The updates by the names of their sites: sums in another order give other bytes."""
    return sorted(updates, key=lambda update: (update.site, update.staleness))


def weighted_sum(
    deltas: Sequence[Delta], shares: Sequence[float], *, by_row: bool = False
) -> Delta:
    """Sum of changes times their shares, worked out in double precision.

    With many sites, single precision loses the small ones. Rows are given as float32, since there
    may be many. With `by_row`, each row is divided by the sum of the shares that went into it.
    """
    return {
        name: _sum_of_one(
            [(d[name], share) for d, share in zip(deltas, shares, strict=True) if name in d],
            by_row,
        )
        for name in sorted({name for delta in deltas for name in delta})
    }


def _sum_of_one(
    parts: list[tuple[np.ndarray | Rows, float]], by_row: bool
) -> np.ndarray | Rows:
    dense = next((change for change, _ in parts if not isinstance(change, Rows)), None)
    if dense is not None:
        values = np.zeros(dense.shape, np.float64)
        for change, share in parts:
            if isinstance(change, Rows):
                values[change.index] += change.values * np.float64(share)
            else:
                values += change * np.float64(share)
        return values
    index = np.unique(np.concatenate([change.index for change, _ in parts]))
    values = np.empty((len(index), *parts[0][0].values.shape[1:]), np.float32)
    for start in range(0, len(index), CHUNK_ROWS):
        rows = index[start : start + CHUNK_ROWS]
        total = np.zeros((len(rows), *values.shape[1:]), np.float64)
        weight = np.zeros(len(rows))
        for change, share in parts:
            first, end = np.searchsorted(change.index, [rows[0], rows[-1] + 1])
            places = np.searchsorted(rows, change.index[first:end])
            total[places] += change.values[first:end] * np.float64(share)
            weight[places] += share
        if by_row:
            total /= weight.reshape(-1, *[1] * (total.ndim - 1))
        values[start : start + CHUNK_ROWS] = total
    return Rows(index, values)
