from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.interactions import Interactions
from recsys.data.split import leave_one_out
from recsys.errors import RecsysError
from recsys.evaluate import evaluate, popularity, rank
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from recsys.text import hash_texts

ITEMS = 25


def interactions_of(histories: list[list[int]]) -> Interactions:
    return Interactions(
        users=[str(user) for user in range(len(histories))],
        items=[str(item) for item in range(ITEMS)],
        offsets=np.cumsum([0] + [len(history) for history in histories]),
        sequence=np.array([item for history in histories for item in history], dtype=np.int32),
    )


def reference(scores: list[float], target: int, seen: set[int]) -> tuple[float, float]:
    """Hit and gain at 10 by sorting; equal scores go before the target."""
    candidates = [item for item in range(ITEMS) if item not in seen]
    ranked = sorted(candidates, key=lambda item: (-scores[item], item == target))
    if target not in ranked[:10]:
        return 0.0, 0.0
    return 1.0, 1 / math.log2(ranked.index(target) + 2)


HISTORIES = st.lists(
    st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=8), min_size=1, max_size=12
).filter(lambda histories: any(len(history) >= 3 for history in histories))


@given(HISTORIES, st.sampled_from(["validation", "test"]), st.integers(1, 5))
def test_the_figures_are_those_of_sorting_the_catalogue(
    histories: list[list[int]], part: str, batch: int
) -> None:
    torch.manual_seed(0)
    model = SequentialRecommender(ITEMS, Recipe(dimension=8, blocks=1, heads=1)).eval()
    interactions = interactions_of(histories)
    figures = evaluate(model, interactions, leave_one_out(interactions), part=part, batch=batch)

    masked, unmasked = [], []
    for history in (history for history in histories if len(history) >= 3):
        cut = len(history) - (2 if part == "validation" else 1)
        scores = model.scores(model.encode([history[:cut]]))[0].tolist()
        masked.append(reference(scores, history[cut], set(history[:cut])))
        unmasked.append(reference(scores, history[cut], set()))
    expected = [*np.mean(masked, axis=0), *np.mean(unmasked, axis=0), len(masked)]
    names = ["HR@10", "NDCG@10", "HR@10 unmasked", "NDCG@10 unmasked", "users"]
    assert figures == pytest.approx(dict(zip(names, expected, strict=True)))


def test_popularity_ranks_by_training_events_and_ties_count_against_it() -> None:
    # Items 0 to 8 are in training twice, item 9 once, and 10 to 24 never.
    histories = [[*range(9), 20, 20], [*range(10), 21, 9]]
    interactions = interactions_of(histories)
    figures = popularity(interactions, leave_one_out(interactions), part="test")
    # Unmasked, item 9 comes tenth; item 20 has 10 items above and 14 beside it.
    assert figures["NDCG@10 unmasked"] == pytest.approx(1 / math.log2(11) / 2)
    assert figures["HR@10 unmasked"] == 0.5
    # Masked, item 20 and item 9 were had before: nobody would be shown them.
    assert figures["HR@10"] == 0.0


def test_what_was_left_out_is_missed_in_a_catalogue_shorter_than_the_list_too() -> None:
    histories = [[0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 2]]
    interactions = dataclasses.replace(interactions_of(histories), items=list("abc"))
    figures = popularity(interactions, leave_one_out(interactions), part="test")
    # Two of three targets were had before; the third is the only item that is left.
    assert figures["HR@10"] == figures["NDCG@10"] == pytest.approx(1 / 3)
    assert figures["HR@10 unmasked"] == 1.0


def test_of_a_large_catalogue_few_users_are_scored_at_a_time(
    shop: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(dimension=8, blocks=1, heads=1)
    model = SequentialRecommender(len(shop.items), recipe, hash_texts(shop.item_text, 64))
    split, sizes, towers = leave_one_out(shop), [], []
    model.register_forward_hook(lambda _, given, states: sizes.append(len(given[0].groups)))
    model.text_tower.register_forward_hook(lambda *_: towers.append(1))
    whole = evaluate(model, shop, split, part="test")
    assert len(sizes) == len(towers) == 1
    monkeypatch.setattr("recsys.evaluate.MOST_SCORES", 10 * len(shop.items))
    assert evaluate(model, shop, split, part="test") == pytest.approx(whole)
    assert len(sizes) == 1 + 30 and len(towers) == 2, "the items' texts are read once"
    monkeypatch.setattr("recsys.evaluate.MOST_SCORES", 1)
    assert evaluate(model, shop.select([0]), leave_one_out(shop.select([0])), part="test")


def test_evaluation_leaves_the_model_in_its_mode(shop: Interactions) -> None:
    model = SequentialRecommender(len(shop.items), Recipe(dimension=8, blocks=1, heads=1)).train()
    evaluate(model, shop, leave_one_out(shop), part="test")
    assert model.training


def test_nobody_to_evaluate_is_said() -> None:
    interactions = interactions_of([[1, 2], [3]])
    with pytest.raises(RecsysError, match="no user has three events"):
        popularity(interactions, leave_one_out(interactions), part="test")


def test_a_model_that_has_diverged_hits_nothing_and_has_no_report(shop: Interactions) -> None:
    model = SequentialRecommender(len(shop.items), Recipe(dimension=8, blocks=1, heads=1))
    with torch.no_grad():
        model.item_embedding.weight.fill_(torch.nan)
    split = leave_one_out(shop)
    assert evaluate(model, shop, split, part="test")["NDCG@10 unmasked"] == 0.0
    with pytest.raises(RecsysError, match="scores are not finite.*lower learning rate"):
        rank(model, shop, split, part="test")


@settings(max_examples=50)
@given(HISTORIES, st.sampled_from(["validation", "test"]), st.integers(1, 30))
def test_rankings_are_those_of_sorting_the_catalogue(
    histories: list[list[int]], part: str, k: int
) -> None:
    torch.manual_seed(0)
    model = SequentialRecommender(ITEMS, Recipe(dimension=8, blocks=1, heads=1)).eval()
    interactions = interactions_of(histories)
    split = leave_one_out(interactions)
    with torch.no_grad():
        model._seen_bias.fill_(0.3)
    rankings = rank(model, interactions, split, part=part, k=k, batch=3)

    assert rankings.item_events.tolist() == [
        sum(row[: -2 if len(row) >= 3 else None].count(item) for row in histories)
        for item in range(ITEMS)
    ]
    evaluated = [user for user, history in enumerate(histories) if len(history) >= 3]
    assert rankings.users.tolist() == evaluated
    for row, user in enumerate(evaluated):
        cut = len(histories[user]) - (2 if part == "validation" else 1)
        before, target = histories[user][:cut], histories[user][cut]
        assert rankings.targets[row] == target and rankings.events_before[row] == cut
        scores = model.scores(model.encode([before]), [before])[0].tolist()
        for ranking, hidden in ((rankings.masked, set(before)), (rankings.unmasked, set())):
            order = sorted(set(range(ITEMS)) - hidden, key=lambda item: -scores[item])
            weights = {item: math.exp(scores[item]) for item in order}
            total = sum(weights.values())
            padded = (order + [-1] * ITEMS)[: min(k, ITEMS)]
            assert ranking.recommended[row].tolist() == padded
            assert ranking.confidence[row] == pytest.approx(weights[order[0]] / total, rel=1e-4)
            assert ranking.correct[row] == (order[0] == target)
            if target in hidden:
                assert ranking.ranks[row] == math.inf
                assert ranking.above[row] == ranking.including[row] == 1.0
            else:
                place = order.index(target)
                assert ranking.ranks[row] == place
                above = sum(weights[item] for item in order[:place]) / total
                assert ranking.above[row] == pytest.approx(above, abs=1e-5)
                including = above + weights[target] / total
                assert ranking.including[row] == pytest.approx(including, abs=1e-5)


def test_equal_scores_count_against_the_model_and_for_its_calibration(shop: Interactions) -> None:
    model = SequentialRecommender(len(shop.items), Recipe(dimension=8, blocks=1, heads=1))
    with torch.no_grad():
        model.item_embedding.weight.fill_(0.0)
    ranking = rank(model, shop, leave_one_out(shop), part="test").unmasked
    assert (ranking.ranks == len(shop.items) - 1).all()
    # Every item takes up the whole range: the uniform claim that it makes is not wrong anywhere.
    assert not ranking.above.any() and ranking.including == pytest.approx(1.0)


def test_somebody_who_had_everything_is_shown_nothing() -> None:
    interactions = interactions_of([[*range(ITEMS), 3]])
    model = SequentialRecommender(ITEMS, Recipe(dimension=8, blocks=1, heads=1, length=4))
    masked = rank(model, interactions, leave_one_out(interactions), part="test").masked
    assert (masked.recommended == -1).all()
    assert masked.ranks.tolist() == [math.inf] and masked.confidence.tolist() == [0.0]
    assert masked.above.tolist() == masked.including.tolist() == [1.0]
