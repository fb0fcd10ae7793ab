"""Updates written out as plain numbers, so that a test's own arithmetic needs no array."""

from __future__ import annotations

from federation.updates import Rows, Update

Numbers = dict[tuple, float]


def numbers(update: Update, part: str = "delta") -> Numbers:
    """Every number of a change, by array and place; what is not there did not change."""
    written: Numbers = {}
    for name, change in getattr(update, part).items():
        if isinstance(change, Rows):
            for row, values in zip(change.index.tolist(), change.values.tolist(), strict=True):
                written |= {(name, row, column): value for column, value in enumerate(values)}
        else:
            written |= {(name, place): value for place, value in enumerate(change.ravel().tolist())}
    return written


def places(weights: dict) -> Numbers:
    """Every trained number of the model of `conftest.py`, by array and place."""
    table = {
        ("table", row, column): value
        for row, values in enumerate(weights["table"].tolist())
        for column, value in enumerate(values)
    }
    layer = {("layer", place): value for place, value in enumerate(weights["layer"].tolist())}
    return table | layer | {("scale", 0): weights["scale"].item()}
