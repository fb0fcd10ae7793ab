"""Rankings whose items are unlike each other: maximal marginal relevance."""

from __future__ import annotations

import numpy as np


def diversified(scores: np.ndarray, vectors: np.ndarray, k: int, weight: float) -> np.ndarray:
    """Places int64[k] of the items to show, in order (Carbonell and Goldstein, 1998).

    Each next item is the one with the most of ``(1 - weight) * relevance - weight * likeness``:
    relevance is the score, scaled to 0 to 1 over the candidates, and likeness the largest cosine
    with an item that was chosen before.

    Parameters
    ----------
    scores, vectors
        float[candidates] and float[candidates, d]; the candidates are more than k, or all there is.
    weight
        From 0, the order of the scores, to 1.
    """
    count = min(k, len(scores))
    if not count:
        return np.empty(0, dtype=np.int64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(norms, 1e-12)
    spread = scores.max() - scores.min()
    relevance = (scores - scores.min()) / (spread if spread > 0 else 1.0)
    chosen = np.empty(count, dtype=np.int64)
    chosen[0] = relevance.argmax()
    likeness = np.full(len(scores), -1.0)
    left = np.ones(len(scores), dtype=bool)
    for place in range(1, count):
        latest = chosen[place - 1]
        left[latest] = False
        np.maximum(likeness, unit @ unit[latest], out=likeness)
        gain = (1 - weight) * relevance - weight * likeness
        chosen[place] = np.where(left, gain, -np.inf).argmax()
    return chosen
