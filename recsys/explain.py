"""Why an item was recommended: which past events caused it, shown by taking them away.

An explanation here is counterfactual: the smallest set of a user's own events that was found
without which the model no longer has the item among its first k (Ghazimatin et al., PRINCE, 2020;
Tran et al., ACCENT, 2021). Those methods estimate what a removal does, because a graph walk or
a retrained factorisation is dear; a sequential model reads its history anew for every request, so
each removal is simply scored, and what is reported is what the model does. Integrated gradients
stand beside it: what the score owes to each event by its slope, without removing anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb, inf, isfinite

import numpy as np
import torch
from torch import Tensor

from recsys.errors import RecsysError
from recsys.model import SequentialRecommender
from recsys.packing import Windows, pack

# Removals scored to prove that no smaller set does it: all sets of up to two events of a history
# of 50, up to four of 15.
EXHAUSTIVE = 2000
# Scores held at a time (64 MiB), whatever the size of the catalogue.
SCORES_IN_FLIGHT = 16 * 1024 * 1024
# Points on the path of the integral: doubled from the fewest until completeness holds.
FEWEST_STEPS, MOST_STEPS = 32, 1024
TOLERANCE = 1e-3


@dataclass(frozen=True)
class EventEffect:
    """What one past event does for the recommended item.

    Attributes
    ----------
    place, item
        Where in the history, from 0, and which item.
    score_drop
        Score of the recommended item with the whole history, less that without this event.
    rank
        Rank of the recommended item, from 1, without this event.
    attribution
        The event's integrated gradient.
    """

    place: int
    item: int
    score_drop: float
    rank: int
    attribution: float


@dataclass(frozen=True)
class Counterfactual:
    """A set of events without which the item is not among the first k.

    Attributes
    ----------
    places
        Where in the history the removed events are.
    score, rank
        Of the explained item without them; the rank is above k.
    successor
        The item that is among the first k instead: the best that was not before.
    smallest
        Whether every smaller set was tried and none does it.
    """

    places: tuple[int, ...]
    score: float
    rank: int
    successor: int
    smallest: bool


@dataclass(frozen=True)
class Explanation:
    """Why `item` is among a user's first `k`.

    Attributes
    ----------
    score, rank
        Of the item with the whole history; ranks are from 1.
    effects
        One for each event that the model sees, oldest first.
    counterfactual
        None where no set was found: the item stands whatever is removed.
    completeness_gap
        How far the attributions are from summing to the change in score from the baseline, as a
        share of it; above `TOLERANCE` they are not to be trusted.
    """

    item: int
    k: int
    score: float
    rank: int
    effects: list[EventEffect]
    counterfactual: Counterfactual | None
    completeness_gap: float


@dataclass(frozen=True)
class _Outcome:
    """Standing of the item after a removal; it is out of the first k where `margin` is not above 0.

    `margin` is its score less that of the k-th best other item.
    """

    score: float
    rank: int
    margin: float


class _Removals:
    """Scores a history without some of its events, each set once.

    The items of the whole history stay out of the ranking, also those whose events are removed:
    otherwise a removed item would take the explained one's place, and that explains nothing.
    """

    def __init__(
        self, model: SequentialRecommender, history: np.ndarray, item: int, k: int
    ) -> None:
        self._model, self._history, self._item, self._k = model, history, item, k
        self._barred = torch.from_numpy(np.append(np.unique(history), item))
        self._known: dict[tuple[int, ...], _Outcome] = {}

    def __getitem__(self, places: tuple[int, ...]) -> _Outcome:
        self.score([places])
        return self._known[places]

    def score(self, removals: Iterable[tuple[int, ...]]) -> None:
        """Score all the given sets (places in rising order), in batches."""
        new = (places for places in removals if places not in self._known)
        most = max(1, SCORES_IN_FLIGHT // self._model.items)
        while batch := list(islice(new, most)):
            own, others = self._scores(batch)
            ranks = 1 + (others >= own[:, None]).sum(1)
            margins = torch.full_like(own, inf)
            if self._k <= others.shape[1]:
                margins = own - others.topk(self._k).values[:, -1]
            rows = zip(own.tolist(), ranks.tolist(), margins.tolist(), strict=True)
            self._known.update(zip(batch, (_Outcome(*row) for row in rows), strict=True))

    def most_harmful(self, removals: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
        """The one of the given sets without which the item stands worst."""
        sets = list(removals)
        self.score(sets)
        return min(sets, key=lambda places: self._known[places].margin)

    def successor(self, places: tuple[int, ...]) -> int:
        """The best competitor that is among the first k without the events and not with them."""
        _, scores = self._scores([(), places])
        before, after = scores.topk(self._k).indices.tolist()
        return next(item for item in after if item not in before[: self._k - 1])

    @torch.inference_mode()
    def _scores(self, removals: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """float[B] of the item, float[B, items] of its competitors and -inf of all others."""
        rest = [np.delete(self._history, list(places)) for places in removals]
        scores = self._model.scores(self._model.encode(rest))
        own = scores[:, self._item].clone()
        scores[:, self._barred] = -inf
        return own, scores


def explain(
    model: SequentialRecommender, history: Sequence[int] | np.ndarray, item: int, k: int = 10
) -> Explanation:
    """Find which events of a history put an item among the model's first k.

    Items of the history are not recommended again. Ties count against the item. Where the history
    is longer than the model sees, an older event moves up for each that is removed, as it would
    when the user is served without it.

    Parameters
    ----------
    history
        Item indices, oldest first.
    item
        Index of the recommended item.

    Raises
    ------
    RecsysError
        When the item is not among the first k, or was seen before, or the history has fewer than
        two events, so that nothing is left once one is removed.
    """
    history = np.asarray(history, dtype=np.int64)
    if not 0 <= item < model.items:
        raise RecsysError(f"no item {item}: the model knows the items 0 to {model.items - 1}")
    if item in history:
        raise RecsysError("the item is in the user's history, and what was seen is not recommended")
    if len(history) < 2:
        raise RecsysError(
            f"the history has {len(history)} events: with fewer than two there is none to remove"
        )
    training = model.training
    model.eval()
    try:
        removals = _Removals(model, history, item, k)
        whole = removals[()]
        if not isfinite(whole.score):
            raise RecsysError(f"the model's score is {whole.score}: train it again")
        if whole.rank > k:
            raise RecsysError(
                f"the item is at rank {whole.rank}, not among the first {k}: "
                "there is no recommendation to explain"
            )
        places = list(range(max(0, len(history) - model.length), len(history)))
        removals.score((place,) for place in places)
        attributions, gap = integrated_gradients(model, history, item)
        effects = [
            EventEffect(
                place=place,
                item=int(history[place]),
                score_drop=whole.score - removals[place,].score,
                rank=removals[place,].rank,
                attribution=float(attribution),
            )
            for place, attribution in zip(places, attributions, strict=True)
        ]
        found = _smallest_set(removals, places, len(history))
    finally:
        model.train(training)
    return Explanation(item, k, whole.score, whole.rank, effects, found, gap)


def _smallest_set(removals: _Removals, places: list[int], events: int) -> Counterfactual | None:
    """The smallest set found: a greedy one, then all smaller ones as far as `EXHAUSTIVE` goes."""
    # One event must remain: the model has nothing to say of a user without any.
    most = min(len(places), events - 1)
    chosen = _greedy_set(removals, places, most)
    smallest, left = True, EXHAUSTIVE
    for size in range(1, len(chosen) if chosen else most + 1):
        left -= comb(len(places), size)
        if left < 0:
            smallest = False
            break
        best = removals.most_harmful(combinations(places, size))
        if removals[best].margin <= 0:
            chosen = best
            break
    if chosen is None:
        return None
    outcome = removals[chosen]
    successor = removals.successor(chosen)
    return Counterfactual(chosen, outcome.score, outcome.rank, successor, smallest)


def _greedy_set(removals: _Removals, places: list[int], most: int) -> tuple[int, ...] | None:
    """Remove what helps the item most until it is out; then put back what was not needed."""
    chosen: tuple[int, ...] = ()
    while removals[chosen].margin > 0:
        if len(chosen) == most:
            return None
        left = (place for place in places if place not in chosen)
        chosen = removals.most_harmful(tuple(sorted((*chosen, place))) for place in left)
    while len(chosen) > 1:
        fewer = removals.most_harmful(combinations(chosen, len(chosen) - 1))
        if removals[fewer].margin > 0:
            break
        chosen = fewer
    return chosen


def integrated_gradients(
    model: SequentialRecommender, history: Sequence[int] | np.ndarray, item: int
) -> tuple[np.ndarray, float]:
    """What an item's score owes to each event (Sundararajan et al., 2017, §3).

    The path leads from the mean item embedding in every place, an event of which nothing is known,
    straight to the events' own embeddings; positions stay as they are. The integral is taken by
    Gauss-Legendre quadrature, with twice the points until the attributions sum to the change in
    score (their completeness axiom) within `TOLERANCE` of it, or `MOST_STEPS` are used up.

    Parameters
    ----------
    history
        Item indices, oldest first; only the latest `model.length` count.

    Returns
    -------
    tuple
        float64[events seen] in units of the score, and the gap to completeness as a share of the
        change in score.
    """
    seen = np.asarray(history, dtype=np.int64)[-model.length :]
    steps = FEWEST_STEPS
    while True:
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        # Points on [0, 1], with the two ends, whose weight is 0, to know the change in score.
        along = torch.tensor([0.0, *(nodes + 1) / 2, 1.0], dtype=torch.float32)
        share = torch.tensor([0.0, *weights / 2, 0.0], dtype=torch.float32)
        scores, path_gradients, difference = _along_path(model, seen, item, along)
        slope = torch.einsum("s,sed->ed", share.double(), path_gradients.double())
        attributions = (slope * difference.double()).sum(1)
        change = (scores[-1] - scores[0]).double()
        gap = float((attributions.sum() - change).abs() / change.abs().clamp_min(1e-12))
        if gap <= TOLERANCE or 2 * steps > MOST_STEPS:
            return attributions.numpy(), gap
        steps *= 2


def _along_path(
    model: SequentialRecommender, seen: np.ndarray, item: int, along: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores float[steps], gradients float[steps, events, d] and the path float[events, d]."""
    steps, events = len(along), len(seen)
    starts = np.arange(steps, dtype=np.int64) * events
    windows = Windows(np.tile(seen, steps), starts, np.full(steps, events, dtype=np.int64))
    packed, _ = pack(windows, np.arange(steps))
    table = model.output_table.detach()
    start = table.mean(0)
    difference = table[torch.from_numpy(seen)] - start
    points = (start + along[:, None, None] * difference).requires_grad_()

    # The model's own forward pass, over a table whose rows are the points of the path.
    packed.items.copy_(torch.arange(steps * events))
    scores = model(packed, table=points.flatten(0, 1))[packed.last] @ table[item]
    (gradients,) = torch.autograd.grad(scores.sum(), points)
    return scores.detach(), gradients, difference
