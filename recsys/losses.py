"""Losses of next-item prediction that look at a sample of the catalogue.

Both take the same arguments: hidden states float[rows, d], the item table float[items, d], targets
int64[rows], and one draw of negatives int64[n] that all rows share, so that the scores are a
matrix product. A negative that is a row's own target does not count in that row. The scores at
the places `biased` get `bias` added, as in `recsys.softmax`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.softmax import Places


class PopularitySampler:
    """Draws items in proportion to a power of their number of events.

    Parameters
    ----------
    counts
        int64[items] events of each item.
    power
        0 draws evenly; 0.75 is usual for words (Mikolov et al., 2013, §2.2).
    """

    def __init__(self, counts: np.ndarray, power: float) -> None:
        # Items without events can be drawn as well: the loss must see the whole catalogue.
        weights = (counts + 1.0) ** power
        chance = weights / weights.sum()
        self.log_chance = torch.from_numpy(np.log(chance)).float()
        self.cumulative = np.cumsum(chance)

    def draw(self, count: int, generator: np.random.Generator) -> Tensor:
        """int64[count] items, with repeats."""
        found = np.searchsorted(self.cumulative, generator.random(count))
        return torch.from_numpy(np.minimum(found, len(self.cumulative) - 1))


def sampled_softmax(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    negatives: Tensor,
    log_chance: Tensor,
    *,
    bias: Tensor | None = None,
    biased: Places | None = None,
) -> Tensor:
    """Softmax cross-entropy over a sample, corrected for how likely each item is to be drawn.

    A negative drawn with chance q in n draws stands for ``1 / (n q)`` items of its kind, so
    log(n q) is taken off its score (Yi et al., 2019, "Sampling-bias-corrected neural modeling",
    §4). The target is always there and needs no correction: in expectation the sum is the whole
    catalogue's.

    Parameters
    ----------
    log_chance
        float[items]: log of the chance that one draw gives the item.

    Returns
    -------
    Tensor
        Mean over the rows, in nats.
    """
    drawn, times = negatives.unique(return_counts=True)
    correction = times.log() - math.log(len(negatives)) - log_chance[drawn]
    at_target, others = _scores(hidden, table, targets, drawn, bias, biased)
    others = others + correction.to(others.dtype)
    return (torch.logaddexp(at_target, others.logsumexp(1)) - at_target).mean()


def generalised_bce(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    negatives: Tensor,
    calibration: float,
    *,
    bias: Tensor | None = None,
    biased: Places | None = None,
) -> Tensor:
    """Binary cross-entropy whose positive chance is raised to a power beta <= 1.

    Sampling makes a model overconfident by the share alpha of the catalogue that is drawn; beta
    takes that back (gBCE: Petrov and Macdonald, gSASRec, 2023, equations 5 and 8).

    The scores less log(items) are the log-odds, so that an item of score 0 is as likely as one at
    random (the prior of Lin et al., Focal loss, 2017, §3.3). As log-odds themselves they would all
    have to fall first, together, and epochs would go into nothing else.

    Parameters
    ----------
    negatives
        Drawn evenly; fewer than there are items.
    calibration
        t of the paper: 0 is plain binary cross-entropy (beta = 1), 1 calibrates fully.

    Returns
    -------
    Tensor
        Mean over the rows of a positive and its negatives together, in nats.
    """
    alpha = len(negatives) / (len(table) - 1)
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    drawn, times = negatives.unique(return_counts=True)
    prior = math.log(len(table))
    at_target, others = (
        scores - prior for scores in _scores(hidden, table, targets, drawn, bias, biased)
    )
    return (beta * F.softplus(-at_target) + (F.softplus(others) * times).sum(1)).mean()


def _scores(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    drawn: Tensor,
    bias: Tensor | None,
    biased: Places | None,
) -> tuple[Tensor, Tensor]:
    """float[rows] of the targets and float[rows, drawn] of the sorted negatives.

    A negative that is the row's target scores so low that it counts for nothing.
    """
    at_target = (hidden * table[targets]).sum(1)
    others = hidden @ table[drawn].T
    if bias is not None and biased is not None:
        rows, items = biased
        hit = targets[rows] == items
        at_target = at_target.index_put((rows[hit],), bias, accumulate=True)
        places, there = _places(drawn, rows, items)
        others = others.index_put(places, bias.expand(len(there)), accumulate=True)
    own, _ = _places(drawn, torch.arange(len(targets), device=targets.device), targets)
    lowest = others.new_tensor(torch.finfo(others.dtype).min)
    return at_target, others.index_put_(own, lowest)


def _places(drawn: Tensor, rows: Tensor, items: Tensor) -> tuple[Places, Tensor]:
    """Where (row, item) lie in the matrix over the drawn items: only of the items that were."""
    slots = torch.searchsorted(drawn, items).clamp_max_(len(drawn) - 1)
    there = (drawn[slots] == items).nonzero()[:, 0]
    return (rows[there], slots[there]), there
