from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from recsys.data.interactions import Interactions
from recsys.errors import RecsysError
from recsys.model import SequentialRecommender
from recsys.neighbours import neighbours
from recsys.objectives import (
    Contrastive,
    MaskedItem,
    MaskedText,
    NextItem,
    Pretraining,
    SkipGram,
    seen,
)
from recsys.packing import Packed, Windows, batches, pack, training_windows
from recsys.recipe import Recipe
from recsys.text import hash_texts

RECIPE = Recipe(dimension=16, blocks=1, heads=1, dropout=0.0, text_buckets=256, negatives=20)


@pytest.fixture
def model(shop: Interactions) -> SequentialRecommender:
    torch.manual_seed(0)
    return SequentialRecommender(60, RECIPE, hash_texts(shop.item_text, RECIPE.text_buckets)).eval()


@pytest.fixture
def windows(shop: Interactions) -> Windows:
    return training_windows(shop, RECIPE.length, targets=False)


def first_batch(windows: Windows, tokens: int) -> tuple[Packed, np.ndarray]:
    return pack(windows, batches(windows, tokens, np.random.default_rng(0))[0])


def loss_of(objective, model: SequentialRecommender) -> float:
    """The mean loss over the shop, from the same random numbers each time."""
    generator = np.random.default_rng(5)
    with torch.no_grad():
        losses = [
            objective(model, *pack(objective.windows, chosen), generator)[0].item()
            for chosen in batches(objective.windows, 512, np.random.default_rng(1))
        ]
    return float(np.mean(losses))


def train(objective, model: SequentialRecommender, steps: int = 60) -> None:
    generator = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    done = 0
    while done < steps:
        for chosen in batches(objective.windows, 512, generator):
            optimizer.zero_grad()
            objective(model, *pack(objective.windows, chosen), generator)[0].backward()
            optimizer.step()
            done += 1


@pytest.mark.parametrize("kind", [MaskedItem, SkipGram, Contrastive, MaskedText])
def test_each_pretraining_objective_is_learnt(
    kind: type, model: SequentialRecommender, windows: Windows
) -> None:
    objective = kind(windows, RECIPE)
    before = loss_of(objective, model)
    train(objective, model)
    assert loss_of(objective, model) < before - 0.1


def test_pretraining_is_the_weighted_sum_of_what_has_a_weight(
    shop: Interactions, model: SequentialRecommender, windows: Windows
) -> None:
    recipe = Recipe(
        **(RECIPE.to_dict() | {"masked_item": 0.0, "skip_gram": 2.0, "masked_text": 0.5})
    )
    whole = Pretraining(shop, recipe)
    packed, places = first_batch(whole.windows, 512)
    given, count = whole(model, packed, places, np.random.default_rng(3))
    generator = np.random.default_rng(3)
    expected = 2 * SkipGram(windows, recipe)(model, packed, places, generator)[0]
    expected += 0.5 * MaskedText(windows, recipe)(model, packed, places, generator)[0]
    torch.testing.assert_close(given, expected)
    assert count == len(packed.items)


def test_skip_gram_predicts_neighbours_of_the_same_session_only(
    model: SequentialRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sessions of their own items: a pair of items tells which session and how far apart.
    sequence = np.arange(60, dtype=np.int32)
    windows = Windows(sequence, np.array([0, 10, 12, 17]), np.array([10, 2, 5, 43]))
    pairs = []

    def record(states: torch.Tensor, table: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        centres = (states @ table.T - (table**2).sum(1) / 2).argmax(1)
        pairs.extend(zip(centres.tolist(), targets.tolist(), strict=True))
        return states.sum()

    monkeypatch.setattr("recsys.objectives.chunked_cross_entropy", record)
    objective = SkipGram(windows, RECIPE)
    generator = np.random.default_rng(0)
    for _ in range(20):
        for chosen in batches(windows, 60, generator):
            objective(model, *pack(windows, chosen), generator)
    session = np.repeat(np.arange(4), windows.lengths)
    assert all(session[a] == session[b] and 1 <= abs(a - b) <= 2 for a, b in pairs)
    assert {b - a for a, b in pairs} == {-2, -1, 1, 2}


def test_views_are_told_apart_by_session(model: SequentialRecommender, windows: Windows) -> None:
    packed, places = first_batch(windows, 400)
    loss, count = Contrastive(windows, RECIPE)(model, packed, places, np.random.default_rng(0))
    assert count == len(packed.last)
    assert 0 < loss.item() < math.log(count) + 20
    # Nothing is hidden and the sessions are one event long: both views are the same.
    alone = Windows(windows.sequence[:60], np.arange(60), np.ones(60, dtype=np.int64))
    same = Contrastive(alone, Recipe(**(RECIPE.to_dict() | {"mask_share": 1e-9})))
    packed, places = first_batch(alone, 60)
    states = F.normalize(model(packed), dim=1)
    expected = F.cross_entropy(states @ states.T / 0.1, torch.arange(len(states)))
    torch.testing.assert_close(
        same(model, packed, places, np.random.default_rng(0))[0], expected, rtol=1e-4, atol=1e-5
    )


def test_masked_text_names_one_hidden_feature_of_each_item_from_those_left(
    model: SequentialRecommender, windows: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower, asked = model.text_tower, []

    def record(states: torch.Tensor, table: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        asked.append((states, table, targets))
        return states.sum()

    # Each feature's vector is its own axis: a state shows what was left.
    tower.embedding.weight = torch.nn.Parameter(torch.eye(tower.embedding.num_embeddings))
    model.item_embedding = torch.nn.Embedding.from_pretrained(torch.zeros(61, 256))
    monkeypatch.setattr("recsys.objectives.chunked_cross_entropy", record)
    packed, places = first_batch(windows, 400)
    MaskedText(windows, RECIPE)(model, packed, places, np.random.default_rng(0))
    states, table, targets = asked[0]
    assert table is tower.embedding.weight
    bags = [set(row.nonzero()[:, 0].tolist()) for row in tower()]
    items = packed.items.unique().tolist()
    assert 0.9 * len(items) < len(targets) <= len(items)
    for state, target in zip(states, targets.tolist(), strict=True):
        left = set(state.nonzero()[:, 0].tolist())
        assert target not in left
        assert any(left | {target} <= bags[item] for item in items)


def test_without_texts_there_is_no_text_to_mask(windows: Windows) -> None:
    bare = SequentialRecommender(60, RECIPE)
    packed, places = first_batch(windows, 400)
    loss, count = MaskedText(windows, RECIPE)(bare, packed, places, np.random.default_rng(0))
    loss.backward()
    assert (loss.item(), count) == (0.0, 0)


def test_pretraining_without_events_is_refused(shop: Interactions) -> None:
    with pytest.raises(RecsysError, match="no training event to pretrain on"):
        Pretraining(shop.select([]), RECIPE)


def test_an_event_has_seen_itself_and_what_was_before_it_in_its_window() -> None:
    histories = [[7], [4, 4], [5, 0], [1, 2, 1, 3]]
    lengths = np.array([len(history) for history in histories])
    windows = Windows(np.concatenate(histories).astype(np.int32), lengths.cumsum() - lengths, lengths)
    events, items = seen(pack(windows, np.arange(4))[0], np.arange(9))
    given = [set(items[events == event].tolist()) for event in range(9)]
    assert given == [{7}, {4}, {4}, {5}, {5, 0}, {1}, {1, 2}, {1, 2}, {1, 2, 3}]
    assert events.tolist() == sorted(events.tolist()) and len(events) == sum(map(len, given))


def test_each_prediction_knows_what_its_event_knows() -> None:
    windows = Windows(np.array([5, 0, 2], dtype=np.int32), np.array([0]), np.array([3]))
    predictions, items = seen(pack(windows, np.arange(1))[0], np.array([0, 1, 2, 0, 1]))
    given = [set(items[predictions == prediction].tolist()) for prediction in range(5)]
    assert given == [{5}, {5, 0}, {5, 0, 2}, {5}, {5, 0}]
    assert predictions.tolist() == sorted(predictions.tolist())


@pytest.mark.parametrize(("texts", "reach"), [(False, 3), (True, 1)])
def test_an_event_predicts_those_that_follow_within_the_history(
    shop: Interactions, model: SequentialRecommender, texts: bool, reach: int
) -> None:
    data = shop if texts else replace(shop, item_text=None)
    objective = NextItem(data, RECIPE)
    predictions = 0
    for chosen in batches(objective.windows, 512, np.random.default_rng(1)):
        batch = pack(objective.windows, chosen)
        predictions += objective(model, *batch, np.random.default_rng(0))[1]
    lengths = np.diff(shop.offsets)
    assert predictions == sum(np.maximum(lengths - step, 0).sum() for step in range(1, reach + 1))


def test_far_events_are_learnt_where_they_are_predicted(shop: Interactions) -> None:
    # 0 to 9 each tell the item two events later, and what stands between is noise.
    random = np.random.default_rng(0)
    first = random.integers(0, 10, 400)
    noise = random.integers(20, 60, 400)
    data = replace(
        shop,
        offsets=np.arange(0, 1201, 3),
        sequence=np.stack([first, noise, first + 10], 1).ravel().astype(np.int32),
        users=[""] * 400,
        item_text=None,
    )
    found = {}
    for horizon in (1, 2):
        recipe = replace(RECIPE, horizon=horizon)
        torch.manual_seed(0)
        model = SequentialRecommender(60, recipe)
        train(NextItem(data, recipe), model)
        scores = model.eval().scores(model.encode([[item] for item in range(10)]))
        found[horizon] = scores.softmax(1)[torch.arange(10), torch.arange(10, 20)].mean().item()
    assert found[2] > 0.2 > 0.1 > found[1]


def test_whether_people_come_back_is_learnt(shop: Interactions) -> None:
    random = np.random.default_rng(0)
    walks = {
        "once": np.concatenate([random.permutation(60)[:10] for _ in range(100)]),
        "again": np.concatenate([random.permutation(60)[:5].repeat(2) for _ in range(100)]),
    }
    biases = {}
    for name, sequence in walks.items():
        data = replace(
            shop, offsets=np.arange(0, 1001, 10), sequence=sequence.astype(np.int32), users=[""] * 100
        )
        torch.manual_seed(0)
        model = SequentialRecommender(60, RECIPE)
        train(NextItem(data, RECIPE), model)
        biases[name] = model.seen_bias.item()
    assert biases["once"] < -1 < 0 < biases["again"]


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
@pytest.mark.parametrize("texts", [True, False])
def test_a_loss_that_looks_at_few_items_is_as_if_all_had_got_their_vectors(
    loss: str, texts: bool, shop: Interactions
) -> None:
    class OfAll(SequentialRecommender):
        def input_table(self, wanted: torch.Tensor | None = None) -> torch.Tensor:
            return super().input_table()

    data = shop if texts else replace(shop, item_text=None)
    recipe = replace(RECIPE, loss=loss, dropout=0.2)
    bags = hash_texts(shop.item_text, 256), None
    objective = NextItem(data, recipe)
    packed, places = first_batch(objective.windows, 30)
    found = []
    for kind in (SequentialRecommender, OfAll):
        torch.manual_seed(0)
        model = kind(60, recipe, *(bags if texts else (None, neighbours(data)))).train()
        torch.manual_seed(1)
        value, _ = objective(model, packed, places, np.random.default_rng(0))
        value.backward()
        found.append([value.detach(), *(weight.grad for weight in model.parameters())])
    for few, all_items in zip(*found, strict=True):
        torch.testing.assert_close(few, all_items, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", ["softmax", "sampled", "gbce"])
def test_each_loss_learns_the_next_item(
    loss: str, shop: Interactions, model: SequentialRecommender
) -> None:
    exact = NextItem(shop, RECIPE)
    before = loss_of(exact, model)
    train(NextItem(shop, Recipe(**(RECIPE.to_dict() | {"loss": loss}))), model)
    assert loss_of(exact, model) < before - 0.1
