"""Numbers in fewer bits: int8 or signs with a scale a row, and bfloat16. Nothing is random."""

from __future__ import annotations

import numpy as np

# Signs: in a row those elements are sent that are farther from zero than this times the mean, all
# as one size, whose logarithm is rounded to an eighth of an octave. A byte holds five signs.
LEAST_SHARE = np.float32(1.0)
STEPS_AN_OCTAVE, LEAST_OCTAVE = 8, -26
SIGNS_A_BYTE = 5
PLACES = (3 ** np.arange(SIGNS_A_BYTE)).astype(np.uint8)


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


def to_signs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round each row to -1, 0 and 1 times its own size (Li et al., 2016).

    Returns
    -------
    ndarray of int8, ndarray of float32
        The signs, [n, width], and the sizes, [n, 1], as :func:`size_of_code` gives them.
    """
    sizes = np.abs(rows)
    large = sizes > LEAST_SHARE * sizes.mean(axis=1, keepdims=True)
    # A row of equal elements has none above the mean.
    large |= (~large.any(axis=1, keepdims=True)) & (sizes > 0)
    count = np.maximum(large.sum(axis=1, keepdims=True), 1)
    mean = np.where(large, sizes, 0).sum(axis=1, keepdims=True, dtype=np.float64) / count
    signs = np.where(large, np.sign(rows), 0).astype(np.int8)
    return signs, size_of_code(code_of_size(mean))


def code_of_size(sizes: np.ndarray) -> np.ndarray:
    """uint8 of sizes: 0 for what is as good as none, else their rounded logarithm."""
    with np.errstate(divide="ignore"):
        steps = np.rint((np.log2(sizes.astype(np.float64)) - LEAST_OCTAVE) * STEPS_AN_OCTAVE) + 1
    return np.clip(steps, 0, 255).astype(np.uint8)


def size_of_code(codes: np.ndarray) -> np.ndarray:
    """float32 of what :func:`code_of_size` gave."""
    octaves = (codes.astype(np.float64) - 1) / STEPS_AN_OCTAVE + LEAST_OCTAVE
    return np.where(codes > 0, np.exp2(octaves), 0).astype(np.float32)


def pack_signs(signs: np.ndarray) -> np.ndarray:
    """uint8[⌈n / 5⌉] of n signs: as digits of base 3."""
    digits = np.zeros(-(-signs.size // SIGNS_A_BYTE) * SIGNS_A_BYTE, np.uint8)
    digits[: signs.size] = signs.reshape(-1) + 1
    return digits.reshape(-1, SIGNS_A_BYTE) @ PLACES


def unpack_signs(packed: np.ndarray, count: int) -> np.ndarray:
    """int8[count] of :func:`pack_signs`; bytes that it does not write give signs all the same."""
    signs_of = (np.arange(256)[:, None] // PLACES % 3 - 1).astype(np.int8)
    return signs_of[packed].reshape(-1)[:count]


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """uint16: the upper half of each float32, rounded to the nearest, of equals to the even one."""
    bits = values.astype("<f4").reshape(-1).view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").reshape(values.shape)


def restore(stored: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 of int8 (with scales that broadcast), bfloat16 as uint16, or float32 itself."""
    if stored.dtype == np.int8:
        # A forged scale may be too large; who reads a message looks for infinity.
        with np.errstate(over="ignore", invalid="ignore"):
            values = stored.astype(np.float32)
            values *= scales
            return values
    if stored.dtype == np.uint16:
        bits = stored.astype("<u4") << 16
        return bits.reshape(-1).view("<f4").reshape(stored.shape)
    return stored
