"""What a recommender is asked and what it answers, as counts to compare with its training.

Items are counted by bands of popularity (see `recsys.profile`): those of histories, of events that
are posted, and of what is recommended to users with a history where nothing is filtered. That is
what the profile of the model tells, so that other shares mean drift. Models of other kinds are
observed by `handlers.spread`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from handlers.fresh import FreshRecommender
from handlers.requests import EventsRequest, RecommendRequest
from handlers.spread import Bin, SpreadObserver
from recsys.profile import BANDS, HISTORY, RECOMMENDED, Profile, read_profile
from recsys.spread import read_spread

EVENTS, LENGTH = "events", "length"
UNKNOWN = "unknown"
BINS = (*map(str, range(BANDS)), UNKNOWN)
# Lower bounds of the bins of `LENGTH`, the number of events that the model could make use of.
LENGTHS = (50, 20, 10, 5, 2, 1, 0)
# As many of a list as the profile tells of.
TOP = 10


class Observer:
    """Counts for one model.

    Parameters
    ----------
    model
        What answers.
    profile
        The profile of the same model.
    """

    def __init__(self, model: FreshRecommender, profile: Profile) -> None:
        self._length, self._places = model.model.runtime.length, model.model.places
        # An item that the model does not know has the place -1, the last one's.
        self._bands = bytes([*profile.bands.tolist(), len(BINS) - 1])
        self._shares = profile.shares

    @property
    def expected(self) -> dict[Bin, float]:
        """The share of each bin, were all as in training; of `LENGTH` nothing is expected."""
        history, recommended = self._shares[HISTORY], self._shares[RECOMMENDED]
        return {
            (what, name): share
            for what, shares in ((HISTORY, history), (EVENTS, history), (RECOMMENDED, recommended))
            for name, share in zip(BINS, (*shares.tolist(), 0.0), strict=True)
        }

    def counts(self, requests: Iterable[Any], answers: Iterable[Any]) -> Counter[Bin]:
        """How often each bin was met in a batch; a request that failed counts nothing."""
        # Lists are short: arrays would take longer to make than to count by.
        counts: Counter[Bin] = Counter()
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, Exception):
                continue
            if isinstance(request, EventsRequest):
                events = self._bins(event.item for event in request.events)
                counts.update((EVENTS, name) for name in events)
            elif isinstance(request, RecommendRequest):
                history = self._bins(request.history)
                counts.update((HISTORY, name) for name in history[-self._length :])
                known = len(history) - history.count(UNKNOWN) + answer.get("fresh_events", 0)
                counts[LENGTH, str(next(bound for bound in LENGTHS if known >= bound))] += 1
                if known and not request.where and not request.diversity:
                    found = self._bins(row["item"] for row in answer["items"][:TOP])
                    counts.update((RECOMMENDED, name) for name in found)
        return counts

    def _bins(self, items: Iterable[str]) -> list[str]:
        """The bin of each item."""
        return [BINS[self._bands[self._places.get(item, -1)]] for item in items]


def observer_of(model: Any, folder: Path) -> Observer | SpreadObserver | None:
    """The observer of a model loaded from a folder; None where nothing is known of its training.

    Raises
    ------
    RecsysError
        What is known is damaged.
    """
    if not isinstance(model, FreshRecommender):
        spread = read_spread(folder, model.known)
        return None if spread is None else SpreadObserver(model, spread)
    profile = read_profile(folder, len(model.model.items))
    return None if profile is None else Observer(model, profile)
