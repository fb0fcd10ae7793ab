from __future__ import annotations

from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.interactions import Interactions
from recsys.errors import RecsysError
from recsys.explain import TOLERANCE, explain, integrated_gradients
from recsys.finetune import train_local
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe

ITEMS, K = 30, 3
RECIPE = Recipe(dimension=16, blocks=1, heads=2, length=6, dropout=0.0)


def random_model() -> SequentialRecommender:
    torch.manual_seed(3)
    return SequentialRecommender(ITEMS, RECIPE).eval()


@pytest.fixture(scope="module")
def trained(shop: Interactions) -> SequentialRecommender:
    torch.manual_seed(0)
    model = SequentialRecommender(len(shop.items), Recipe(dimension=16, blocks=1, length=20))
    train_local(model, shop, Recipe(dimension=16, blocks=1, length=20), epochs=2, seed=0)
    return model.eval()


def rank_without(model: SequentialRecommender, history: list[int], item: int, removed=()) -> int:
    """Rank from 1 by sorting, with every item of the whole history left out."""
    rest = [event for place, event in enumerate(history) if place not in removed]
    scores = model.scores(model.encode([rest]))[0].tolist()
    candidates = [other for other in range(model.items) if other not in history]
    ranked = sorted(candidates, key=lambda other: (-scores[other], other == item))
    return 1 + ranked.index(item)


def first_item(model: SequentialRecommender, history: list[int]) -> int:
    return min(
        (item for item in range(model.items) if item not in history),
        key=lambda item: rank_without(model, history, item),
    )


@settings(max_examples=20)
@given(st.lists(st.integers(0, ITEMS - 1), min_size=2, max_size=8))
def test_the_set_is_the_smallest_by_trying_all(history: list[int]) -> None:
    model = random_model()
    item = first_item(model, history)
    found = explain(model, history, item, K)

    seen = range(max(0, len(history) - RECIPE.length), len(history))
    expelling = [
        places
        for size in range(1, min(len(seen), len(history) - 1) + 1)
        for places in combinations(seen, size)
        if rank_without(model, history, item, places) > K
    ]
    if not expelling:
        assert found.counterfactual is None
        return
    change = found.counterfactual
    assert change.smallest and len(change.places) == len(expelling[0])
    assert change.rank == rank_without(model, history, item, change.places) > K


def test_without_the_set_the_item_is_replaced(shop, trained) -> None:
    histories = [shop.of(user).tolist() for user in range(10)]
    explained = (
        (history, explain(trained, history, first_item(trained, history), 10).counterfactual)
        for history in histories
    )
    history, change = next((history, change) for history, change in explained if change)
    assert rank_without(trained, history, change.successor) > 10
    assert rank_without(trained, history, change.successor, change.places) <= 10


class Scripted(SequentialRecommender):
    """Item 9's score is given for each set of events 0, 1 and 2 that a history still has."""

    SCORES = {
        (0, 1, 2): 1.0, (1, 2): 0.6, (0, 2): 0.7, (0, 1): 0.7, (0,): -0.5, (2,): 0.3, (1,): 0.3,
    }  # fmt: skip

    def encode(self, sequences):
        present = [tuple(event for event in (0, 1, 2) if event in history) for history in sequences]
        return torch.tensor([[self.SCORES.get(events, -1.0)] for events in present])

    def scores(self, state):
        return torch.cat([torch.zeros(len(state), 9), state, torch.zeros(len(state), 20)], dim=1)


def test_what_greed_took_in_vain_is_put_back(monkeypatch) -> None:
    # Event 0 alone helps most, but 1 and 2 together suffice, and 0 with either does not.
    monkeypatch.setattr("recsys.explain.EXHAUSTIVE", 0)
    change = explain(Scripted(ITEMS, RECIPE), [0, 1, 2, 5], 9, 1).counterfactual
    assert change.places == (1, 2) and not change.smallest


def test_beyond_what_can_be_tried_the_set_is_irreducible(monkeypatch) -> None:
    monkeypatch.setattr("recsys.explain.EXHAUSTIVE", 0)
    model, generator, k = random_model(), np.random.default_rng(0), 12
    sizes = []
    for _ in range(20):
        history = generator.integers(ITEMS, size=7).tolist()
        item = first_item(model, history)
        change = explain(model, history, item, k).counterfactual
        if change is None:
            continue
        sizes.append(len(change.places))
        assert change.smallest == (sizes[-1] == 1)
        assert rank_without(model, history, item, change.places) > k
        for place in change.places if sizes[-1] > 1 else ():
            assert rank_without(model, history, item, set(change.places) - {place}) <= k
    assert max(sizes) > 1


def test_effects_are_those_of_scoring_without_the_event(shop, trained) -> None:
    history = shop.of(1).tolist()
    item = first_item(trained, history)
    found = explain(trained, history, item, 10)
    assert found.rank == 1
    for effect in found.effects:
        rest = history[: effect.place] + history[effect.place + 1 :]
        score = trained.scores(trained.encode([rest]))[0, item].item()
        assert effect.score_drop == pytest.approx(found.score - score, abs=1e-4)
        assert effect.rank == rank_without(trained, history, item, [effect.place])
        assert effect.item == history[effect.place]


def test_integrated_gradients_sum_to_the_change_in_score(shop, trained) -> None:
    history = shop.of(2)
    item = first_item(trained, history.tolist())
    attributions, gap = integrated_gradients(trained, history, item)
    assert len(attributions) == min(len(history), 20) and gap <= TOLERANCE

    # The baseline by other means: a model whose every event has the mean embedding.
    blank = SequentialRecommender(trained.items, Recipe(dimension=16, blocks=1, length=20)).eval()
    blank.load_state_dict(trained.state_dict())
    with torch.no_grad():
        blank.item_embedding.weight[:] = trained.output_table.mean(0)
        baseline = (blank.encode([history]) @ trained.output_table[item]).item()
        score = trained.scores(trained.encode([history]))[0, item].item()
    assert attributions.sum() == pytest.approx(score - baseline, rel=2 * TOLERANCE)


def test_integrated_gradients_are_exact_where_the_score_is_linear(monkeypatch) -> None:
    model = random_model()
    weights = torch.linspace(1, 2, 4)

    def linear(packed, table):
        events = table[packed.items].view(-1, 4, RECIPE.dimension)
        return (weights[:, None] * events).cumsum(1).flatten(0, 1)

    monkeypatch.setattr(model, "forward", linear)
    attributions, gap = integrated_gradients(model, [4, 9, 2, 4], 7)
    table = model.output_table
    events = table[[4, 9, 2, 4]] - table.mean(0)
    expected = weights * (events @ table[7])
    np.testing.assert_allclose(attributions, expected.detach(), rtol=1e-4, atol=1e-5)
    assert gap < 1e-4


def test_removing_lets_older_events_move_up() -> None:
    model = random_model()
    history = [1, 2, 3, 4, 5, 6, 7, 8]
    found = explain(model, history, first_item(model, history), K)
    assert [effect.place for effect in found.effects] == [2, 3, 4, 5, 6, 7]


def test_an_item_that_nothing_can_expel_has_no_counterfactual() -> None:
    model = random_model()
    history = [1, 2, 3]
    found = explain(model, history, first_item(model, history), ITEMS)
    assert found.counterfactual is None


def test_the_model_is_left_as_it_was() -> None:
    model = random_model().train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    history = [1, 2, 3]
    first = explain(model, history, first_item(model.eval(), history), K)
    model.train()
    again = explain(model, history, first.item, K)
    assert model.training and asdict(again) == asdict(first)
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize(
    ("history", "item", "sentence"),
    [
        ([1, 2], ITEMS, "no item 30: the model knows the items 0 to 29"),
        ([1, 2], 2, "the item is in the user's history"),
        ([1], 2, "the history has 1 events"),
        ([], 2, "the history has 0 events"),
        ([1, 99], 2, "names item 99"),
    ],
)
def test_what_cannot_be_explained_is_said(history, item, sentence) -> None:
    with pytest.raises(RecsysError, match=sentence):
        explain(random_model(), history, item, K)


def test_an_item_outside_the_first_k_is_said_with_its_rank() -> None:
    model = random_model()
    last = max(
        (item for item in range(ITEMS) if item not in (1, 2)),
        key=lambda item: rank_without(model, [1, 2], item),
    )
    with pytest.raises(RecsysError, match="at rank 28, not among the first 3"):
        explain(model, [1, 2], last, K)


def test_scores_that_are_no_numbers_are_said() -> None:
    model = random_model()
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    with pytest.raises(RecsysError, match="score is nan"):
        explain(model, [1, 2], 5, K)
