"""How well a rate is known while it is still being observed: intervals that may be looked at always.

An ordinary interval holds at one moment that was fixed beforehand. Who looks again and again, and
stops once it suits, is wrong far more often than it says. These hold at all moments at once.
"""

from __future__ import annotations

import numpy as np

# Where the boundary is tightest, and how it is stitched together; the values of the paper's figures.
TIGHTEST_FROM = 1.0
STRETCH = 2.0
POWER = 1.4
ZETA = 3.105472779775810  # Riemann's zeta function of POWER


def confidence_sequence(values: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
    """Intervals for the mean, one after each value, that all hold at once with chance 1 − error.

    The empirical Bernstein bound of Howard, Ramdas, McAuliffe and Sekhon ("Time-uniform,
    nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49, 2021, theorem 4)
    with their polynomial stitched boundary (equation 10). It needs no sample size and no
    independence: what is covered is the average of the values' expectations, each given all values
    before it.

    Parameters
    ----------
    values
        float[n] from 0 to 1, in the order in which they were observed.
    error
        The chance that any of the intervals misses.

    Returns
    -------
    tuple
        Lower and upper ends, float[n] each.
    """
    values = np.asarray(values, dtype=np.float64)
    count = np.arange(1, len(values) + 1)
    means = values.cumsum() / count
    # What each value was expected to be before it was seen.
    expected = np.concatenate([[0.5], (0.5 + values.cumsum()) / (count + 1)])[:-1]
    radius = _boundary(((values - expected) ** 2).cumsum(), error / 2) / count
    return np.clip(means - radius, 0, 1), np.clip(means + radius, 0, 1)


def _boundary(variance: np.ndarray, error: float) -> np.ndarray:
    """What a sum strays by, of values with this summed variance, with chance `error` at any time."""
    variance = np.maximum(variance, TIGHTEST_FROM)
    level = POWER * np.log(np.log(STRETCH * variance / TIGHTEST_FROM)) + np.log(
        ZETA / (error * np.log(STRETCH) ** POWER)
    )
    wide = (STRETCH**0.25 + STRETCH**-0.25) / np.sqrt(2)
    narrow = (np.sqrt(STRETCH) + 1) / 2
    return np.sqrt(wide**2 * variance * level + (narrow * level) ** 2) + narrow * level
