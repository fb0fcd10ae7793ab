"""Which items an answer may hold: exact filters over the attributes of a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import polars as pl

# Filters whose masks, a byte an item, are kept for the next request with the same.
KEPT_MASKS = 64


class ItemFilters:
    """Filters of one vocabulary.

    An item of which something is not known passes no filter on it.

    Parameters
    ----------
    attributes
        A row an item, with those columns of `recsys.attributes.KINDS` that are known.
    """

    def __init__(self, attributes: pl.DataFrame) -> None:
        self.known = attributes.columns
        self._numbers = {
            name: attributes[name].fill_null(np.nan).to_numpy()
            for name in ("price", "stock") if name in self.known
        }  # fmt: skip
        if "category" in self.known:
            names = attributes["category"].unique().drop_nulls().to_list()
            self._places = {name: place for place, name in enumerate(names)}
            # Items without a category have the last place, which no name has.
            codes = attributes["category"].replace_strict(
                self._places, default=len(names), return_dtype=pl.Int32
            )
            self._categories = codes.to_numpy()
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
            if "category" not in self.known:
                raise KeyError("category")
            wanted = np.zeros(len(self._places) + 1, dtype=bool)
            wanted[[self._places[name] for name in categories if name in self._places]] = True
            passing.append(wanted[self._categories])
        return np.logical_and.reduce(passing)
