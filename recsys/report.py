"""The whole report on one model, and the comparison of two, with what chance could explain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.errors import RecsysError
from recsys.evaluate import UNMASKED, Ranking, Rankings
from recsys.metrics import (
    catalogue_coverage,
    discounted_gains,
    expected_calibration_error,
    gini_index,
    hits,
    list_popularity,
    long_tail_shares,
    reciprocal_ranks,
    target_calibration_error,
)
from recsys.significance import bootstrap_means, paired_permutation

# An item with fewer training events is cold: the usual 5-core would not keep it.
WARM_FROM = 5
# Histories are grouped from one of these lengths to below the next.
HISTORY_LENGTHS = (1, 5, 10, 20, 50)
ALPHA = 0.05


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval.

    Figures that are no means over users have none: a resample names some users twice, so it shows
    fewer distinct items and leaves larger gaps by chance, and the interval would lie beside the
    figure instead of around it. Neither has a figure of a single user.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Group:
    """Figures by name of some of the users, with the items of the history left out and without."""

    users: int
    masked: dict[str, Figure]
    unmasked: dict[str, Figure]


@dataclass(frozen=True)
class Report:
    """All figures of all users, and HR, NDCG and MRR of each group that has users."""

    whole: Group
    groups: dict[str, Group]


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same users.

    Attributes
    ----------
    first, second
        Its mean with each model.
    difference, low, high
        ``second - first`` with its 95 % interval.
    p
        Of the hypothesis that the models are equally good, not corrected for the number of metrics.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """Differences by metric.

    Attributes
    ----------
    metric
        The one that decides, as in training: NDCG with the items of the history left out, or
        ``NDCG@k unmasked`` where most targets are among these.
    """

    users: int
    metric: str
    masked: dict[str, Difference]
    unmasked: dict[str, Difference]

    @property
    def deciding(self) -> Difference:
        """That of `metric`."""
        name = self.metric.removesuffix(UNMASKED)
        return (self.masked if name == self.metric else self.unmasked)[name]

    @property
    def differs(self) -> bool:
        """Whether chance explains the deciding difference in fewer than 5 of 100 cases."""
        return self.deciding.p < ALPHA


def report(rankings: Rankings, *, seed: int = 0) -> Report:
    """Figures of one model.

    ``HR@k``, ``NDCG@k``, ``MRR`` · popularity bias: ``popularity@k`` (training events of what is
    recommended), ``long tail@k``, ``coverage@k``, ``Gini@k`` · calibration of the softmax:
    ``overconfidence`` (probability of the item on top minus how often it is right), ``ECE top`` and
    ``ECE target``. Their definitions and sources are in `recsys.metrics`.

    Parameters
    ----------
    seed
        Of the bootstrap: the same rankings and seed give the same intervals.
    """
    everyone = np.ones(len(rankings.users), dtype=bool)
    whole = Group(
        len(everyone),
        *(
            _figures(_of_users(ranking, rankings), everyone, seed)
            | {name: Figure(value) for name, value in _of_lists(ranking, rankings).items()}
            for ranking in (rankings.masked, rankings.unmasked)
        ),
    )
    accuracy = [_accuracy(ranking, rankings.k) for ranking in (rankings.masked, rankings.unmasked)]
    groups = {
        name: Group(int(chosen.sum()), *(_figures(columns, chosen, seed) for columns in accuracy))
        for name, chosen in _groups(rankings).items()
        if chosen.any()
    }
    return Report(whole, groups)


def compare(first: Rankings, second: Rankings, *, seed: int = 0) -> Comparison:
    """Differences between two models, user by user.

    Raises
    ------
    RecsysError
        When the rankings are of other users, targets or list lengths, or of fewer than two users.
    """
    if (
        first.k != second.k
        or not np.array_equal(first.users, second.users)
        or not np.array_equal(first.targets, second.targets)
    ):
        raise RecsysError("the models were evaluated on other users or items: nothing is paired")
    if len(first.users) < 2:
        raise RecsysError("there is one user to evaluate; a comparison needs two or more")
    had = np.isinf(first.masked.ranks)
    return Comparison(
        len(first.users),
        f"NDCG@{first.k}{UNMASKED if had.mean() > 0.5 else ''}",
        *(
            _differences(_of_users(one, first), _of_users(other, second), seed)
            for one, other in (
                (first.masked, second.masked),
                (first.unmasked, second.unmasked),
            )
        ),
    )


def _accuracy(ranking: Ranking, k: int) -> dict[str, np.ndarray]:
    return {
        f"HR@{k}": hits(ranking.ranks, k),
        f"NDCG@{k}": discounted_gains(ranking.ranks, k),
        "MRR": reciprocal_ranks(ranking.ranks),
    }


def _of_users(ranking: Ranking, rankings: Rankings) -> dict[str, np.ndarray]:
    """Metrics that are means over users: their values float[users]."""
    return _accuracy(ranking, rankings.k) | {
        f"popularity@{rankings.k}": list_popularity(ranking.recommended, rankings.item_events),
        f"long tail@{rankings.k}": long_tail_shares(ranking.recommended, rankings.item_events),
        "overconfidence": ranking.confidence - ranking.correct,
    }


def _of_lists(ranking: Ranking, rankings: Rankings) -> dict[str, float]:
    """Metrics that only all users together have."""
    items = len(rankings.item_events)
    return {
        f"coverage@{rankings.k}": catalogue_coverage(ranking.recommended, items),
        f"Gini@{rankings.k}": gini_index(ranking.recommended, items),
        "ECE top": expected_calibration_error(ranking.confidence, ranking.correct),
        "ECE target": target_calibration_error(ranking.above, ranking.including),
    }


def _groups(rankings: Rankings) -> dict[str, np.ndarray]:
    """bool[users] of each group: by training events of the target, and by length of history."""
    cold = rankings.item_events[rankings.targets] < WARM_FROM
    groups = {
        f"target with under {WARM_FROM} training events": cold,
        f"target with {WARM_FROM} or more": ~cold,
    }
    place = np.searchsorted(HISTORY_LENGTHS, rankings.events_before, side="right") - 1
    for number, start in enumerate(HISTORY_LENGTHS):
        last = number + 1 == len(HISTORY_LENGTHS)
        span = f"{start} or more" if last else f"{start} to {HISTORY_LENGTHS[number + 1] - 1}"
        groups[f"history of {span}"] = place == number
    return groups


def _figures(columns: dict[str, np.ndarray], chosen: np.ndarray, seed: int) -> dict[str, Figure]:
    values = np.stack([column[chosen] for column in columns.values()], axis=1)
    means = values.mean(0).tolist()
    if len(values) < 2:
        return {name: Figure(mean) for name, mean in zip(columns, means, strict=True)}
    low, high = bootstrap_means(values, seed=seed)
    return {
        name: Figure(*figure)
        for name, *figure in zip(columns, means, low.tolist(), high.tolist(), strict=True)
    }


def _differences(
    first: dict[str, np.ndarray], second: dict[str, np.ndarray], seed: int
) -> dict[str, Difference]:
    one, other = (np.stack(list(columns.values()), axis=1) for columns in (first, second))
    differences = other - one
    low, high = bootstrap_means(differences, seed=seed)
    columns = (one.mean(0), other.mean(0), differences.mean(0), low, high)
    p = paired_permutation(differences, seed=seed)
    return {
        name: Difference(*row)
        for name, *row in zip(first, *(column.tolist() for column in (*columns, p)), strict=True)
    }
