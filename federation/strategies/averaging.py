"""Federated averaging: the mean of the sites' changes, each counted by its interactions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from federation.updates import Delta, Rows, Update, Weights, add


class FedAvg:
    """Federated averaging (McMahan et al., 2017, algorithm 1).

    FedProx (Li et al., 2020, algorithm 2) is the same at the server: its sites add
    ``mu/2 · ||w - w_global||²`` to their loss.
    """

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
        return add(weights, mean_delta(updates)), state


def mean_delta(updates: Sequence[Update]) -> Delta:
    """Mean of the updates' changes in double precision, each counted by its examples.

    Rows stay rows (their union) where every site that sent the array sent rows, so a large table
    never takes more memory than the rows that were touched.
    """
    # Summed in double precision and in the order of names: with many sites, single precision
    # loses the small ones, and another order gives other bytes.
    ordered = sorted(updates, key=lambda update: update.site)
    total = sum(update.examples for update in ordered)
    names = sorted({name for update in ordered for name in update.delta})
    return {
        name: _weighted_sum(
            [(u.delta[name], u.examples / total) for u in ordered if name in u.delta]
        )
        for name in names
    }


def _weighted_sum(parts: list[tuple[np.ndarray | Rows, float]]) -> np.ndarray | Rows:
    """Sum of changes of one array, times their shares."""
    dense = next((change for change, _ in parts if not isinstance(change, Rows)), None)
    if dense is None:
        index = np.unique(np.concatenate([change.index for change, _ in parts]))
        values = np.zeros((len(index), *parts[0][0].values.shape[1:]), np.float64)
        for change, share in parts:
            values[np.searchsorted(index, change.index)] += change.values * np.float64(share)
        return Rows(index, values)
    values = np.zeros(dense.shape, np.float64)
    for change, share in parts:
        if isinstance(change, Rows):
            values[change.index] += change.values * np.float64(share)
        else:
            values += change * np.float64(share)
    return values
