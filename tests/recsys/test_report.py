from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out
from recsys.errors import RecsysError
from recsys.evaluate import Ranking, Rankings, evaluate, rank
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from recsys.report import compare, report


def rankings_of(ranks: list[float], events_before: list[int] | None = None) -> Rankings:
    """Users whose targets stand at these ranks; target 0 is cold, target 1 is warm, in turn."""
    users = len(ranks)
    ranking = Ranking(
        ranks=np.array(ranks, dtype=np.float64),
        recommended=np.tile(np.arange(10), (users, 1)),
        correct=np.array(ranks) == 0,
        confidence=np.full(users, 0.25),
        above=np.full(users, 0.5),
        including=np.full(users, 0.6),
    )
    return Rankings(
        k=10,
        users=np.arange(users),
        targets=np.arange(users) % 2,
        events_before=np.array(events_before or [3] * users),
        item_events=np.array([4, 5, *[9] * 18]),
        masked=ranking,
        unmasked=ranking,
    )


def model_of(shop: Interactions) -> SequentialRecommender:
    return SequentialRecommender(len(shop.items), Recipe(dimension=8, blocks=1, heads=1))


def test_the_report_agrees_with_what_training_measures(shop: Interactions) -> None:
    model, split = model_of(shop).train(), leave_one_out(shop)
    done = report(rank(model, shop, split, part="test"))
    figures = evaluate(model, shop, split, part="test")
    assert model.training
    assert done.whole.users == figures["users"] == 300
    for group, suffix in ((done.whole.masked, ""), (done.whole.unmasked, " unmasked")):
        for name in ("HR@10", "NDCG@10"):
            assert group[name].value == pytest.approx(figures[name + suffix])
            assert group[name].low < group[name].value < group[name].high
    parts = [group for name, group in done.groups.items() if name.startswith("history")]
    assert sum(group.users for group in parts) == 300
    mean = sum(group.users * group.masked["MRR"].value for group in parts) / 300
    assert mean == pytest.approx(done.whole.masked["MRR"].value)


def test_users_are_split_by_target_and_by_history() -> None:
    done = report(rankings_of([0, 99, 0, 99], events_before=[4, 5, 49, 50]))
    hit_rates = {name: group.masked["HR@10"].value for name, group in done.groups.items()}
    assert hit_rates == {
        "target with under 5 training events": 1.0,
        "target with 5 or more": 0.0,
        "history of 1 to 4": 1.0,
        "history of 5 to 9": 0.0,
        "history of 20 to 49": 1.0,
        "history of 50 or more": 0.0,
    }


def test_only_means_over_several_users_have_an_interval() -> None:
    done = report(rankings_of([0, 5, 30], events_before=[3, 3, 60]))
    without = {name for name, figure in done.whole.masked.items() if figure.low is None}
    assert without == {"coverage@10", "Gini@10", "ECE top", "ECE target"}
    assert done.groups["history of 50 or more"].masked["HR@10"].low is None
    assert done.groups["history of 1 to 4"].masked["NDCG@10"].low is not None


def test_popularity_bias_and_calibration_of_known_lists() -> None:
    masked = report(rankings_of([0, 5, 30, 8])).whole.masked
    assert masked["popularity@10"].value == pytest.approx((4 + 5 + 8 * 9) / 10)
    # The head is the first fifth of twenty items by events: items 2 to 5.
    assert masked["long tail@10"].value == pytest.approx(0.6)
    assert masked["coverage@10"].value == 0.5
    assert masked["overconfidence"].value == 0.0 and masked["ECE top"].value == 0.0


def test_a_better_model_is_told_from_chance() -> None:
    random = np.random.default_rng(0)
    ranks = random.integers(0, 40, 300)
    better = compare(rankings_of(ranks.tolist()), rankings_of((ranks // 2).tolist()))
    row = better.masked["NDCG@10"]
    assert better.metric == "NDCG@10" and better.differs
    assert 0 < row.low < row.difference < row.high and row.p < 0.01
    assert row.difference == pytest.approx(row.second - row.first)

    other = compare(rankings_of(ranks.tolist()), rankings_of(random.permutation(ranks).tolist()))
    assert not other.differs
    assert other.masked["NDCG@10"].low < 0 < other.masked["NDCG@10"].high


def test_where_most_people_come_back_for_what_they_had_that_decides() -> None:
    random = np.random.default_rng(0)
    ranks = random.integers(0, 40, 300)
    first, second = rankings_of(ranks.tolist()), rankings_of((ranks // 2).tolist())
    for had, metric in ((0.4, "NDCG@10"), (0.6, "NDCG@10 unmasked")):
        hidden = np.where(np.arange(300) < had * 300, np.inf, ranks)
        masked = dataclasses.replace(first.masked, ranks=hidden)
        done = compare(*(dataclasses.replace(one, masked=masked) for one in (first, second)))
        assert done.metric == metric
        assert done.differs is (metric == "NDCG@10 unmasked")
        assert (done.deciding.difference > 0) is done.differs


def test_a_model_does_not_differ_from_itself() -> None:
    same = compare(rankings_of([0, 3, 50]), rankings_of([0, 3, 50]))
    assert not same.differs and same.masked["MRR"].difference == 0.0 and same.masked["MRR"].p == 1.0


def test_other_users_are_not_compared() -> None:
    first = rankings_of([0, 3, 50])
    with pytest.raises(RecsysError, match="other users or items"):
        compare(first, dataclasses.replace(first, targets=first.targets + 1))
    with pytest.raises(RecsysError, match="two or more"):
        compare(rankings_of([0]), rankings_of([1]))
