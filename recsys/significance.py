"""How far a figure could be off because other users might have come: statistics over users."""

from __future__ import annotations

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
# Numbers that are drawn at a time, which bounds the memory whatever the number of users.
DRAWN_AT_ONCE = 2**21


def bootstrap_means(
    values: np.ndarray, *, seed: int, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap intervals of means over users (Efron and Tibshirani, 1993, §13.3).

    All columns see the same resamples of users.

    Parameters
    ----------
    values
        float[users, columns] of two users or more.

    Returns
    -------
    tuple
        Lower and upper ends float[columns] of the intervals at `LEVEL`.
    """
    users = len(values)

    def means(drawn: np.ndarray, axis: int) -> np.ndarray:
        # Counting who was drawn turns the means of all columns into one matrix product.
        counts = [np.bincount(row, minlength=users) for row in np.atleast_2d(drawn)]
        return (np.stack(counts) @ values / users).T

    interval = stats.bootstrap(
        (np.arange(users),),
        means,
        n_resamples=resamples,
        batch=max(1, DRAWN_AT_ONCE // users),
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return interval.low, interval.high


def paired_permutation(
    differences: np.ndarray, *, seed: int, resamples: int = RESAMPLES - 1
) -> np.ndarray:
    """Two-sided p values of the Fisher-Pitman test that two models are as good as each other.

    If they are, each user's difference could as well have the other sign. For comparing rankings
    Smucker et al. (2007) recommend it over the sign and Wilcoxon tests. Of so few users that all
    signs can be tried, the p values are exact.

    Parameters
    ----------
    differences
        float[users, columns] of two users or more.

    Returns
    -------
    numpy.ndarray
        float[columns], not corrected for their number.
    """
    users = len(differences)
    # A user on whom the models agree everywhere adds nothing, whatever the sign.
    differing = differences[differences.any(1)]
    if len(differing) < 2:
        return np.ones(differences.shape[1])

    def mean(signs: np.ndarray, axis: int) -> np.ndarray:
        return signs @ differing / users

    return stats.permutation_test(
        (np.ones(len(differing)),),
        mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, DRAWN_AT_ONCE // len(differing)),
        axis=-1,
        rng=np.random.default_rng(seed),
    ).pvalue
