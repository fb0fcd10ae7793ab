"""Lexical search: BM25 over weighted fields, computed by bm25s."""

from __future__ import annotations

from collections.abc import Mapping

import bm25s
import numpy as np

from recsys.search.documents import Documents


class Lexical:
    """An index of the given fields.

    A field's weight repeats its words before BM25 saturates them, which scores a match in two
    fields once and not twice (Robertson, Zaragoza and Taylor, 2004, §3).

    Parameters
    ----------
    weights
        How often each field counts; fields that the documents do not have are passed over.
    """

    def __init__(self, docs: Documents, weights: Mapping[str, int]) -> None:
        self.size = len(docs.items)
        self.place = {word: place for place, word in enumerate(docs.vocabulary)}
        fields = [(docs.fields[name], weights[name]) for name in weights if name in docs.fields]
        corpus = [
            [word for field, weight in fields for word in weight * field.of(item).tolist()]
            for item in range(self.size)
        ]
        self.index = bm25s.BM25(k1=1.2, b=0.75)
        self.index.index((corpus, self.place), show_progress=False)

    def scores(self, query: list[str]) -> np.ndarray:
        """float32[items] BM25 of the query's words; 0 for an item that has none of them."""
        known = [self.place[word] for word in query if word in self.place]
        if not known:
            return np.zeros(self.size, np.float32)
        return self.index.get_scores(known)
