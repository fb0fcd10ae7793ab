"""Gaussian noise on a sum, of which the last bits tell nothing."""

from __future__ import annotations

import math

import numpy as np

from federation.keystream import Keystream

# Numbers at a time, so that the noise of a large table takes little memory.
CHUNK = 1 << 20
# The result is a multiple of about this share of the noise's deviation.
GRID = 2.0**-20


def add_noise(values: np.ndarray, deviation: float, source: Keystream) -> np.ndarray:
    """Add independent Gaussian noise of a deviation to each number.

    The result is rounded to a grid that depends on the deviation alone. Floating-point numbers
    lie so unevenly that the low bits of an unrounded sum can betray what the noise was added to
    (Mironov, 2012, "On significance of the least significant bits for differential privacy").

    Returns
    -------
    ndarray
        float64, of the shape of `values`.
    """
    grid = 2.0 ** math.floor(math.log2(deviation)) * GRID
    noisy = np.array(values, np.float64)
    flat = noisy.reshape(-1)
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        part += deviation * source.gaussian(len(part))
        np.round(part / grid, out=part)
        part *= grid
    return noisy
