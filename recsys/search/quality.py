"""How good a ranking is by graded judgments, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

CUTOFF = 10


def ndcg(ranked: Sequence[int], grades: Mapping[int, float], *, condensed: bool = False) -> float:
    """NDCG@10 with gains ``2**grade - 1`` (Burges et al., 2005); 0 where nothing is relevant.

    Parameters
    ----------
    ranked
        Items, the best first.
    grades
        The judged ones. An item that is not judged counts as irrelevant.
    condensed
        Leave unjudged items out of the ranking first (Sakai, 2007): what a ranker finds beyond
        the pool that people looked at then does not count against it.
    """
    if condensed:
        ranked = [item for item in ranked if item in grades]
    ideal = _dcg(sorted(grades.values(), reverse=True))
    return _dcg([grades.get(item, 0.0) for item in ranked[:CUTOFF]]) / ideal if ideal else 0.0


def _dcg(grades: Sequence[float]) -> float:
    top = np.asarray(grades[:CUTOFF], dtype=float)
    return float(((2**top - 1) / np.log2(np.arange(len(top)) + 2)).sum())


@dataclass(frozen=True)
class Comparison:
    """Two rankers on the same queries.

    Attributes
    ----------
    mean, low, high
        Mean difference and its 95 % bootstrap interval (BCa) over queries.
    p
        Two-sided sign-flip permutation test of no difference.
    """

    mean: float
    low: float
    high: float
    p: float


def interval(values: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval (BCa) of the mean over queries; a point where all are equal."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    bounds = scipy.stats.bootstrap(
        (values,), np.mean, rng=np.random.default_rng(seed)
    ).confidence_interval
    return float(bounds.low), float(bounds.high)


def compare(ours: np.ndarray, theirs: np.ndarray, *, seed: int = 0) -> Comparison:
    """Paired by query: `ours` minus `theirs`."""
    difference = ours - theirs
    low, high = interval(difference, seed=seed)
    test = scipy.stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", rng=np.random.default_rng(seed)
    )
    return Comparison(float(difference.mean()), low, high, float(test.pvalue))
