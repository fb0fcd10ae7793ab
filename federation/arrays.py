"""Weights and changes as the flat, named arrays of a safetensors file, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np

from federation.updates import Delta, Rows


# NumPy's types as safetensors has them.
KINDS = {
    "<f4": "F32", "<f8": "F64", "<f2": "F16", "<i8": "I64", "<i4": "I32", "<i2": "I16", "|i1": "I8",
    "<u8": "U64", "<u4": "U32", "<u2": "U16", "|u1": "U8", "|b1": "BOOL",
}  # fmt: skip


def pieces(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """A safetensors file of the arrays, piece by piece.

    safetensors' own functions build the whole file in memory, beside a large table of weights.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in sorted(arrays):
        array = arrays[name]
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": KINDS[array.dtype.str],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in sorted(arrays):
        yield np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data


def flatten(parts: Mapping[str, Delta]) -> dict[str, np.ndarray]:
    """All arrays of several changes or weights, each named by its form, its part and its name."""
    arrays: dict[str, np.ndarray] = {}
    for part, delta in parts.items():
        for name, change in delta.items():
            if isinstance(change, Rows):
                arrays[f"index/{part}/{name}"] = change.index
                arrays[f"values/{part}/{name}"] = change.values
            else:
                arrays[f"whole/{part}/{name}"] = change
    return arrays


def unflatten(arrays: Mapping[str, np.ndarray]) -> dict[str, Delta]:
    """What :func:`flatten` was given; parts without an array are absent. Other names are left out.

    Raises
    ------
    KeyError
        If rows have no values.
    """
    parts: dict[str, Delta] = {}
    for key, array in arrays.items():
        form, part, name = (*key.split("/", 2), "", "")[:3]
        if form == "whole":
            parts.setdefault(part, {})[name] = array
        elif form == "index":
            parts.setdefault(part, {})[name] = Rows(array, arrays[f"values/{part}/{name}"])
    return parts
