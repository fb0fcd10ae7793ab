"""Items to a history, and items like one; knows nothing of the server around it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from handlers.errors import BadRequest, UnknownItem
from handlers.requests import MOST_ITEMS, RecommendRequest, SimilarRequest, VectorRequest, Where
from handlers.stopwatch import Stopwatch
from recsys.diversity import diversified
from recsys.exact import barred, best_of, item_parts
from recsys.filters import Attributes, ItemFilters
from recsys.portable import is_portable, open_portable
from recsys.ranking import Ranker

if TYPE_CHECKING:
    from recsys.index import CosineIndex

# Users of one event, of whom it is asked what anybody would like, and scores held for that.
COLD_SAMPLE, COLD_SCORES = 1024, 64_000_000
# Diversity chooses among so many times the items wanted, but no more than `MOST_ITEMS`.
CANDIDATES = 5
MOST_CAUSES = 3

# Scores float[found] and items int64[found], the best first; -inf is a place left empty.
Found = tuple[np.ndarray, np.ndarray]


class Recommender:
    """Answers by a model.

    Parameters
    ----------
    runtime, items
        The model, and the ids of its items by index.
    attributes
        As `recsys.filters.ItemFilters` takes them; None where nothing is known of the items.
    """

    def __init__(
        self, runtime: Ranker, items: Sequence[str], attributes: Attributes | None
    ) -> None:
        self.runtime = runtime
        self.items = np.array(items, dtype=object)
        self.places = {item: place for place, item in enumerate(items)}
        self.filters = None if attributes is None else ItemFilters(attributes)
        self.cold = self._cold()
        # Norms only: the unit vectors themselves would double the memory of a large catalogue.
        norms = [np.linalg.norm(rows, axis=1) for rows in self._parts()]
        self.norms = np.maximum(np.concatenate(norms), 1e-12)
        self.cosines: CosineIndex | None = None

    @classmethod
    def open(cls, folder: Path) -> Recommender:
        """Load a stored model, accelerated or not, or one made portable, without torch then.

        Raises
        ------
        RecsysError
            The model is not usable.
        """
        if is_portable(folder):
            return cls(*open_portable(folder))
        # Where a portable model is served there is no torch.
        from recsys.accelerate.runtime import open_runtime
        from recsys.attributes import columns_of
        from recsys.index import EXACT_BELOW, CosineIndex

        # A worker that takes the place of one that died is ready sooner.
        runtime, items = open_runtime(folder, keep_index=True)
        recommender = cls(runtime, items, columns_of(folder, items))
        if len(items) >= EXACT_BELOW:
            recommender.cosines = CosineIndex(runtime.index, recommender.norms)
        return recommender

    def example(self) -> RecommendRequest:
        """A user with a long history."""
        return RecommendRequest(history=tuple(self.items[:50]), k=10)

    def answer(
        self, requests: list[RecommendRequest | SimilarRequest | VectorRequest], watch: Stopwatch
    ) -> list[dict | Exception]:
        """Answer each request with ``{"items": [{"item", "score"}]}``, the best first.

        There are fewer than `k` items only where no more pass the filters, or, in a vocabulary that
        is searched approximately and without a filter, where the search found no more.

        Raises
        ------
        FloatingPointError
            The model gives scores that are no numbers.
        """
        methods: dict[type, Callable[..., list[dict | Exception]]] = {
            RecommendRequest: self._recommend,
            SimilarRequest: self._similar,
            VectorRequest: self._by_vector,
        }
        answers: list[dict | Exception] = [{}] * len(requests)
        groups: dict[tuple, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            method = methods[type(request)]
            if isinstance(request, SimilarRequest) and request.item not in self.places:
                answers[place] = UnknownItem("The model does not know the item.")
            else:
                exclude = isinstance(request, RecommendRequest) and request.exclude_seen
                groups[method, exclude, request.where or None].append(place)
        # What the same filters bar is searched together.
        for (method, _, where), places in groups.items():
            try:
                allowed = self._allowed(where)
            except BadRequest as error:
                found = [error] * len(places)
            else:
                found = method([requests[place] for place in places], allowed, watch)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def _allowed(self, where: Where | None) -> np.ndarray | None:
        """bool[items] that pass the filters; None where there are none."""
        if where is None:
            return None
        try:
            if self.filters is None:
                raise KeyError("attribute")
            return self.filters.mask(**dict(where))
        except KeyError as error:
            raise BadRequest(
                f"The model knows no {error.args[0]} of its items, and cannot filter by it: train "
                "it on data with a catalogue that has it."
            ) from None

    def _recommend(
        self, requests: list[RecommendRequest], allowed: np.ndarray | None, watch: Stopwatch
    ) -> list[dict]:
        """Answers to requests that all leave out what was seen, or that all do not."""
        get = self.places.get
        histories = [
            np.array([place for item in request.history if (place := get(item)) is not None])
            for request in requests
        ]
        warm = [row for row, history in enumerate(histories) if len(history)]
        found: dict[int, Found] = {}
        if warm:
            known = [histories[row] for row in warm]
            most = max(_candidates(requests[row]) for row in warm)
            seen = not requests[0].exclude_seen
            if self.runtime.one_step and len(warm) == 1 and allowed is None:
                with watch("model"):
                    found[warm[0]] = self.runtime.one_step(known[0], most, seen)
            else:
                with watch("model"):
                    states = self.runtime.encode(known)
                with watch("search"):
                    values, places = self.runtime.rank(
                        states, known, most, allowed=allowed, seen=seen
                    )
                found = dict(zip(warm, zip(values, places, strict=True)))
        answers = []
        for row, request in enumerate(requests):
            values, places = found[row] if row in found else self._anybodys(request, allowed)
            kept = np.isfinite(values)
            if not kept.all():
                if not np.isneginf(values[~kept]).all():
                    raise FloatingPointError("the model's scores are not finite")
                values, places = values[kept], places[kept]
            if request.diversity:
                pool = slice(_candidates(request))
                vectors = self.runtime.index.rows(places[pool])
                order = diversified(values[pool], vectors, request.k, request.diversity)
                values, places = values[order], places[order]
            values, places = values[: request.k], places[: request.k]
            rows = self._named(values, places)
            if request.explain:
                with watch("explain"):
                    causes = self._causes(histories[row], values, places)
                rows = [found | {"because": why} for found, why in zip(rows, causes, strict=True)]
            answers.append({"items": rows})
        return answers

    def _anybodys(self, request: RecommendRequest, allowed: np.ndarray | None) -> Found:
        """What to show to a user without a known item: the items that are likely for anybody."""
        scores = self.cold if allowed is None else np.where(allowed, self.cold, -np.inf)
        most = min(_candidates(request), len(scores))
        best = np.argpartition(-scores, most - 1)[:most]
        best = best[np.argsort(-scores[best], kind="stable")]
        return scores[best], best

    def _similar(
        self, requests: list[SimilarRequest], allowed: np.ndarray | None, watch: Stopwatch
    ) -> list[dict]:
        """The items with the largest cosine; in large catalogues as an index of them finds them."""
        most = max(request.k for request in requests)
        with watch("search"):
            own = np.array([self.places[request.item] for request in requests])
            if self.cosines:
                values, places = self.cosines.search(own, most, allowed)
            else:
                rows = self.runtime.index.rows(own) / self.norms[own][:, None]
                cosines = np.concatenate([rows @ part.T for part in self._parts()], 1) / self.norms
                barred(cosines, allowed)
                cosines[np.arange(len(own)), own] = -np.inf
                values, places = best_of(cosines, most)
        if np.isnan(values).any():
            raise FloatingPointError("the model's vectors are not finite")
        kept = [np.isfinite(row)[: r.k].nonzero()[0] for row, r in zip(values, requests)]
        return [
            {"items": self._named(values[row, k], places[row, k])} for row, k in enumerate(kept)
        ]

    def _by_vector(
        self, requests: list[VectorRequest], allowed: np.ndarray | None, watch: Stopwatch
    ) -> list[dict | Exception]:
        """The items with the largest products with vectors whose histories nobody here knows."""
        width = self.runtime.index.rows(np.zeros(1, dtype=np.int64)).shape[1]
        answers: list[dict | Exception] = []
        for request in requests:
            if len(request.vector) != width:
                answers.append(
                    BadRequest(f"vector must have {width} numbers, not {len(request.vector)}.")
                )
                continue
            with watch("search"):
                state = np.array([request.vector], dtype=np.float32)
                values, places = self.runtime.index.search(state, request.k, allowed)
            if np.isnan(values).any():
                raise FloatingPointError("the model's vectors are not finite")
            kept = np.isfinite(values[0]).nonzero()[0][: request.k]
            answers.append({"items": self._named(values[0, kept], places[0, kept])})
        return answers

    def _named(self, values: np.ndarray, places: np.ndarray) -> list[dict]:
        return [
            {"item": item, "score": score}
            for item, score in zip(self.items[places], values.tolist(), strict=True)
        ]

    def _causes(
        self, history: np.ndarray, values: np.ndarray, places: np.ndarray
    ) -> list[list[dict]]:
        """For each item of an answer, the past items without which its score is lower.

        Each past item is taken out of the history, and what is left is scored anew: what is
        reported is what the model does, as in `recsys.explain`, for one item at a time.
        """
        past = list(dict.fromkeys(history[-self.runtime.length :].tolist()))
        if len(past) < 2:
            return [[] for _ in places]  # nothing is left to score
        rest = [history[history != item] for item in past]
        rows = self.runtime.index.rows(places)
        without = self.runtime.encode(rest) @ rows.T
        # float[past, items]: of an item that the history holds, all but its own removal keep this.
        had = np.isin(places, history) & (places != np.array(past)[:, None])
        drops = values - (without + self.runtime.seen_bias * had)
        causes = []
        for column in drops.T:
            best = np.argsort(-column, kind="stable")[:MOST_CAUSES]
            causes.append(
                [{"item": self.items[past[b]], "score_drop": float(column[b])}
                 for b in best if column[b] > 0]
            )  # fmt: skip
        return causes

    def _cold(self) -> np.ndarray:
        """float32[items]: how likely each item is for anybody.

        The log of an item's chance after one event, averaged over events. An artefact holds no
        counts; averaged over what a first event may be, the model's own predictions favour what is
        popular. A large vocabulary is sampled evenly.
        """
        size = len(self.items)
        sample = min(size, max(16, min(COLD_SAMPLE, COLD_SCORES // size)))
        firsts = np.unique(np.linspace(0, size - 1, sample).astype(np.int64))
        chance = np.zeros(size, dtype=np.float32)
        for part in np.array_split(firsts, -(-len(firsts) // 16)):
            states = self.runtime.encode([[first] for first in part.tolist()])
            scores = np.concatenate([states @ rows.T for rows in self._parts()], 1)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            chance += (scores / scores.sum(axis=1, keepdims=True)).sum(axis=0)
        with np.errstate(divide="ignore"):
            return np.maximum(np.log(chance / len(firsts)), np.float32(-1e30))

    def _parts(self) -> Iterator[np.ndarray]:
        """float[some, d]: all items' vectors, in order."""
        return map(self.runtime.index.rows, item_parts(len(self.items)))


def _candidates(request: RecommendRequest) -> int:
    """How many items to find for a request."""
    if not request.diversity:
        return request.k
    return max(request.k, min(MOST_ITEMS, CANDIDATES * request.k))
