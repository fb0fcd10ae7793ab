"""How a change of a model crosses the network: few bytes, and nothing in them is believed unchecked.

A message is, one after the other, all numbers little-endian::

    b"HYD1"     4 bytes
    digest      16 bytes of BLAKE2b over all that follows
    size        uint32, bytes of the packed header
    header      zlib of JSON: {"parts": [{"name", "layout", "values", "count"}, ...]}
    body        zlib of the parts' arrays, each array as all its first bytes, then all its second …

A part is one array of the model. Its arrays are, where they apply, the gaps between positions
(uint32; the first position, then each one's distance from the one before), the scales (float32)
and the values:

============  ==========  =======================  ==========================
layout        positions   count                    scales where values are int8
============  ==========  =======================  ==========================
``dense``     none        all elements             one
``rows``      of rows     rows, each one whole     one a row
``elements``  flat        single elements          one
============  ==========  =======================  ==========================

What rounding and leaving out takes from a change is not lost: it is the residual, which is added
to the next change (error feedback: Stich et al., 2018; Lin et al., 2018). Nothing is random, so a
repeated round gives the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.errors import FederationError
from federation.updates import Delta, Rows, Weights

METHODS = ("none", "rows", "int8", "topk")
MAGIC = b"HYD1"
DIGEST_BYTES = 16
MOST_HEADER_BYTES = 1 << 20
# Steps from zero to the largest value. Of single elements, of which most are left out for a while,
# a coarser grid loses little more and takes two bits less.
ROW_LEVELS, ELEMENT_LEVELS = 127, 31


@dataclass(frozen=True)
class Compression:
    """How changes are made smaller.

    Attributes
    ----------
    method : str
        "none": all elements as float32. "rows": rows that changed, as float32, exactly. "int8":
        rows that changed as int8 with a scale each. "topk": the elements that changed most, as
        int8. With the last two, arrays of one dimension are bfloat16.
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

    @property
    def lossy(self) -> bool:
        """Whether a residual stays behind."""
        return self.method in ("int8", "topk")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    layout: Literal["dense", "rows", "elements"]
    values: Literal["float32", "bfloat16", "int8"]
    count: int = Field(ge=0)


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    parts: list[_Part]


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
    parts: list[_Part] = []
    arrays: list[np.ndarray] = []
    left: Delta = {}
    for name in sorted(delta.keys() | residual.keys()):
        change, waiting = delta.get(name), residual.get(name)
        known = [part for part in (change, waiting) if part is not None]
        rows = any(isinstance(part, Rows) for part in known)
        whole = not rows and (compression.method == "none" or known[0].ndim < 2)
        write = _write_dense if whole else _write_rows
        part, written, remains = write(name, change, waiting, compression)
        if part.count:
            parts.append(part)
            arrays += written
        if remains is not None:
            left[name] = remains
    header = _Header(parts=parts).model_dump_json().encode()
    # Noise in float32 takes long to compress, and gains nothing.
    level = 0 if compression.method == "none" else 6
    packed = _deflate([header], 6)
    content = struct.pack("<I", len(packed)) + packed + _deflate(map(_planes, arrays), level)
    return MAGIC + _digest(content) + content, left


def decode(message: bytes, weights: Weights) -> Delta:
    """Read a change of a model.

    Parameters
    ----------
    message : bytes
        What :func:`encode` wrote, or anything else.
    weights : dict of str to ndarray
        The model that it changes. Only names, shapes and types are looked at; no more memory is
        taken than a change of this model can need.

    Returns
    -------
    dict of str to ndarray or Rows
        The change. Single elements come as the rows that they are in.

    Raises
    ------
    FederationError
        If the message is damaged, or no change of this model.
    """
    start = len(MAGIC) + DIGEST_BYTES
    content = memoryview(message)[start:]
    if len(content) < 4 or message[: len(MAGIC)] != MAGIC:
        raise FederationError("The message is no change of a model.")
    if message[len(MAGIC) : start] != _digest(content):
        raise FederationError("The message was damaged on its way: its digest is another.")
    (size,) = struct.unpack_from("<I", content)
    try:
        header = _Header.model_validate_json(
            bytes(_inflate(content[4 : 4 + size], MOST_HEADER_BYTES, exact=False))
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise FederationError(f"The message has no usable header: {problem}.") from None
    forms = [_Form.of(part, weights) for part in header.parts]
    if len({part.name for part in header.parts}) < len(forms):
        raise FederationError("The message changes an array twice.")
    body = _inflate(content[4 + size :], sum(form.size for form in forms), exact=True)
    delta: Delta = {}
    offset = 0
    for form in forms:
        delta[form.part.name] = form.read(body[offset : offset + form.size])
        offset += form.size
    return delta


@dataclass(frozen=True)
class _Form:
    """Where a part's arrays lie in the body, and what they become."""

    part: _Part
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, part: _Part, weights: Weights) -> _Form:
        """Check that the part fits an array of the model."""
        present = weights.get(part.name)
        if present is None or not np.issubdtype(present.dtype, np.floating):
            raise FederationError(f"The message changes {part.name!r}, no trained array here.")
        most = len(present) if part.layout == "rows" and present.ndim else present.size
        exact = part.layout == "dense"
        fits = part.count == most if exact else part.count <= most and present.ndim >= 2
        if not fits:
            raise FederationError(
                f"The message changes {part.count} {part.layout} of {part.name!r}, which is "
                f"{list(present.shape)}."
            )
        return cls(part, present.shape, present.dtype)

    @property
    def width(self) -> int:
        """Elements in each of the part's units."""
        return math.prod(self.shape[1:]) if self.part.layout == "rows" else 1

    @property
    def lengths(self) -> list[tuple[str, int]]:
        """Type and length of each array in the body."""
        layout, values, count = self.part.layout, self.part.values, self.part.count
        scales = 0 if values != "int8" else count if layout == "rows" else 1
        kind = {"float32": "<f4", "bfloat16": "<u2", "int8": "|i1"}[values]
        positions = 0 if layout == "dense" else count
        return [("<u4", positions), ("<f4", scales), (kind, count * self.width)]

    @property
    def size(self) -> int:
        """Bytes in the body."""
        return sum(np.dtype(kind).itemsize * length for kind, length in self.lengths)

    def read(self, body: memoryview) -> np.ndarray | Rows:
        """The change that the part's bytes say."""
        arrays, offset = [], 0
        for kind, length in self.lengths:
            end = offset + np.dtype(kind).itemsize * length
            arrays.append(_unplaned(body[offset:end], kind))
            offset = end
        gaps, scales, stored = arrays
        values = _restore(stored.reshape(self.part.count, self.width), scales[:, None])
        if not np.isfinite(values).all():
            raise FederationError(f"The message has NaN or infinity in {self.part.name!r}.")
        if self.part.layout == "dense":
            return values.reshape(self.shape).astype(self.dtype, copy=False)
        row = math.prod(self.shape[1:])
        positions = self._positions(gaps, self.shape[0] * (row if self.width == 1 else 1))
        if self.part.layout == "elements":
            return _rows_of(positions, values[:, 0], self.shape)
        return Rows(positions, values.reshape(-1, *self.shape[1:]))

    def _positions(self, gaps: np.ndarray, most: int) -> np.ndarray:
        positions = np.cumsum(gaps, dtype=np.int64)
        if len(gaps) and (positions[-1] >= most or not gaps[1:].all()):
            raise FederationError(
                f"The message names positions of {self.part.name!r} that repeat or are none of "
                f"its {most}."
            )
        return positions


def _write_dense(
    name: str,
    change: np.ndarray | Rows | None,
    waiting: np.ndarray | Rows | None,
    compression: Compression,
) -> tuple[_Part, list[np.ndarray], np.ndarray | None]:
    """A whole array: exact, or as bfloat16 with what that leaves behind."""
    total = np.asarray(sum(part for part in (change, waiting) if part is not None), np.float32)
    _require_finite(name, total)
    if not compression.lossy:
        return _Part(name=name, layout="dense", values="float32", count=total.size), [total], None
    stored = _to_bfloat16(total)
    part = _Part(name=name, layout="dense", values="bfloat16", count=total.size)
    return part, [stored], total - _from_bfloat16(stored).reshape(total.shape)


def _write_rows(
    name: str,
    change: np.ndarray | Rows | None,
    waiting: np.ndarray | Rows | None,
    compression: Compression,
) -> tuple[_Part, list[np.ndarray], Rows | None]:
    """Rows of a table or single elements, and what they leave behind."""
    shape = next(c for c in (change, waiting) if c is not None)
    shape = (shape.values if isinstance(shape, Rows) else shape).shape[1:]
    width = math.prod(shape)
    fresh, older = (_flat_rows(part, width) for part in (change, waiting))
    index = np.union1d(fresh.index, older.index)
    total = np.zeros((len(index), width), np.float32)
    touched = np.searchsorted(index, fresh.index)
    total[touched] = fresh.values
    total[np.searchsorted(index, older.index)] += older.values
    _require_finite(name, total)
    sent = np.zeros_like(total)
    if compression.method == "topk":
        count = math.ceil(compression.share * np.count_nonzero(fresh.values))
        chosen = _largest(total.reshape(-1), count)
        stored, scales = _to_int8(total.reshape(1, -1)[:, chosen], ELEMENT_LEVELS)
        sent.reshape(-1)[chosen] = _restore(stored, scales)[0]
        rows, columns = np.divmod(chosen, width)
        positions = index[rows] * width + columns
        part = _Part(name=name, layout="elements", values="int8", count=len(chosen))
    else:
        # What waits for rows that did not change now goes on waiting: it is less than a step each.
        positions, scales = fresh.index, np.zeros((0, 1), np.float32)
        stored = total[touched]
        if compression.lossy:
            stored, scales = _to_int8(stored, ROW_LEVELS)
        sent[touched] = _restore(stored, scales)
        values = "int8" if compression.lossy else "float32"
        part = _Part(name=name, layout="rows", values=values, count=len(positions))
    remains = total - sent
    kept = remains.any(axis=1)
    left = Rows(index[kept], remains[kept].reshape(-1, *shape)) if kept.any() else None
    return part, [_gaps(positions), scales, stored], left


def _flat_rows(change: np.ndarray | Rows | None, width: int) -> Rows:
    """Those rows of a change that are not zero, with values of [n, width]."""
    if change is None:
        return Rows(np.zeros(0, np.int64), np.zeros((0, width), np.float32))
    values = change.values if isinstance(change, Rows) else change
    values = values.reshape(len(values), width)
    kept = np.flatnonzero(values.any(axis=1))
    index = change.index[kept] if isinstance(change, Rows) else kept
    return Rows(index, values[kept].astype(np.float32, copy=False))


def _rows_of(positions: np.ndarray, values: np.ndarray, shape: tuple[int, ...]) -> Rows:
    """Single elements as the rows that they are in."""
    rows, columns = np.divmod(positions, math.prod(shape[1:]))
    index, places = np.unique(rows, return_inverse=True)
    table = np.zeros((len(index), math.prod(shape[1:])), np.float32)
    table[places, columns] = values
    return Rows(index, table.reshape(-1, *shape[1:]))


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` values that are farthest from zero, ascending; the first of equals.

    Zeros are left out.
    """
    size = np.abs(values)
    count = min(count, np.count_nonzero(size))
    if count == 0:
        return np.zeros(0, np.int64)
    least = np.partition(size, len(size) - count)[len(size) - count]
    above = np.flatnonzero(size > least)
    equal = np.flatnonzero(size == least)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))


def _to_int8(rows: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 of each row, and float32[rows, 1] of what a step is worth."""
    scales = np.abs(rows).max(axis=1, initial=0, keepdims=True) / np.float32(levels)
    steps = np.divide(rows, scales, out=np.zeros_like(rows), where=scales > 0)
    return np.clip(np.rint(steps), -levels, levels).astype(np.int8), scales


def _restore(stored: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 of what was stored; the writer reckons with the same, so that both sides agree."""
    if stored.dtype == np.int8:
        with np.errstate(over="ignore"):
            return stored.astype(np.float32) * scales
    return _from_bfloat16(stored) if stored.dtype == np.uint16 else stored


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """uint16: the upper half of each float32, rounded to the nearest, of equals to the even one."""
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _from_bfloat16(stored: np.ndarray) -> np.ndarray:
    return (stored.astype("<u4") << 16).view("<f4")


def _gaps(positions: np.ndarray) -> np.ndarray:
    return np.diff(positions, prepend=0).astype("<u4")


def _require_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise FederationError(f"NaN or infinity in the change of {name!r}: the training failed.")


def _planes(array: np.ndarray) -> bytes:
    """All first bytes, then all second ones: alike bytes side by side compress well."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(-1, 1).view(np.uint8).T.tobytes()


def _unplaned(body: memoryview, kind: str) -> np.ndarray:
    planes = np.frombuffer(body, np.uint8).reshape(np.dtype(kind).itemsize, -1)
    return np.ascontiguousarray(planes.T).view(kind).reshape(-1)


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _deflate(chunks: Iterable[bytes], level: int) -> bytes:
    # Quantised values and gaps have no longer patterns than runs of zeros.
    packer = zlib.compressobj(level, memLevel=9, strategy=zlib.Z_RLE)
    return b"".join([*(packer.compress(chunk) for chunk in chunks), packer.flush()])


def _inflate(packed: memoryview, size: int, *, exact: bool) -> memoryview:
    """Unpack what may have at most, or exactly, `size` bytes; never more than that in memory."""
    unpacker = zlib.decompressobj()
    try:
        # One more byte than allowed would tell of more to come; 0 would mean no limit.
        content = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise FederationError(f"The message is damaged ({error}).") from None
    wrong = len(content) != size if exact else len(content) > size
    if wrong or not unpacker.eof or unpacker.unused_data:
        raise FederationError(f"The message does not hold the {size} bytes that it must.")
    return memoryview(content)
