"""A change of a model in few bytes: what to send of it, how exactly, and what waits for next time.

What rounding and leaving out takes from a change is not lost: it is the residual, which is added
to the next change (error feedback: Stich et al., 2018; Lin et al., 2018). Nothing is random, so a
repeated round gives the same bytes. :mod:`federation.wire` has the form of the messages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


def encode(delta: Delta, residual: Delta, compression: Compression) -> tuple[bytes, Delta]:
    """Write a change, with what earlier ones left behind.

    Parameters
    ----------
    delta : dict of str to ndarray or Rows
        The change, of float32.
    residual : dict of str to ndarray or Rows
        What the last call gave back; ``{}`` at first.
    compression : Compression
        How to write it.

    Returns
    -------
    bytes
        For :func:`decode`.
    dict of str to ndarray or Rows
        What the message leaves out, for the next call.

    Raises
    ------
    FederationError
        If a number is not finite.
    """
    parts: list[Part] = []
    left: Delta = {}
    for name in sorted(delta.keys() | residual.keys()):
        change, waiting = delta.get(name), residual.get(name)
        known = [part for part in (change, waiting) if part is not None]
        rows = any(isinstance(part, Rows) for part in known)
        if not rows and (compression.method == "none" or known[0].ndim < 2):
            part, remains = _dense(name, known, compression)
        else:
            part, remains = _rows(name, change, waiting, compression)
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


def _changed(part: Part, present: np.ndarray) -> np.ndarray | Rows:
    values = restore(part.stored, part.scales)
    if not np.isfinite(values).all():
        raise FederationError(f"The message has NaN or infinity in {part.form.name!r}.")
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
    waiting: np.ndarray | Rows | None,
    compression: Compression,
) -> tuple[Part, Rows | None]:
    """Rows of a table or single elements, and what they leave behind."""
    known = next(part for part in (change, waiting) if part is not None)
    shape = (known.values if isinstance(known, Rows) else known).shape[1:]
    width = math.prod(shape)
    fresh, older = (_flat_rows(part, width) for part in (change, waiting))
    index = np.union1d(fresh.index, older.index)
    total = np.zeros((len(index), width), np.float32)
    touched = np.searchsorted(index, fresh.index)
    total[touched] = fresh.values
    total[np.searchsorted(index, older.index)] += older.values
    _require_finite(name, total)
    # In place, since there may be many rows: what is sent is taken off the total, which remains.
    if compression.method == "topk":
        count = math.ceil(compression.share * np.count_nonzero(fresh.values))
        chosen = _largest(total.reshape(-1), count)
        stored, scales = to_int8(total.reshape(1, -1)[:, chosen], ELEMENT_LEVELS)
        total.reshape(-1)[chosen] -= restore(stored, scales)[0]
        rows, columns = np.divmod(chosen, width)
        positions = index[rows] * width + columns
        form = Form(name=name, layout="elements", values="int8", count=len(chosen))
    else:
        # What waits for rows that did not change now goes on waiting.
        positions, stored, scales = fresh.index, total[touched], NO_SCALES
        if compression.method == "signs":
            stored, scales = to_signs(stored)
        elif compression.lossy:
            stored, scales = to_int8(stored, ROW_LEVELS)
        total[touched] -= restore(stored, scales)
        values = compression.method if compression.lossy else "float32"
        form = Form(name=name, layout="rows", values=values, count=len(positions))
    kept = total.any(axis=1)
    remains = total if kept.all() else total[kept]
    left = Rows(index[kept], remains.reshape(-1, *shape)) if kept.any() else None
    return Part(form, positions, scales, stored), left


def _flat_rows(change: np.ndarray | Rows | None, width: int) -> Rows:
    """Those rows of a change that are not zero, with values of [n, width]."""
    if change is None:
        return Rows(NO_POSITIONS, np.zeros((0, width), np.float32))
    values = change.values if isinstance(change, Rows) else change
    values = values.reshape(len(values), width)
    kept = np.flatnonzero(values.any(axis=1))
    index = change.index[kept] if isinstance(change, Rows) else kept
    return Rows(index, values[kept].astype(np.float32, copy=False))


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` values that are farthest from zero, ascending; the first of equals.

    Zeros are left out.
    """
    size = np.abs(values)
    count = min(count, np.count_nonzero(size))
    if count == 0:
        return NO_POSITIONS
    least = np.partition(size, len(size) - count)[len(size) - count]
    above = np.flatnonzero(size > least)
    equal = np.flatnonzero(size == least)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))


def _require_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise FederationError(f"NaN or infinity in the change of {name!r}: the training failed.")
