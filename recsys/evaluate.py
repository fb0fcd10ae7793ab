"""Full-ranking evaluation: every item competes, no sampled negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recsys.data.interactions import Interactions
from recsys.data.split import Split
from recsys.distributed import Workers
from recsys.errors import RecsysError
from recsys.model import SequentialRecommender

CUTOFF = 10


@torch.no_grad()
def evaluate(
    model: SequentialRecommender,
    interactions: Interactions,
    split: Split,
    *,
    part: Literal["validation", "test"],
    batch: int = 512,
) -> dict[str, float]:
    """Rank all items for each user and look where the held-out one lands.

    The model sees all events before the held-out one. The masked figures leave out the items of
    that history, as a shop would; a held-out item that the user had before then counts as missed.
    Ties count against the model.

    Parameters
    ----------
    interactions, split
        All events, and their `leave_one_out`.
    batch
        Users scored at a time; float[batch, items] is held in memory.

    Returns
    -------
    dict
        ``HR@10``, ``NDCG@10`` (masked), ``HR@10 unmasked``, ``NDCG@10 unmasked`` and ``users``, the
        number of users evaluated.

    Raises
    ------
    RecsysError
        When no user has a held-out event.
    """
    training = model.training
    model.eval()
    figures = _evaluate(
        lambda histories: model.scores(model.encode(histories)), interactions, split, part, batch
    )
    model.train(training)
    return figures


def popularity(
    interactions: Interactions, split: Split, *, part: Literal["validation", "test"]
) -> dict[str, float]:
    """The same figures for the ranking by number of training events: the least to be beaten."""
    counts = np.bincount(split.train.sequence, minlength=len(split.train.items))
    scores = torch.from_numpy(counts.astype(np.float32))
    return _evaluate(
        lambda histories: scores.expand(len(histories), -1), interactions, split, part, batch=512
    )


def _evaluate(
    score: Callable[[list[np.ndarray]], Tensor],
    interactions: Interactions,
    split: Split,
    part: str,
    batch: int,
) -> dict[str, float]:
    targets = split.validation_target if part == "validation" else split.test_target
    held_out = 2 if part == "validation" else 1
    users = np.flatnonzero(targets >= 0)
    if not len(users):
        raise RecsysError("no user has three events or more, so there is nothing to evaluate")
    ranks = []
    workers = Workers.current()
    own = workers.share(users)
    for start in range(0, len(own), batch):
        chosen = own[start : start + batch]
        histories = [interactions.of(user)[:-held_out] for user in chosen]
        wanted = torch.from_numpy(targets[chosen]).long()
        ranks.append(_ranks(score(histories).cpu(), wanted, histories))
    masked, unmasked = (
        workers.gather(torch.cat(part), len(users)) for part in zip(*ranks, strict=True)
    )
    return _metrics(masked, unmasked)


def _ranks(scores: Tensor, targets: Tensor, histories: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Ranks from 0, int64[B] each: with the history's items left out, and among all items."""
    at_target = scores.gather(1, targets[:, None])
    unmasked = (scores >= at_target).sum(1) - 1
    # Few items are seen: counting those that stand above is cheaper than masking the scores.
    seen = [np.unique(history).astype(np.int64) for history in histories]
    rows = torch.from_numpy(np.repeat(np.arange(len(seen)), [len(items) for items in seen]))
    columns = torch.from_numpy(np.concatenate(seen))
    above = (scores[rows, columns] >= at_target[rows, 0]).to(torch.int64)
    masked = unmasked - torch.zeros_like(unmasked).index_add_(0, rows, above)
    repeated = rows[columns == targets[rows]]
    masked[repeated] = scores.shape[1]
    return masked, unmasked


def _metrics(masked: Tensor, unmasked: Tensor) -> dict[str, float]:
    figures: dict[str, float] = {}
    for ranks, suffix in ((masked, ""), (unmasked, " unmasked")):
        hit = ranks < CUTOFF
        gain = torch.where(hit, 1 / torch.log2(ranks.double() + 2), 0.0)
        figures[f"HR@{CUTOFF}{suffix}"] = hit.double().mean().item()
        figures[f"NDCG@{CUTOFF}{suffix}"] = gain.mean().item()
    return figures | {"users": len(masked)}
