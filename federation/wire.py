"""The form in which a change of a model crosses the network; nothing in it is believed unchecked.

A message is, one after the other, all numbers little-endian::

    b"HYD1"     4 bytes
    digest      16 bytes of BLAKE2b over all that follows
    size        uint32, bytes of the packed header
    header      zlib of JSON: {"parts": [{"name", "layout", "values", "count"}, ...]}
    body        zlib of the parts' arrays, of each array all first bytes, then all second …

A part is one array of the model. Its arrays are, where they apply, the gaps between positions
(uint32; the first position, then each one's distance from the one before), the scales (float32)
and the values. Signs are five to a byte, and their scales are a byte each
(:mod:`federation.rounding`):

============  ==========  =======================  ==========================
layout        positions   count                    scales of int8 and signs
============  ==========  =======================  ==========================
``dense``     none        all elements             one
``rows``      of rows     rows, each one whole     one a row
``elements``  flat        single elements          one
============  ==========  =======================  ==========================
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.errors import FederationError
from federation.rounding import (
    SIGNS_A_BYTE,
    code_of_size,
    pack_signs,
    size_of_code,
    unpack_signs,
)
from federation.updates import Weights

MAGIC = b"HYD1"
DIGEST_BYTES = 16
MOST_HEADER_BYTES = 1 << 20
KINDS = {"float32": "<f4", "bfloat16": "<u2", "int8": "|i1", "signs": "|u1"}
SCALES = {"int8": "<f4", "signs": "|u1"}


class Form(BaseModel):
    """What the header says of a part."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    name: str
    layout: Literal["dense", "rows", "elements"]
    values: Literal["float32", "bfloat16", "int8", "signs"]
    count: int = Field(ge=0)

    def check(self, weights: Weights) -> None:
        """FederationError unless the part fits a trained array of the model."""
        present = weights.get(self.name)
        if present is None or not np.issubdtype(present.dtype, np.floating):
            raise FederationError(f"The message changes {self.name!r}, no trained array here.")
        if self.layout == "dense":
            fits = self.count == present.size
        else:
            fits = present.ndim >= 2 and self.count <= self.positions(present.shape)
        if not fits:
            raise FederationError(
                f"The message changes {self.count} {self.layout} of {self.name!r}, which is "
                f"{list(present.shape)}."
            )

    def positions(self, shape: tuple[int, ...]) -> int:
        """How many positions an array of this shape has, in this layout."""
        return shape[0] if self.layout == "rows" else math.prod(shape)

    def lengths(self, shape: tuple[int, ...]) -> list[tuple[str, int]]:
        """Type and length of gaps, scales and values in the body."""
        whole_rows = self.layout == "rows"
        scales = 0 if self.values not in SCALES else self.count if whole_rows else 1
        width = math.prod(shape[1:]) if whole_rows else 1
        gaps = 0 if self.layout == "dense" else self.count
        values = self.count * width
        if self.values == "signs":
            values = -(-values // SIGNS_A_BYTE)
        return [
            ("<u4", gaps), (SCALES.get(self.values, "<f4"), scales), (KINDS[self.values], values),
        ]  # fmt: skip


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    parts: list[Form]


@dataclass(frozen=True)
class Part:
    """Some of the elements of one array, as they are stored.

    Attributes
    ----------
    form : Form
        Which array, and how it is laid out.
    positions : ndarray of int64, shape [count]
        Ascending, no repeats; empty in the layout "dense".
    scales : ndarray of float32, shape [k, 1]
        Empty where values are not int8.
    stored : ndarray
        Of the type that the form names, signs as int8: [count, width], or a form that has as many
        elements.
    """

    form: Form
    positions: np.ndarray
    scales: np.ndarray
    stored: np.ndarray


def pack(parts: Sequence[Part], level: int) -> bytes:
    """Write parts as a message.

    Parameters
    ----------
    parts : sequence of Part
        Of different arrays.
    level : int
        Of zlib's effort for the values, 0 to 9.
    """
    header = _deflate([_Header(parts=[part.form for part in parts]).model_dump_json().encode()], 6)
    arrays = (
        _planes(array)
        for part in parts
        for array in (np.diff(part.positions, prepend=0).astype("<u4"), *_written(part))
    )
    content = struct.pack("<I", len(header)) + header + _deflate(arrays, level)
    return MAGIC + _digest(content) + content


def unpack(message: bytes, weights: Weights) -> list[Part]:
    """Read the parts of a message.

    Parameters
    ----------
    message : bytes
        What :func:`pack` wrote, or anything else.
    weights : dict of str to ndarray
        The model that it changes. Only names, shapes and types are looked at; no more memory is
        taken than a change of this model can need.

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
    header = _inflate(content[4 : 4 + size], MOST_HEADER_BYTES, exact=False)
    try:
        forms = _Header.model_validate_json(header).parts
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise FederationError(f"The message has no usable header: {problem}.") from None
    for form in forms:
        form.check(weights)
    if len({form.name for form in forms}) < len(forms):
        raise FederationError("The message changes an array twice.")
    places = [place for form in forms for place in form.lengths(weights[form.name].shape)]
    sizes = [np.dtype(kind).itemsize * length for kind, length in places]
    body = memoryview(_inflate(content[4 + size :], sum(sizes), exact=True))
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    arrays = iter(
        _unplaned(body[end - size : end], kind)
        for (kind, _), size, end in zip(places, sizes, ends, strict=True)
    )
    return [
        _part(form, weights[form.name].shape, next(arrays), next(arrays), next(arrays))
        for form in forms
    ]


def _written(part: Part) -> tuple[np.ndarray, np.ndarray]:
    """A part's scales and values as they stand in the body."""
    if part.form.values == "signs":
        return code_of_size(part.scales), pack_signs(part.stored)
    return part.scales, part.stored


def _part(
    form: Form, shape: tuple[int, ...], gaps: np.ndarray, scales: np.ndarray, stored: np.ndarray
) -> Part:
    positions = np.cumsum(gaps, dtype=np.int64)
    most = form.positions(shape)
    if len(gaps) and (positions[-1] >= most or not gaps[1:].all()):
        raise FederationError(
            f"The message names positions of {form.name!r} that repeat or are none of its {most}."
        )
    width = math.prod(shape[1:]) if form.layout == "rows" else 1
    if form.values == "signs":
        scales, stored = size_of_code(scales), unpack_signs(stored, form.count * width)
    return Part(form, positions, scales[:, None], stored.reshape(form.count, width))


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
    # Rounded values and gaps have no longer patterns than runs of zeros.
    packer = zlib.compressobj(level, memLevel=9, strategy=zlib.Z_RLE)
    return b"".join([*(packer.compress(chunk) for chunk in chunks), packer.flush()])


def _inflate(packed: memoryview, size: int, *, exact: bool) -> bytes:
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
    return content
