"""Each item's neighbours in people's histories: what else they took shortly before or after it.

Where items have no texts, a few events are all that a model has of most of them. The items around
those events tell more: an item's vector then also sums a vector of each neighbour, one step of a
walk on the item graph (as in He et al., LightGCN, 2020, §3.1, with a table of its own for what an
item says as a neighbour).
"""

from __future__ import annotations

import numpy as np

from recsys.bags import Bags
from recsys.data.interactions import Interactions

# Events before and after, and neighbours of an item: the most frequent ones.
REACH = 3
MOST = 32


def neighbours(interactions: Interactions) -> Bags:
    """The items that stand within `REACH` events of each, the `MOST` frequent ones at most.

    Parameters
    ----------
    interactions
        Training events only: a held-out event among them would give its item away.
    """
    count, sequence = len(interactions.items), interactions.sequence.astype(np.int64)
    user = np.repeat(np.arange(len(interactions.users)), np.diff(interactions.offsets))
    pairs = [np.empty(0, dtype=np.int64)]
    for step in range(1, REACH + 1):
        first, second = sequence[:-step], sequence[step:]
        near = (user[:-step] == user[step:]) & (first != second)
        first, second = first[near], second[near]
        pairs += [first * count + second, second * count + first]
    pairs, times = np.unique(np.concatenate(pairs), return_counts=True)
    item, neighbour = np.divmod(pairs, count)
    order = np.lexsort((neighbour, -times, item))
    item, neighbour = item[order], neighbour[order]
    starts = np.searchsorted(item, np.arange(count + 1))
    kept = np.arange(len(item)) - starts[item] < MOST
    item, neighbour = item[kept], neighbour[kept]
    order = np.lexsort((neighbour, item))
    offsets = np.searchsorted(item, np.arange(count + 1)).astype(np.int64)
    return Bags(neighbour[order].astype(np.int32), offsets, count)
