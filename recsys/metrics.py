"""What an evaluation measures, from ranks, lists and probabilities: plain functions of arrays.

Ranks count from 0 and are infinite where an item cannot be shown. A list of recommendations is a
row of item indices, the best first, padded with -1 where the user has fewer items left.
"""

from __future__ import annotations

import math

import numpy as np

HEAD_SHARE = 0.2
BINS = 15


def hits(ranks: np.ndarray, k: int) -> np.ndarray:
    """1.0 for each user whose target stands among the first `k`; the mean is HR@k."""
    return (ranks < k).astype(np.float64)


def discounted_gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """Gain at `k` of each user's only relevant item; the mean is NDCG@k.

    Source: Järvelin and Kekäläinen (2002). With one relevant item the ideal gain is 1.
    """
    return np.where(ranks < k, 1 / np.log2(ranks + 2), 0.0)


def reciprocal_ranks(ranks: np.ndarray) -> np.ndarray:
    """``1 / (rank + 1)`` over the whole catalogue, no cut-off; the mean is MRR (Voorhees, 1999)."""
    return 1 / (ranks + 1)


def list_popularity(recommended: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Mean number of training events of the items in each list; 0.0 for an empty one.

    The mean over users is the average recommendation popularity, ARP (Yin et al., Challenging the
    long tail recommendation, 2012).

    Parameters
    ----------
    recommended
        int[users, k].
    events
        int[items] training events of each item.
    """
    return _mean_of_shown(recommended, events.astype(np.float64))


def long_tail_shares(recommended: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Share of each list that is not among the most popular fifth of the catalogue.

    The mean over users is the average percentage of long-tail items, APLT (Abdollahpouri et al.,
    Managing popularity bias with personalized re-ranking, 2019). Parameters as `list_popularity`.
    """
    head = np.argsort(-events, kind="stable")[: math.ceil(HEAD_SHARE * len(events))]
    tail = np.ones(len(events))
    tail[head] = 0.0
    return _mean_of_shown(recommended, tail)


def _mean_of_shown(recommended: np.ndarray, values: np.ndarray) -> np.ndarray:
    shown = recommended >= 0
    return np.where(shown, values[recommended], 0.0).sum(1) / np.maximum(shown.sum(1), 1)


def catalogue_coverage(recommended: np.ndarray, items: int) -> float:
    """Share of the catalogue that is in anybody's list (Ge et al., Beyond accuracy, 2010)."""
    return np.count_nonzero(_exposure(recommended, items)) / items


def gini_index(recommended: np.ndarray, items: int) -> float:
    """Inequality of how often the items are shown: 0 all alike, near 1 few get everything.

    Source: Fleder and Hosanagar, Blockbuster culture's next rise or fall (2009). Items that nobody
    is shown count.
    """
    exposure = np.sort(_exposure(recommended, items))
    total = exposure.sum()
    if not total:
        return 0.0
    return float((2 * np.arange(1, items + 1) - items - 1) @ exposure / (items * total))


def _exposure(recommended: np.ndarray, items: int) -> np.ndarray:
    return np.bincount(recommended[recommended >= 0], minlength=items)


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> float:
    """Mean distance between what a model claims and what comes true (Guo et al., 2017, eq. 3).

    Bins hold equally many users (Nguyen and O'Connor, 2015): over a catalogue of thousands nearly
    all probabilities are small, and would share one of the bins of equal width. Equal confidences
    share a bin. Even a perfect model gets a little above 0, the more the fewer the users.

    Parameters
    ----------
    confidence, correct
        float[users] probability of the item on top, and bool[users] whether it was the target.
    """
    edges = np.quantile(confidence, np.arange(1, bins) / bins)
    bin_of = np.searchsorted(edges, confidence, side="right")
    gaps = np.bincount(bin_of, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def target_calibration_error(above: np.ndarray, including: np.ndarray, bins: int = BINS) -> float:
    """Mean distance between p and the share of targets in the likeliest items of joint mass p.

    The mass down to the target is uniform if the probabilities are true (Romano et al.,
    Classification with valid and adaptive coverage, 2020, §2): half of the targets then lie within
    the likeliest items of mass one half. As one item takes up a range of mass, the target counts
    evenly over its range, which needs no random numbers (Czado et al., 2009, §2.1).

    Parameters
    ----------
    above, including
        float[users] joint probability of the items above the target, and with the target and its
        equals; both 1 where the target cannot be shown.
    bins
        p runs over ``1/bins, 2/bins, …`` below 1.
    """
    mass = np.arange(1, bins) / bins
    width = np.maximum(including - above, np.finfo(np.float64).tiny)
    within = np.clip((mass - above[:, None]) / width[:, None], 0, 1)
    return float(np.abs(within.mean(0) - mass).mean())
