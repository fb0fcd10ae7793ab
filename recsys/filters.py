"""Which items an answer may hold: exact filters over the attributes of a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

# Filters whose masks, a byte an item, are kept for the next request with the same.
KEPT_MASKS = 64

Attributes = Mapping[str, Sequence[str | float | None]]


class ItemFilters:
    """Filters of one vocabulary.

    An item of which something is not known passes no filter on it.

    Parameters
    ----------
    attributes
        Those columns of `recsys.attributes.KINDS` that are known, a value an item, None where
        nobody knows it.
    """

    def __init__(self, attributes: Attributes) -> None:
        self._numbers = {
            name: np.array(attributes[name], dtype=np.float64)
            for name in ("price", "stock") if name in attributes
        }  # fmt: skip
        self._places: dict[str, int] | None = None
        if "category" in attributes:
            names = dict.fromkeys(attributes["category"])
            names.pop(None, None)
            self._places = {name: place for place, name in enumerate(names)}
            # Items without a category have the last place, which no name has.
            places = [self._places.get(name, len(names)) for name in attributes["category"]]
            self._categories = np.array(places, dtype=np.int32)
        self.mask = lru_cache(KEPT_MASKS)(self._mask)

    def _mask(
        self,
        in_stock: bool = False,
        categories: Sequence[str] = (),
        min_price: float | None = None,
        max_price: float | None = None,
    ) -> np.ndarray:
        """bool[items] of what passes all filters.

        Raises
        ------
        KeyError
            With the name of an attribute that is filtered by and not known of any item.
        """
        passing = []
        # Nothing compares with a NaN.
        if in_stock:
            passing.append(self._numbers["stock"] > 0)
        if min_price is not None:
            passing.append(self._numbers["price"] >= min_price)
        if max_price is not None:
            passing.append(self._numbers["price"] <= max_price)
        if categories:
            if self._places is None:
                raise KeyError("category")
            wanted = np.zeros(len(self._places) + 1, dtype=bool)
            wanted[[self._places[name] for name in categories if name in self._places]] = True
            passing.append(wanted[self._categories])
        return np.logical_and.reduce(passing)
