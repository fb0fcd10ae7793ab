"""What models of ratings, clicks and search are asked and answer on data that they were tested with.

The `seen` of each of their handlers counts the same of requests and answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from recsys.click import ClickModel, split_log
from recsys.profile import SAMPLE, popularity_bands
from recsys.rating import RatingModel, split_ratings
from recsys.search.ranker import SearchModel
from recsys.search.words import words
from recsys.spread import (
    ITEMS,
    LENGTH,
    PREDICTED,
    SCORES,
    TOP,
    USERS,
    WORDS,
    Spread,
    contexts,
    spread_of,
    tenths,
)

# Queries of one word, two, three, four and five, and longer ones.
LENGTHS = np.array([2.0, 3.0, 4.0, 6.0])


def rating_spread(model: RatingModel, ratings: pl.DataFrame) -> Spread:
    """Users and items by how many ratings they had, and what is predicted for the test part.

    Parameters
    ----------
    ratings
        All that the model was trained and tested with.
    """
    train, _, test = split_ratings(ratings, model.recipe.seed)
    bands, seen = {}, {}
    for what, column, index in (
        (USERS, "user", model.user_index),
        (ITEMS, "item", model.item_index),
    ):
        bands[what] = popularity_bands(_counts(train[column].to_list(), index))
        seen[what] = _places(test[column].to_list(), index)
    seen[PREDICTED] = model.predict(test["user"].to_list(), test["item"].to_list())
    return spread_of(bands, {PREDICTED: tenths(seen[PREDICTED])}, seen)


def click_spread(model: ClickModel, impressions: pl.DataFrame) -> Spread:
    """Items and values of features by how often they were shown, and what is predicted.

    That is of the test part, as if all were shown where the handler says when nobody tells it.

    Parameters
    ----------
    impressions
        All that the model was trained and tested with.
    """
    train, _, test = split_log(impressions)
    bands, seen = {}, {}
    for name, what in {"item": ITEMS, **contexts(model.recipe.features)}.items():
        index = model.places[name]
        bands[what] = popularity_bands(_counts(_texts(train, name), index))
        seen[what] = _places(_texts(test, name), index)
    first = model.vocabularies["position"][0]
    seen[PREDICTED] = model.predict(test.with_columns(pl.lit(first).alias("position")))
    return spread_of(bands, {PREDICTED: tenths(seen[PREDICTED])}, seen)


def search_spread(model: SearchModel, queries: Sequence[str]) -> Spread | None:
    """Words of queries by how often the catalogue has them, words in a query, scores of results.

    Parameters
    ----------
    queries
        That people typed. None of them has a word: nothing is known then.
    """
    chosen = np.unique(np.linspace(0, len(queries) - 1, SAMPLE).astype(np.int64))
    typed = {queries[place]: words(queries[place]) for place in chosen.tolist()} if queries else {}
    typed = {query: found for query, found in typed.items() if found}
    if not typed:
        return None
    index = {word: place for place, word in enumerate(model.docs.vocabulary, start=1)}
    tokens = np.concatenate([field.tokens for field in model.docs.fields.values()])
    scores = [row.score for query in typed for row in model.search(query, TOP)]
    seen = {
        WORDS: _places([word for found in typed.values() for word in found], index),
        LENGTH: np.array([len(found) for found in typed.values()]),
        SCORES: np.array(scores),
    }
    bands = {WORDS: popularity_bands(np.bincount(tokens, minlength=len(index)))}
    return spread_of(bands, {LENGTH: LENGTHS, SCORES: tenths(seen[SCORES])}, seen)


def _texts(log: pl.DataFrame, name: str) -> list[str | None]:
    return log[name].cast(pl.String).to_list()


def _places(ids: Sequence[str | None], index: dict[str, int]) -> np.ndarray:
    """int64[ids] places, of an index that counts from 1; -1 for what it does not know."""
    return np.array([index.get(each, 0) for each in ids], dtype=np.int64) - 1


def _counts(ids: Sequence[str | None], index: dict[str, int]) -> np.ndarray:
    """int64[known ids]: how often each is there."""
    return np.bincount(_places(ids, index) + 1, minlength=len(index) + 1)[1:]
