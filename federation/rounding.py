"""Numbers in fewer bits: int8 with a scale a row, and bfloat16. Nothing is random."""

from __future__ import annotations

import numpy as np


def to_int8(rows: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Round each row to whole steps, of which `levels` reach its largest value.

    Returns
    -------
    ndarray of int8, ndarray of float32
        The steps, [n, width], and what a step is worth, [n, 1].
    """
    scales = np.abs(rows).max(axis=1, initial=0, keepdims=True) / np.float32(levels)
    steps = np.divide(rows, scales, out=np.zeros_like(rows), where=scales > 0)
    return np.clip(np.rint(steps), -levels, levels).astype(np.int8), scales


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """uint16: the upper half of each float32, rounded to the nearest, of equals to the even one."""
    bits = values.astype("<f4").reshape(-1).view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").reshape(values.shape)


def restore(stored: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 of int8 (with scales that broadcast), bfloat16 as uint16, or float32 itself."""
    if stored.dtype == np.int8:
        # A forged scale may be too large; who reads a message looks for infinity.
        with np.errstate(over="ignore", invalid="ignore"):
            return stored.astype(np.float32) * scales
    if stored.dtype == np.uint16:
        bits = stored.astype("<u4") << 16
        return bits.reshape(-1).view("<f4").reshape(stored.shape)
    return stored
