"""The best items of a user state by the whole inner product, in NumPy alone.

Where a model is served without torch, this and `recsys.ranking` are all that searches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

Found = tuple[np.ndarray, np.ndarray]
# Neighbouring scores of which only the largest is looked at first.
BLOCK = 64
# Items whose vectors are made at once.
PART = 65536


class Index(Protocol):
    """Finds the best items of a user state."""

    def search(self, states: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        """Scores float[B, k] and items int64[B, k] of states float[B, d], the best first.

        Only items where bool[items] `allowed` holds are found, as many as there are up to k. Fewer
        than k columns come back only where there are fewer items; a place that could not be filled
        has the score -inf.
        """

    def scores(self, states: np.ndarray) -> np.ndarray:
        """float[B, items]; -inf for an item that the index does not reach."""

    def rows(self, items: np.ndarray) -> np.ndarray:
        """float[..., d] of int64[...] items."""


class ExactIndex:
    """The whole product: no item is missed.

    Parameters
    ----------
    table
        float32[items, d]; a score is the inner product with a row.
    """

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def search(self, states: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        return best_of(barred(self.scores(states), allowed), k)

    def scores(self, states: np.ndarray) -> np.ndarray:
        return states @ self.table.T

    def rows(self, items: np.ndarray) -> np.ndarray:
        return self.table[items]


def item_parts(items: int) -> Iterator[np.ndarray]:
    """int64[up to PART]: all items, in order, as many at a time as vectors are made of at once."""
    for start in range(0, items, PART):
        yield np.arange(start, min(start + PART, items))


def best_of(scores: np.ndarray, k: int) -> Found:
    """The k largest of each row of float[B, n], and their places; all of them if n is less.

    A NaN counts as the largest, so that it does not go unnoticed.
    """
    k = min(k, scores.shape[1])
    if len(scores) and 0 < 2 * k <= scores.shape[1] // BLOCK:
        places = np.stack([_largest_by_blocks(row, k) for row in scores])
    else:
        places = _largest(scores, k)
    rows = np.arange(len(scores))[:, None]
    values = scores[rows, places]
    order = np.argsort(values, axis=1, kind="stable")[:, ::-1]
    return values[rows, order], places[rows, order]


def barred(scores: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    """float[B, items], -inf where an item is not allowed; changed in place."""
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return scores


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """int64[..., k] places of the k largest in the last axis, in any order."""
    if not k:
        return np.empty((*scores.shape[:-1], 0), dtype=np.int64)
    return np.argpartition(scores, -k, axis=-1)[..., -k:]


def _largest_by_blocks(row: np.ndarray, k: int) -> np.ndarray:
    """The same of float[n], in half the time or less where k is small beside n / `BLOCK`.

    At least k scores reach the k-th largest of the blocks' maxima, so that no smaller one need be
    ranked. Partitioning all of them takes longer than their product with a state does.
    """
    blocks = len(row) // BLOCK
    maxima = row[: blocks * BLOCK].reshape(blocks, BLOCK).max(axis=1)
    bound = np.partition(maxima, -k)[-k]
    # Whatever is not less: a NaN is kept, and where it is the bound all are.
    places = np.flatnonzero(~(row < bound))
    return places[_largest(row[places], k)]
