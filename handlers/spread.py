"""What models of ratings, clicks and search are asked and answer, as counts to compare with training.

What is counted is what the artefact's `recsys.spread` tells of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from recsys.spread import Spread

# Of what, and in which bin.
Bin = tuple[str, str]


class Observable(Protocol):
    """A loaded model that tells what is to be counted."""

    @property
    def known(self) -> Mapping[str, int]:
        """By what is asked for by id, how many ids the model knows."""

    def seen(self, request: Any, answer: dict) -> Mapping[str, list]:
        """Of an answered request, what `recsys.spread.Spread.counts` takes, by what it is."""


class SpreadObserver:
    """Counts for one model.

    Parameters
    ----------
    model
        What answers.
    spread
        Of the same model.
    """

    def __init__(self, model: Observable, spread: Spread) -> None:
        self._model, self._spread = model, spread

    @property
    def expected(self) -> dict[Bin, float]:
        """The share of each bin, were all as in training."""
        return {
            (what, name): share
            for what, shares in self._spread.shares.items()
            for name, share in zip(self._spread.names(what), shares.tolist(), strict=True)
        }

    def counts(self, requests: Iterable[Any], answers: Iterable[Any]) -> Counter[Bin]:
        """How often each bin was met in a batch; a request that failed counts nothing."""
        seen: dict[str, list] = {what: [] for what in self._spread.shares}
        for request, answer in zip(requests, answers, strict=True):
            if not isinstance(answer, Exception):
                for what, values in self._model.seen(request, answer).items():
                    if what in seen:
                        seen[what] += values
        counts: Counter[Bin] = Counter()
        for what, values in seen.items():
            if values:
                found = self._spread.counts(what, np.array(values)).tolist()
                names = zip(self._spread.names(what), found, strict=True)
                counts.update({(what, name): count for name, count in names if count})
        return counts
