"""Weights and changes as the flat, named arrays of a safetensors file, and back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from federation.updates import Delta, Rows


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
