"""Full-ranking evaluation: every item competes, no sampled negatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from recsys.data.interactions import Interactions
from recsys.data.split import Split
from recsys.distributed import Workers
from recsys.errors import RecsysError
from recsys.model import SequentialRecommender

if TYPE_CHECKING:
    from recsys.loop import Progress

CUTOFF = 10
# Scores of a batch of users in memory: 64 MiB, several times, as they are compared.
MOST_SCORES = 2**24
# Behind the name of a figure for which the items of the history compete too.
UNMASKED = " unmasked"


@dataclass(frozen=True)
class Ranking:
    """How a model ranks the catalogue for each user.

    Attributes
    ----------
    ranks
        float64[users] place of the target from 0, infinite where it cannot be shown; ties count
        against the model.
    recommended
        int64[users, k] items, the best first, -1 where fewer than k can be shown.
    correct
        bool[users] whether the item on top is the target.
    confidence
        float64[users] softmax probability of the item on top.
    above, including
        float64[users] joint probability of the items with higher scores than the target, and of
        these with the target and its equals; both 1 where the target cannot be shown.
    """

    ranks: np.ndarray
    recommended: np.ndarray
    correct: np.ndarray
    confidence: np.ndarray
    above: np.ndarray
    including: np.ndarray


@dataclass(frozen=True)
class Rankings:
    """Every evaluated user, with the items of the history left out and among all items.

    Attributes
    ----------
    k
        Length of the lists.
    users, targets, events_before
        int64[users] index of the user, index of the held-out item, and number of events before it.
    item_events
        int64[items] training events of each item.
    masked, unmasked
        What the model does without and with the items of the history.
    """

    k: int
    users: np.ndarray
    targets: np.ndarray
    events_before: np.ndarray
    item_events: np.ndarray
    masked: Ranking
    unmasked: Ranking


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
        Users scored at a time; fewer where the catalogue is large (`MOST_SCORES`).

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
    figures = _evaluate(model.scorer(), interactions, split, part, batch)
    model.train(training)
    return figures


def popularity(
    interactions: Interactions, split: Split, *, part: Literal["validation", "test"]
) -> dict[str, float]:
    """The same figures for the ranking by number of training events: the least to be beaten."""
    scores = torch.from_numpy(_events(split).astype(np.float32))
    return _evaluate(
        lambda histories: scores.expand(len(histories), -1), interactions, split, part, batch=512
    )


@torch.no_grad()
def rank(
    model: SequentialRecommender,
    interactions: Interactions,
    split: Split,
    *,
    part: Literal["validation", "test"],
    k: int = CUTOFF,
    batch: int = 512,
    progress: Progress | None = None,
) -> Rankings:
    """Rank all items for each user as `evaluate` does, and keep what the whole report needs.

    Raises
    ------
    RecsysError
        When no user has a held-out event, or the model's scores are not finite.
    """
    training = model.training
    model.eval()
    rankings: list[tuple[Ranking, Ranking]] = []
    users, targets, events_before = [], [], []
    evaluated, score = evaluated_users(split, part), model.scorer()
    for chosen, wanted, histories in _batches(evaluated, interactions, split, part, batch):
        scores = score(histories).cpu()
        if not scores.isfinite().all():
            raise RecsysError(
                "the model's scores are not finite, so it ranks nothing: it has diverged; "
                "train it again with a lower learning rate"
            )
        unmasked = _ranking(scores, wanted, k)
        scores[_seen(histories)] = -torch.inf
        rankings.append((_ranking(scores, wanted, k), unmasked))
        users.append(chosen)
        targets.append(wanted.numpy())
        events_before += map(len, histories)
        if progress:
            done, count = len(events_before), len(evaluated)
            progress(done, count, f"{done} of {count} users ranked")
    model.train(training)
    masked, unmasked = (_joined(parts) for parts in zip(*rankings, strict=True))
    return Rankings(
        k=k,
        users=np.concatenate(users),
        targets=np.concatenate(targets),
        events_before=np.array(events_before),
        item_events=_events(split),
        masked=masked,
        unmasked=unmasked,
    )


def _joined(parts: Sequence[Ranking]) -> Ranking:
    return Ranking(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Ranking)
        }
    )


def _ranking(scores: Tensor, targets: Tensor, k: int) -> Ranking:
    """Of scores float[B, items], minus infinity at items that must not be shown."""
    at_target = scores.gather(1, targets[:, None])
    missed = at_target[:, 0].isneginf()
    lower = scores < at_target
    ranks = (scores.shape[1] - 1 - lower.sum(1)).double().masked_fill_(missed, torch.inf)
    best, recommended = scores.topk(min(k, scores.shape[1]))
    recommended.masked_fill_(best.isneginf(), -1)
    # Nothing can be shown to a user who had everything; the softmax is then no number.
    probability = scores.softmax(1).nan_to_num_(0.0)
    confidence = probability.amax(1).double()
    including = probability.masked_fill(lower, 0.0).sum(1).double().masked_fill_(missed, 1.0)
    above = probability.masked_fill_(scores <= at_target, 0.0).sum(1).double()
    above.masked_fill_(missed, 1.0)
    return Ranking(
        ranks=ranks.numpy(),
        recommended=recommended.numpy(),
        correct=(recommended[:, 0] == targets).numpy(),
        confidence=confidence.numpy(),
        above=above.numpy(),
        including=including.numpy(),
    )


def _evaluate(
    score: Callable[[list[np.ndarray]], Tensor],
    interactions: Interactions,
    split: Split,
    part: str,
    batch: int,
) -> dict[str, float]:
    workers, users = Workers.current(), evaluated_users(split, part)
    ranks = [
        _ranks(score(histories).cpu(), targets, histories)
        for _, targets, histories in _batches(
            workers.share(users), interactions, split, part, batch
        )
    ]
    masked, unmasked = (
        workers.gather(torch.cat(part), len(users)) for part in zip(*ranks, strict=True)
    )
    return _metrics(masked, unmasked)


def deciding_figure(interactions: Interactions, split: Split) -> str:
    """Which figure of `evaluate` tells a better model from a worse one on these data.

    The items of the history are left out of the ranking, but where most held-out items (of the
    validation) are among them: of people who come back for what they had, that figure would see
    hardly any.
    """
    users = evaluated_users(split, "validation")
    had = [split.validation_target[user] in interactions.of(user)[:-2] for user in users]
    return f"NDCG@{CUTOFF}{UNMASKED if 2 * sum(had) > len(users) else ''}"


def _targets(split: Split, part: str) -> np.ndarray:
    return split.validation_target if part == "validation" else split.test_target


def evaluated_users(split: Split, part: Literal["validation", "test"]) -> np.ndarray:
    """int64[users] with a target.

    Raises
    ------
    RecsysError
        When there are none.
    """
    users = np.flatnonzero(_targets(split, part) >= 0)
    if not len(users):
        raise RecsysError("no user has three events or more, so there is nothing to evaluate")
    return users


def _batches(
    users: np.ndarray, interactions: Interactions, split: Split, part: str, batch: int
) -> Iterator[tuple[np.ndarray, Tensor, list[np.ndarray]]]:
    """Indices of the users, their targets int64[B] and the events before them."""
    targets = _targets(split, part)
    held_out = 2 if part == "validation" else 1
    batch = max(1, min(batch, MOST_SCORES // len(interactions.items)))
    for start in range(0, len(users), batch):
        chosen = users[start : start + batch]
        histories = [interactions.of(user)[:-held_out] for user in chosen]
        yield chosen, torch.from_numpy(targets[chosen]).long(), histories


def _seen(histories: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Row and column int64[pairs] of the items that each history holds, each once."""
    seen = [np.unique(history).astype(np.int64) for history in histories]
    rows = np.repeat(np.arange(len(seen)), [len(items) for items in seen])
    return torch.from_numpy(rows), torch.from_numpy(np.concatenate(seen))


def _ranks(scores: Tensor, targets: Tensor, histories: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Ranks from 0, int64[B] each: with the history's items left out, and among all items."""
    at_target = scores.gather(1, targets[:, None])
    # What is not below stands above: so scores that are no numbers count against the model too.
    unmasked = scores.shape[1] - 1 - (scores < at_target).sum(1)
    # Few items are seen: counting those that stand above is cheaper than masking the scores.
    rows, columns = _seen(histories)
    above = (~(scores[rows, columns] < at_target[rows, 0])).to(torch.int64)
    masked = unmasked - torch.zeros_like(unmasked).index_add_(0, rows, above)
    repeated = rows[columns == targets[rows]]
    # Below every cut-off, however few items there are.
    masked[repeated] = torch.iinfo(masked.dtype).max
    return masked, unmasked


def _events(split: Split) -> np.ndarray:
    """int64[items] training events of each item."""
    return np.bincount(split.train.sequence, minlength=len(split.train.items))


def _metrics(masked: Tensor, unmasked: Tensor) -> dict[str, float]:
    figures: dict[str, float] = {}
    for ranks, suffix in ((masked, ""), (unmasked, UNMASKED)):
        hit = ranks < CUTOFF
        gain = torch.where(hit, 1 / torch.log2(ranks.double() + 2), 0.0)
        figures[f"HR@{CUTOFF}{suffix}"] = hit.double().mean().item()
        figures[f"NDCG@{CUTOFF}{suffix}"] = gain.mean().item()
    return figures | {"users": len(masked)}
