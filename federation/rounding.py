"""Numbers in fewer bits: steps of one size, int8 or signs with a scale a row, and bfloat16.

Nothing is random.
"""

from __future__ import annotations

import numpy as np

# Signs: in a row those elements are sent that are farther from zero than this times the mean, all
# as one size, whose logarithm is rounded to an eighth of an octave. A byte holds five signs.
LEAST_SHARE = np.float32(1.0)
STEPS_AN_OCTAVE, LEAST_OCTAVE = 8, -26
SIGNS_A_BYTE = 5
PLACES = 3 ** np.arange(SIGNS_A_BYTE)
# Steps: of this times the root of the mean square of all rows. Seven steps either way are beyond
# what any but a few elements need, and two elements then fit into a byte.
STEP_SHARE = 1.55
MOST_STEPS = 7
STEP_BASE = 2 * MOST_STEPS + 1


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


def to_steps(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round rows to whole steps, of one size for all: small rows to few of them, or to none.

    That is where bits lower the squared error most (reverse water-filling: Cover and Thomas, 2006,
    §10.3.3), provided that rare steps take more of them than usual ones, for which :func:`pack_steps`
    prepares.

    Returns
    -------
    ndarray of int8, ndarray of float32
        The steps, [n, width], and what one is worth, [1, 1]: that with the least squared error.
    """
    square = _dot(rows, rows) / max(rows.size, 1)
    size = np.float32(STEP_SHARE * np.sqrt(square))
    if not size:
        return np.zeros(rows.shape, np.int8), np.zeros((1, 1), np.float32)
    steps = np.clip(np.rint(rows / size), -MOST_STEPS, MOST_STEPS)
    worth = _dot(rows, steps) / _dot(steps, steps)
    return steps.astype(np.int8), np.full((1, 1), worth, np.float32)


def _dot(one: np.ndarray, other: np.ndarray) -> np.float64:
    """Sum of products, in double precision and without a copy in it."""
    return np.einsum("ij,ij", one, other, dtype=np.float64)


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
    digits = np.zeros(-(-signs.size // SIGNS_A_BYTE) * SIGNS_A_BYTE, np.int64)
    digits[: signs.size] = signs.reshape(-1) + 1
    return (digits.reshape(-1, SIGNS_A_BYTE) @ PLACES).astype(np.uint8)


def unpack_signs(packed: np.ndarray, count: int) -> np.ndarray:
    """int8[count] of :func:`pack_signs`; bytes that it does not write give signs all the same."""
    digits = packed[:, None].astype(np.int64) // PLACES % 3
    return (digits.reshape(-1)[:count] - 1).astype(np.int8)


def pack_steps(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of :func:`to_steps` in the order of how much is in them, for an entropy coder.

    Deflate makes a new table of codes every few thousand bytes: where rows of a kind lie side by
    side, each table fits its kind.

    Returns
    -------
    ndarray of uint8 [n], ndarray of uint8 [⌈n width / 2⌉]
        How much is in each row, in half octaves of its sum of steps; and the steps of the rows
        by that, of equal ones in their own order, as digits of base 15.
    """
    sums = np.abs(steps).sum(axis=1, dtype=np.int64)
    kinds = np.rint(2 * np.log2(1.0 + sums)).astype(np.uint8)
    digits = np.zeros(-(-steps.size // 2) * 2, np.uint8)
    digits[: steps.size] = steps[np.argsort(kinds, kind="stable")].reshape(-1) + MOST_STEPS
    return kinds, digits[0::2] + STEP_BASE * digits[1::2]


def unpack_steps(kinds: np.ndarray, packed: np.ndarray, width: int) -> np.ndarray:
    """int8[n, width] of :func:`pack_steps`; bytes that it does not write give steps all the same."""
    digits = np.stack([packed % STEP_BASE, packed // STEP_BASE], axis=1).reshape(-1)
    steps = np.empty((len(kinds), width), np.int8)
    steps[np.argsort(kinds, kind="stable")] = (
        digits[: steps.size].astype(np.int8) - MOST_STEPS
    ).reshape(steps.shape)
    return steps


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
