"""How good a ranking is by graded judgments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

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
