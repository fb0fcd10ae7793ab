"""A change of a model in few bytes: what to send of it, how exactly, and what waits for next time.

What rounding and leaving out takes from a change is the residual, which is added to the next change
(error feedback: Stich et al., 2018; Lin et al., 2018). That of a table is a table of bfloat16, half
as large as the model's, which is changed in place and a few rows at a time: a server of a large
table has no room for another. Nothing is random, so a repeated round gives the same bytes.
:mod:`federation.wire` has the form of the messages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from federation.errors import FederationError
from federation.rounding import restore, to_bfloat16, to_int8, to_signs
from federation.updates import Delta, Rows, Weights
from federation.wire import Form, Part, pack, unpack

METHODS = ("none", "rows", "int8", "signs", "topk")
# Steps from zero to the largest value. Of single elements, of which most are left out for a while,
# a coarser grid loses little more and takes two bits less.
ROW_LEVELS, ELEMENT_LEVELS = 127, 31
NO_POSITIONS, NO_SCALES = np.zeros(0, np.int64), np.zeros((0, 1), np.float32)
# Rows, and elements, that are worked on at a time.
CHUNK_ROWS, CHUNK_ELEMENTS = 1 << 10, 1 << 16


@dataclass(frozen=True)
class Compression:
    """How changes are made smaller.

    Attributes
    ----------
    method : str
        "none": all elements as float32. "rows": rows that changed, as float32, exactly. "int8":
        rows that changed as int8 with a scale each. "signs": the same rows, of each element
        whether it is large and its sign. "topk": the elements that changed most, as int8. With the
        last three, arrays of one dimension are bfloat16.
    share : float
        Of the elements that changed, the share that "topk" sends, in (0, 1].
    """

    method: str = "none"
    share: float = 0.1

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise FederationError(
                f"compression is {self.method!r}: use one of {', '.join(METHODS)}."
            )
        if not 0 < self.share <= 1:
            raise FederationError(f"share is {self.share!r}: use a number in (0, 1].")

    def __str__(self) -> str:
        return f"topk {self.share:g}" if self.method == "topk" else self.method

    @property
    def lossy(self) -> bool:
        """Whether a residual stays behind."""
        return self.method in ("int8", "signs", "topk")


def encode(
    delta: Delta, residual: Weights, compression: Compression, weights: Weights
) -> tuple[bytes, Weights]:
    """Write a change, with what earlier ones left behind.

    Parameters
    ----------
    delta : dict of str to ndarray or Rows
        The change, of float32.
    residual : dict of str to ndarray
        What the last call gave back; ``{}`` at first. Its tables are changed in place.
    compression : Compression
        How to write it.
    weights : dict of str to ndarray
        The model that changes; only the shapes are looked at.

    Returns
    -------
    bytes
        For :func:`decode`.
    dict of str to ndarray
        What the message leaves out, for the next call: of arrays of one dimension as float32, of
        others as bfloat16 (uint16), both of the model's shape. Rounding to bfloat16 loses a 256th
        of a residual, at most.

    Raises
    ------
    FederationError
        If a number is not finite.
    """
    parts: list[Part] = []
    left: Weights = {}
    for name in sorted(delta.keys() | residual.keys()):
        change, waiting = delta.get(name), residual.get(name)
        exact = compression.method == "none" and not isinstance(change, Rows)
        if exact or weights[name].ndim < 2:
            known = [part for part in (change, waiting) if part is not None]
            part, remains = _dense(name, known, compression)
        else:
            part, remains = _rows(name, change, waiting, weights[name].shape, compression)
        if part.form.count:
            parts.append(part)
        if remains is not None:
            left[name] = remains
    # Noise in float32 takes long to compress, and gains nothing.
    return pack(parts, 0 if compression.method == "none" else 6), left


def decode(message: bytes, weights: Weights) -> Delta:
    """Read a change of a model.

    Parameters
    ----------
    message : bytes
        What :func:`encode` wrote, or anything else.
    weights : dict of str to ndarray
        The model that it changes; only names, shapes and types are looked at.

    Returns
    -------
    dict of str to ndarray or Rows
        The change. Single elements come as the rows that they are in.

    Raises
    ------
    FederationError
        If the message is damaged, no change of this model, or holds NaN or infinity.
    """
    return {
        part.form.name: _changed(part, weights[part.form.name]) for part in unpack(message, weights)
    }


def apply(message: bytes, weights: Weights) -> None:
    """Add the change that a message says to a model, in place and a few rows at a time.

    Raises
    ------
    FederationError
        As :func:`decode`; the model is as it was then.
    """
    parts = unpack(message, weights)
    for part in parts:
        for some in _chunks(part.form.count, CHUNK_ROWS):
            _values(part, some)
    for part in parts:
        array = weights[part.form.name]
        if part.form.layout == "dense":
            array += _values(part, slice(None)).reshape(array.shape)
            continue
        for some in _chunks(part.form.count, CHUNK_ROWS):
            where, values = part.positions[some], _values(part, some)
            if part.form.layout == "rows":
                array[where] += values.reshape(-1, *array.shape[1:])
            else:
                array[np.unravel_index(where, array.shape)] += values[:, 0]


def _values(part: Part, some: slice) -> np.ndarray:
    """float32 of some of a part's rows, or elements; FederationError if one is not finite."""
    scales = part.scales[some] if len(part.scales) == part.form.count else part.scales
    values = restore(part.stored[some], scales)
    if not np.isfinite(values).all():
        raise FederationError(f"The message has NaN or infinity in {part.form.name!r}.")
    return values


def _changed(part: Part, present: np.ndarray) -> np.ndarray | Rows:
    values = _values(part, slice(None))
    if part.form.layout == "dense":
        return values.reshape(present.shape).astype(present.dtype, copy=False)
    index, width = part.positions, math.prod(present.shape[1:])
    if part.form.layout == "elements":
        rows, columns = np.divmod(part.positions, width)
        index, places = np.unique(rows, return_inverse=True)
        table = np.zeros((len(index), width), np.float32)
        table[places, columns] = values[:, 0]
        values = table
    return Rows(index, values.reshape(len(index), *present.shape[1:]))


def _dense(
    name: str, known: list[np.ndarray], compression: Compression
) -> tuple[Part, np.ndarray | None]:
    """A whole array: exact, or as bfloat16 with what that leaves behind."""
    total = np.asarray(sum(known), np.float32)
    _require_finite(name, total)
    if not compression.lossy:
        form = Form(name=name, layout="dense", values="float32", count=total.size)
        return Part(form, NO_POSITIONS, NO_SCALES, total), None
    stored = to_bfloat16(total)
    form = Form(name=name, layout="dense", values="bfloat16", count=total.size)
    # Of arrays without dimensions NumPy's operators make scalars.
    return Part(form, NO_POSITIONS, NO_SCALES, stored), np.asarray(
        total - restore(stored, NO_SCALES)
    )


def _rows(
    name: str,
    change: np.ndarray | Rows | None,
    waiting: np.ndarray | None,
    shape: tuple[int, ...],
    compression: Compression,
) -> tuple[Part, np.ndarray | None]:
    """Rows of a table or single elements, and what they leave behind."""
    width = math.prod(shape[1:])
    fresh = _flat_rows(change, width)
    _require_finite(name, fresh.values)
    if not compression.lossy:
        form = Form(name=name, layout="rows", values="float32", count=len(fresh.index))
        return Part(form, fresh.index, NO_SCALES, fresh.values), None
    left = np.zeros(shape, np.uint16) if waiting is None else waiting
    table = left.reshape(-1, width)
    if compression.method == "topk":
        return _elements(name, fresh, table, compression.share), left
    return _whole_rows(name, fresh, table, compression.method), left


def _whole_rows(name: str, fresh: Rows, table: np.ndarray, method: str) -> Part:
    """The rows that changed, with what waits in them; what they leave behind comes into the table.

    What waits for other rows goes on waiting: else every row would cross in each round.
    """
    rounded = to_signs if method == "signs" else partial(to_int8, levels=ROW_LEVELS)
    stored = np.empty(fresh.values.shape, np.int8)
    scales = np.empty((len(stored), 1), np.float32)
    for rows in _chunks(len(stored), CHUNK_ROWS):
        index = fresh.index[rows]
        total = fresh.values[rows] + restore(table[index], NO_SCALES)
        stored[rows], scales[rows] = rounded(total)
        table[index] = to_bfloat16(total - restore(stored[rows], scales[rows]))
    form = Form(name=name, layout="rows", values=method, count=len(stored))
    return Part(form, fresh.index, scales, stored)


def _elements(name: str, fresh: Rows, table: np.ndarray, share: float) -> Part:
    """The elements of the table that are farthest from zero, once the change was added to it."""
    for rows in _chunks(len(fresh.index), CHUNK_ROWS):
        index = fresh.index[rows]
        table[index] = to_bfloat16(fresh.values[rows] + restore(table[index], NO_SCALES))
    flat = table.reshape(-1)
    chosen = _largest(flat, math.ceil(share * np.count_nonzero(fresh.values)))
    total = restore(flat[chosen], NO_SCALES)
    stored, scales = to_int8(total[None], ELEMENT_LEVELS)
    flat[chosen] = to_bfloat16(total - restore(stored, scales)[0])
    form = Form(name=name, layout="elements", values="int8", count=len(chosen))
    return Part(form, chosen, scales, stored)


def _chunks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _flat_rows(change: np.ndarray | Rows | None, width: int) -> Rows:
    """Those rows of a change that are not zero, with values of [n, width]."""
    if change is None:
        return Rows(NO_POSITIONS, np.zeros((0, width), np.float32))
    values = change.values if isinstance(change, Rows) else change
    index = change.index if isinstance(change, Rows) else np.arange(len(values))
    values = values.reshape(len(values), width).astype(np.float32, copy=False)
    kept = values.any(axis=1)
    return Rows(index, values) if kept.all() else Rows(index[kept], values[kept])


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` bfloat16 that are farthest from zero, ascending; the first of equals.

    Zeros are left out. Without their sign, the codes of bfloat16 are in the order of what they say,
    so counting them tells which is the least to be taken, without a copy of the values.
    """
    size = np.uint16(0x7FFF)
    have = np.zeros(1 << 15, np.int64)
    for some in _chunks(len(values), CHUNK_ELEMENTS):
        have += np.bincount(values[some] & size, minlength=1 << 15)
    have[0] = 0
    at_least = have[::-1].cumsum()[::-1]
    count = min(count, at_least[0])
    if count == 0:
        return NO_POSITIONS
    least = np.flatnonzero(at_least >= count)[-1]
    of_equal = count - (at_least[least] - have[least])
    chosen = []
    for some in _chunks(len(values), CHUNK_ELEMENTS):
        codes = values[some] & size
        equal = np.flatnonzero(codes == least)[:of_equal]
        of_equal -= len(equal)
        chosen.append(some.start + np.union1d(np.flatnonzero(codes > least), equal))
    return np.concatenate(chosen)


def _require_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise FederationError(f"NaN or infinity in the change of {name!r}: the training failed.")
