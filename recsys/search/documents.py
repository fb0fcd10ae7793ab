"""The searchable text of a catalogue, field by field, as words of one vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.errors import RecsysError
from recsys.search.words import words

# How often a field counts: a word of the title says what an item is, one of an attribute may only
# say what it goes with.
FIELDS = {"title": 3, "brand": 1, "category": 2, "description": 1, "attributes": 1}
NUMBER = re.compile(r"[-+]?[\d.,]+")
FLAGS = {"true": True, "yes": True, "y": True, "false": False, "no": False, "n": False}


@dataclass(frozen=True)
class Field:
    """Every item's words of one field, as one flat array.

    Attributes
    ----------
    offsets
        int64[items + 1]; item i has ``tokens[offsets[i]:offsets[i + 1]]``.
    tokens
        int32[words] places in the vocabulary, in the order of the text.
    """

    offsets: np.ndarray
    tokens: np.ndarray

    def of(self, item: int) -> np.ndarray:
        """The words of the item with this index."""
        return self.tokens[self.offsets[item] : self.offsets[item + 1]]


@dataclass(frozen=True)
class Documents:
    """Items, their fields and the vocabulary (all words, in order of appearance)."""

    items: list[str]
    fields: dict[str, Field]
    vocabulary: list[str]


def searchable(attribute: str) -> str:
    """What people may type of an attribute ``name: value``.

    Its value, where that is text. A number without its unit is nothing to search for, and would
    only make the item's text longer than it is; of a flag that is set, the name says it.
    """
    name, colon, value = attribute.partition(": ")
    if not colon:
        return attribute
    if value.lower() in FLAGS:
        return name.replace("_", " ") if FLAGS[value.lower()] else ""
    return "" if NUMBER.fullmatch(value) else value


def documents(catalogue: pl.DataFrame) -> Documents:
    """Take the fields of `FIELDS` from what `recsys.data.catalogue.load_catalogue` gives.

    A catalogue without a title has its ``text`` in that place.

    Raises
    ------
    RecsysError
        When the catalogue is empty, or no item has a word.
    """
    place: dict[str, int] = {}
    fields: dict[str, Field] = {}
    titled = catalogue if "title" in catalogue.columns else catalogue.rename({"text": "title"})
    for name in FIELDS:
        if name not in titled.columns:
            continue
        column = titled[name]
        if column.dtype == pl.List:
            texts = [" ".join(map(searchable, entries or ())) for entries in column.to_list()]
        else:
            texts = column.fill_null("").to_list()
        rows = [
            np.array([place.setdefault(word, len(place)) for word in words(text)], dtype=np.int32)
            for text in texts
        ]
        lengths = [len(row) for row in rows]
        fields[name] = Field(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate(rows or [np.empty(0, np.int32)]),
        )
    if not place:
        raise RecsysError(
            f"the catalogue's {len(titled)} items have no words to search: "
            f"give it a column text or one of {', '.join(FIELDS)}"
        )
    return Documents(titled["item"].to_list(), fields, list(place))
