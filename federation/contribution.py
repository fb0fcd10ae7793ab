"""What a site's updates were worth: each round reckoned again without it.

Exact for one round, since the other sites trained without knowing of it: the model that the round
would have made is at hand. What the site brought over several rounds is more than the sum, as its
updates also changed what the others learnt from; that takes a run without it
(:mod:`federation.unlearning`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from federation.errors import FederationError
from federation.strategies.buffered import FedBuff
from federation.strategies.make import Strategy
from federation.updates import Update, Weights


def contributions(
    initial: Weights,
    rounds: Iterable[tuple[int, list[Update]]],
    strategy: Strategy,
    quality: Callable[[Weights], float],
) -> list[dict[str, float]]:
    """Leave one site out of each round.

    Parameters
    ----------
    initial : dict of str to ndarray
        Weights before the first round.
    rounds : iterable of (int, list of Update)
        See :func:`federation.ledger.rounds_kept`.
    strategy : Strategy
        The run's.
    quality : callable
        How good a model is, such as its NDCG@10 on held-out users; higher is better. Called once a
        round and once more for each site that trained in it.

    Returns
    -------
    list of dict
        A round's contributions by site: quality of its model less that of the model without the
        site. Without its only site, or one that the strategy cannot do without, the model stays.
    """
    weights, state = initial, {}
    found = []
    for _, updates in rounds:
        whole, memory = strategy.aggregate(weights, updates, state)
        reached = quality(whole)
        found.append(
            {
                site: reached - quality(_without(site, weights, updates, strategy, state))
                for site in sorted({update.site for update in updates})
            }
        )
        weights, state = whole, memory
    return found


def _without(
    site: str, weights: Weights, updates: list[Update], strategy: Strategy, state: Weights
) -> Weights:
    others = [update for update in updates if update.site != site]
    if not others:
        return weights
    if isinstance(strategy, FedBuff):
        # Its mean is over the whole buffer: what is taken out leaves a gap that moves nothing.
        others += [replace(update, delta={}) for update in updates if update.site == site]
    try:
        return strategy.aggregate(weights, others, state)[0]
    except FederationError:  # such as Krum, which needs so many
        return weights
